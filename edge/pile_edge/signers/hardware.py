"""Keys inside a chip: what a TPM and a secure element share. CPython only; a board has no such chip here."""

from pile_shared.cose import key_id, low_s
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import es256_verify, sha256

FORMS = '"file:<path>", "tpm2:<handle>[@<device>]" or "atecc:<slot>[@<bus>[:<address>]]"'


class SignerError(PilechainError):
    """A chip that does not sign: the message names the device and what to check."""

    code = "signer"


class HardwareSigner:
    """A signer whose secret no program can read; the same `public`, `kid` and `sign` as a key in memory.

    Attributes:
        public: 65 bytes, 04 || x || y. kid: 8 bytes.
    """

    def __init__(self, where: str, public: bytes) -> None:
        """Take the name of the key for messages, and its public point."""
        self._where = where
        self.public = public
        self.kid = key_id(public)

    def sign(self, message: bytes) -> bytes:
        """R || s (64 bytes) over SHA-256 of `message`, s at most n / 2, verified before it is given out.

        Chips draw nonces at random and know nothing of low s. The check costs 0.1 ms beside the 10 to 500 ms of the chip,
        and keeps what a disturbed bus or a key replaced since boot made out of the chain of proofs.

        Raises:
            SignerError: the chip does not answer, refuses, or signs something else.
        """
        signature = low_s(self._sign_digest(sha256(message)))
        if not es256_verify(self.public, message, signature):
            raise SignerError(f"{self._where}: its signature does not verify; was the key replaced? Restart the pile")
        return signature

    def _sign_digest(self, digest: bytes) -> bytes:
        """R || s (64 bytes) by the chip, over a digest of 32 bytes."""
        raise NotImplementedError


def open_hardware_signer(uri: str, *, make: bool = False) -> HardwareSigner:
    """The signer in a chip that a URI names.

    Args:
        uri: `tpm2:<handle>[@<device>]` or `atecc:<slot>[@<bus>[:<address>]]`.
        make: Have the chip make a key where there is none; one that is there is never replaced.

    Raises:
        ConfigError: unknown kind, bad form, no key and not to be made. SignerError: the chip cannot be reached or refuses.
    """
    kind, _, rest = check_uri(uri).partition(":")
    if kind == "tpm2":
        from pile_edge.signers.tpm2 import open_tpm2_signer

        return open_tpm2_signer(rest, make=make)
    from pile_edge.signers.atecc import open_atecc_signer

    return open_atecc_signer(rest, make=make)


def check_uri(uri: str) -> str:
    """`uri` if it is of a kind of chip; ConfigError names all kinds of signer."""
    kind, _, rest = uri.partition(":")
    if kind not in {"tpm2", "atecc"} or not rest:
        raise ConfigError(f"signer must be {FORMS}, not {uri!r}")
    return uri


def number(text: str, name: str, low: int, high: int) -> int:
    """A decimal or 0x number of a URI in [low, high]; ConfigError names it."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not low <= value <= high:
        raise ConfigError(f"signer: {name} must be {low:#x} to {high:#x}, not {text!r}")
    return value
