"""A key in a slot of a Microchip ATECC508A or ATECC608, through Microchip's own `cryptoauthlib` (the extra `atecc`).

The chip makes the key (GenKey) and signs digests with it (Sign, mode external); no command reads it. The chip must be
configured and its configuration zone locked before, which is for ever and so not this program's business: Microchip's
tools do it, and boards with the chip mostly come that way. Points and signatures have the bytes of COSE already.
"""

from typing import Any

from pile_edge.signers.hardware import HardwareSigner, SignerError, number
from pile_shared.errors import ConfigError

LAST_SLOT = 15
DEFAULT_BUS = 1  # /dev/i2c-1, on the pin header of a Raspberry Pi
DEFAULT_ADDRESS = 0x60  # 7-bit; what Microchip ships
_FIRST_ADDRESS, _LAST_ADDRESS = 0x08, 0x77  # what I2C leaves to devices
_CONFIG_ZONE = 0
_NO_KEY = {"ATCA_EXECUTION_ERROR", "ATCA_STATUS_ECC"}  # how a chip says that a slot holds no private key


class Chip:
    """One opened chip. Each method raises SignerError, with the library's name of what went wrong."""

    def __init__(self, bus: int, address: int) -> None:
        """Open the chip at a 7-bit address of /dev/i2c-<bus>."""
        self._where = f"ATECC at {address:#x} of /dev/i2c-{bus}"
        self._lib: Any = _library()
        config = self._lib.cfg_ateccx08a_i2c_default()
        config.cfg.atcai2c.bus = bus
        config.cfg.atcai2c.address = address << 1  # the library counts the direction bit
        advice = (
            "check that I2C is on (raspi-config), that the user is in the group i2c, and `i2cdetect -y "
            + str(bus)
            + "`"
        )
        self._check("cannot be opened", self._lib.atcab_init(config), advice)
        locked = self._lib.AtcaReference(False)
        self._check("does not answer", self._lib.atcab_is_locked(_CONFIG_ZONE, locked), advice)
        if not locked.value:
            raise SignerError(
                self._where + ": its configuration is not locked, so it makes no keys; see docs/signers.md"
            )

    def public(self, slot: int) -> bytes | None:
        """The point of a slot's key, 65 bytes; None if there is no key."""
        point = bytearray(64)
        status = self._lib.atcab_get_pubkey(slot, point)
        if _name(self._lib, status) in _NO_KEY:
            return None
        self._check(f"does not tell the key of slot {slot}", status, "is it a slot for P-256 private keys?")
        return point_of(point)

    def make(self, slot: int) -> bytes:
        """Have the chip make a key, replacing any; its point, 65 bytes."""
        point = bytearray(64)
        status = self._lib.atcab_genkey(slot, point)
        self._check(f"makes no key in slot {slot}", status, "the slot must allow GenKey and not be locked")
        return point_of(point)

    def sign(self, slot: int, digest: bytes) -> bytes:
        """R || s, 64 bytes, over a digest of 32 bytes."""
        signature = bytearray(64)
        status = self._lib.atcab_sign(slot, digest, signature)
        self._check(
            f"does not sign with slot {slot}", status, "check the wiring; the slot must allow external signatures"
        )
        return signature_of(signature)

    def _check(self, what: str, status: int, advice: str) -> None:
        if status != 0:
            raise SignerError(f"{self._where}: {what}: {_name(self._lib, status)}: {advice}")


class AteccSigner(HardwareSigner):
    """A signer with a key in a slot of an opened chip."""

    def __init__(self, chip: Chip, slot: int, public: bytes) -> None:
        super().__init__(f"ATECC slot {slot}", public)
        self._chip = chip
        self._slot = slot

    def _sign_digest(self, digest: bytes) -> bytes:
        return self._chip.sign(self._slot, digest)


def open_atecc_signer(rest: str, *, make: bool) -> AteccSigner:
    """The signer of `<slot>[@<bus>[:<address>]]`; see `open_hardware_signer`."""
    slot_text, _, place = rest.partition("@")
    bus_text, _, address_text = place.partition(":")
    slot = number(slot_text, "the slot", 0, LAST_SLOT)
    bus = number(bus_text, "the I2C bus", 0, 255) if bus_text else DEFAULT_BUS
    address = (
        number(address_text, "the 7-bit address", _FIRST_ADDRESS, _LAST_ADDRESS) if address_text else DEFAULT_ADDRESS
    )
    chip = Chip(bus, address)
    public = chip.public(slot)
    if public is None:
        if not make:
            raise ConfigError(f"signer: ATECC slot {slot} has no key; make it: pile-edge key --config FILE --make")
        public = chip.make(slot)
    return AteccSigner(chip, slot, public)


def point_of(raw: bytes | bytearray) -> bytes:
    """An uncompressed point, 65 bytes, of the chip's x || y."""
    if len(raw) != 64:
        raise SignerError("ATECC: a public key must be 64 bytes")
    return b"\x04" + bytes(raw)


def signature_of(raw: bytes | bytearray) -> bytes:
    """R || s, 64 bytes, of the chip's r || s."""
    if len(raw) != 64:
        raise SignerError("ATECC: a signature must be 64 bytes")
    return bytes(raw)


def _library() -> Any:
    try:
        import cryptoauthlib
    except ImportError as error:
        advice = "pip install 'pilechain[atecc]' (on ARM it compiles: apt install cmake)"
        raise ConfigError("signer: atecc needs Microchip's library: " + advice) from error
    if cryptoauthlib.get_cryptoauthlib() is None:
        cryptoauthlib.load_cryptoauthlib()
    return cryptoauthlib


def _name(library: Any, status: int) -> str:
    try:
        return str(library.Status(status).name)
    except ValueError:
        return f"status {status}"
