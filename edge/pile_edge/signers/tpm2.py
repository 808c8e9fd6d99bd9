"""A key in a TPM 2.0, by the five commands that takes, spoken to the kernel's device without any library.

A Raspberry Pi needs the module and its overlay (`dtoverlay=tpm-slb9670`), nothing to install. The key is a primary key of the
owner hierarchy at a persistent handle: made by the TPM from its own seed, marked so that it can never be exported
(fixedTPM, fixedParent), for signing only, without a password and without the dictionary-attack lockout. The handle goes
into the key's template, so every handle has a key of its own; the same handle of the same TPM has the same one again
until the TPM is cleared. A key that other tools made there is taken too, if it is such a key.

Structures and codes: TCG TPM 2.0 Library, part 2 (structures) and part 3 (commands), revision 1.38; numbers are big-endian.
The device is a character device (one write is one command, one read its whole answer) or, for a simulated TPM, the
data socket of `swtpm socket --server type=unixio`.
"""

import os
import socket
import stat
import struct
import time
from types import TracebackType
from typing import Self

from pile_edge.signers.hardware import HardwareSigner, SignerError, number
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

DEFAULT_DEVICE = "/dev/tpmrm0"  # the kernel's resource manager: other programs may use the TPM at the same time
MAX_ANSWER_BYTES = 4096  # MAX_RESPONSE_SIZE of the PC Client profile
TRIES = 20  # of a command the TPM is too busy for; with growing pauses that is 2 s, a self-test takes less
ANSWER_TIMEOUT_S = 30  # of a socket; the kernel bounds a device itself

PERSISTENT_FIRST, PERSISTENT_LAST = 0x81000000, 0x817FFFFF  # those of the owner hierarchy
_OWNER, _NULL_HIERARCHY, _PASSWORD = 0x40000001, 0x40000007, 0x40000009
_NO_SESSIONS, _SESSIONS, _HASHCHECK = 0x8001, 0x8002, 0x8024  # structure tags
_EVICT_CONTROL, _CREATE_PRIMARY, _SIGN, _FLUSH_CONTEXT, _READ_PUBLIC = 0x120, 0x131, 0x15D, 0x165, 0x173
_SHA256, _NULL, _ECDSA, _ECC, _P256 = 0x000B, 0x0010, 0x0018, 0x0023, 0x0003
_FIXED_TPM, _FIXED_PARENT, _RESTRICTED, _SIGNS = 1 << 1, 1 << 4, 1 << 16, 1 << 18
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign
_ATTRIBUTES = _FIXED_TPM | _FIXED_PARENT | 1 << 5 | 1 << 6 | 1 << 10 | _SIGNS
_EMPTY_PASSWORD = struct.pack(">IHBH", _PASSWORD, 0, 0, 0)

_BUSY = {0x908, 0x90A, 0x920, 0x922}  # yielded, testing, NV rate, retry
_RC_HANDLE, _RC_AUTH_FAIL, _RC_BAD_AUTH = 0x8B, 0x8E, 0xA2  # without the number of the handle or parameter
_ADVICE = {
    0x100: "it was not started: the firmware or `swtpm_ioctl -i` must send TPM2_Startup",
    0x101: "it is in failure mode: cut its power; if that does not help, replace it",
    0x120: "the owner hierarchy is disabled",
    0x14B: "there is no room for another persistent key: remove one with `tpm2_evictcontrol`",
    0x14C: "something else lies at that handle: choose another",
    _RC_HANDLE: "it has no key at that handle: was the TPM cleared? (`pile-edge key --make` makes one)",
    0x902: "its memory is full: use /dev/tpmrm0, which manages it, not /dev/tpm0",
    0x921: "it is locked out after wrong passwords: wait, or `tpm2_dictionarylockout --clear-lockout`",
    _RC_AUTH_FAIL: "it asks for a password: only keys and an owner hierarchy without one are supported (docs/signers.md)",
    _RC_BAD_AUTH: "it asks for a password: only keys and an owner hierarchy without one are supported (docs/signers.md)",
}


class TpmError(SignerError):
    """A TPM's refusal. `rc` is its response code (part 2 section 6.6), without the number of the handle or parameter."""

    def __init__(self, message: str, rc: int) -> None:
        super().__init__(message)
        self.rc = rc


class Tpm:
    """One opened TPM; use it in a `with`. Every method raises SignerError if it cannot be reached, TpmError if it refuses."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._socket: socket.socket | None = None
        try:
            if stat.S_ISSOCK(os.stat(device).st_mode):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(ANSWER_TIMEOUT_S)
                self._socket.connect(device)
                self._fd = self._socket.fileno()
            else:
                self._fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
            raise SignerError(_open_advice(device, error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; the kernel's resource manager then forgets what was made but not kept."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)

    def public(self, handle: int) -> bytes:
        """The TPMT_PUBLIC of a loaded or persistent key (TPM2_ReadPublic)."""
        return _Reader(self.command(_READ_PUBLIC, struct.pack(">I", handle))).sized()

    def make_primary(self, template: bytes) -> int:
        """Make a primary key of the owner hierarchy (TPM2_CreatePrimary); its transient handle."""
        sensitive = _sized(_sized(b"") + _sized(b""))
        parameters = sensitive + _sized(template) + _sized(b"") + struct.pack(">I", 0)
        answer = self.command(_CREATE_PRIMARY, struct.pack(">I", _OWNER), parameters)
        return int(struct.unpack(">I", answer[:4])[0])

    def flush(self, transient: int) -> None:
        """Forget a loaded key (TPM2_FlushContext); without the kernel's resource manager it would stay until a power cut."""
        self.command(_FLUSH_CONTEXT, struct.pack(">I", transient))

    def persist(self, transient: int, handle: int) -> None:
        """Keep a loaded key at a persistent handle (TPM2_EvictControl), which must be free."""
        self.command(_EVICT_CONTROL, struct.pack(">II", _OWNER, transient), struct.pack(">I", handle))

    def sign(self, handle: int, digest: bytes) -> bytes:
        """R || s, 64 bytes, of an ECDSA signature over a SHA-256 digest (TPM2_Sign)."""
        scheme = struct.pack(">HH", _ECDSA, _SHA256)
        no_ticket = struct.pack(">HI", _HASHCHECK, _NULL_HIERARCHY) + _sized(b"")
        answer = self.command(_SIGN, struct.pack(">I", handle), _sized(digest) + scheme + no_ticket)
        reader = _Reader(answer[4:])  # after the size of the parameters
        if (reader.u16(), reader.u16()) != (_ECDSA, _SHA256):
            raise SignerError(f"TPM {self.device}: answers with another kind of signature")
        return _scalar(reader.sized()) + _scalar(reader.sized())

    def command(self, code: int, handles: bytes, parameters: bytes | None = None) -> bytes:
        """Send one command, again while the TPM is busy; the answer without its header.

        Args:
            code: TPM_CC.
            handles: The handle area, of which the first is authorised by an empty password if there are `parameters`.
            parameters: The parameter area; None for a command without authorisation.
        """
        body, tag = handles, _NO_SESSIONS
        if parameters is not None:
            body, tag = handles + struct.pack(">I", len(_EMPTY_PASSWORD)) + _EMPTY_PASSWORD + parameters, _SESSIONS
        message = struct.pack(">HII", tag, 10 + len(body), code) + body
        for attempt in range(TRIES):
            answer = self._exchange(message)
            rc = struct.unpack(">I", answer[6:10])[0]
            if rc == 0:
                return answer[10:]
            if rc not in _BUSY:
                break
            time.sleep(attempt / 100)
        plain = rc & 0xBF if rc & 0x80 else rc
        advice = _ADVICE.get(plain, "see `tpm2_rc_decode`")
        raise TpmError(f"TPM {self.device}: refuses command {code:#x} with {rc:#x}: {advice}", plain)

    def _exchange(self, message: bytes) -> bytes:
        try:
            if self._socket is None:
                os.write(self._fd, message)
                answer = os.read(self._fd, MAX_ANSWER_BYTES)
            else:
                self._socket.sendall(message)
                answer = self._received(10)
                answer += self._received(struct.unpack(">I", answer[2:6])[0] - 10)
        except OSError as error:
            raise SignerError(f"TPM {self.device}: does not answer: {error}") from error
        if len(answer) < 10 or struct.unpack(">I", answer[2:6])[0] != len(answer):
            raise SignerError(f"TPM {self.device}: answers something that is no TPM 2.0 response")
        return answer

    def _received(self, size_bytes: int) -> bytes:
        assert self._socket is not None
        data = b""
        while len(data) < size_bytes <= MAX_ANSWER_BYTES:
            part = self._socket.recv(size_bytes - len(data))
            if not part:
                raise OSError("connection closed")
            data += part
        return data


class Tpm2Signer(HardwareSigner):
    """A signer with a key at a persistent handle. The device is opened for each signature and so survives its restart."""

    def __init__(self, device: str, handle: int, public: bytes) -> None:
        super().__init__(f"TPM key {handle:#x} in {device}", public)
        self._device = device
        self._handle = handle

    def _sign_digest(self, digest: bytes) -> bytes:
        with Tpm(self._device) as tpm:
            return tpm.sign(self._handle, digest)


def open_tpm2_signer(rest: str, *, make: bool) -> Tpm2Signer:
    """The signer of `<handle>[@<device>]`; see `open_hardware_signer`."""
    text, _, device = rest.partition("@")
    device = device or DEFAULT_DEVICE
    handle = number(text, "the TPM's persistent handle", PERSISTENT_FIRST, PERSISTENT_LAST)
    with Tpm(device) as tpm:
        try:
            public = tpm.public(handle)
        except TpmError as error:
            if error.rc != _RC_HANDLE:
                raise
            if not make:
                message = f"signer: TPM {device} has no key at {handle:#x}; make it: pile-edge key --config FILE --make"
                raise ConfigError(message) from error
            transient = tpm.make_primary(key_template(handle))
            try:
                tpm.persist(transient, handle)
            finally:
                tpm.flush(transient)
            public = tpm.public(handle)
    try:
        return Tpm2Signer(device, handle, point_of(public))
    except SignerError as error:
        raise ConfigError(f"signer: TPM key {handle:#x} in {device} {error}; choose another handle") from error


def key_template(handle: int) -> bytes:
    """The TPMT_PUBLIC from which the TPM makes the key of a handle (part 2 section 12.2.4)."""
    head = struct.pack(">HHI", _ECC, _SHA256, _ATTRIBUTES) + _sized(b"")
    parameters = struct.pack(">HHHHH", _NULL, _ECDSA, _SHA256, _P256, _NULL)
    return head + parameters + _sized(sha256(f"pilechain pile key {handle:#x}".encode())) + _sized(b"")


def point_of(public: bytes) -> bytes:
    """The point, 04 || x || y, of a TPMT_PUBLIC; SignerError unless it is a P-256 key that signs digests and cannot leave."""
    reader = _Reader(public)
    if reader.u16() != _ECC:
        raise SignerError("is no elliptic curve key")
    reader.u16()
    attributes = reader.u32()
    if attributes & (_FIXED_TPM | _FIXED_PARENT) != _FIXED_TPM | _FIXED_PARENT:
        raise SignerError("can be copied out of the TPM (fixedTPM and fixedParent are not set)")
    if not attributes & _SIGNS or attributes & _RESTRICTED:
        raise SignerError("does not sign digests (it must have `sign` and not `restricted`)")
    reader.sized()  # policy: userWithAuth makes the empty password enough
    if reader.u16() != _NULL:  # of the symmetric cipher, which only a restricted decryption key has
        raise SignerError("has a symmetric cipher")
    scheme = reader.u16()
    if scheme != _NULL and (scheme, reader.u16()) != (_ECDSA, _SHA256):
        raise SignerError("does not sign with ECDSA and SHA-256")
    if reader.u16() != _P256:
        raise SignerError("is not on the curve P-256")
    if reader.u16() != _NULL:
        reader.u16()
    return b"\x04" + _scalar(reader.sized()) + _scalar(reader.sized())


class _Reader:
    """Takes a TPM's structure apart; SignerError when it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, size_bytes: int) -> bytes:
        part, self._data = self._data[:size_bytes], self._data[size_bytes:]
        if len(part) != size_bytes:
            raise SignerError("has a structure that ends too early")
        return part

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def sized(self) -> bytes:
        return self.take(self.u16())


def _sized(data: bytes) -> bytes:
    """A TPM2B: two bytes of length before the data."""
    return struct.pack(">H", len(data)) + data


def _scalar(data: bytes) -> bytes:
    """A number of a TPM, which may leave out leading zeros, as 32 bytes."""
    if len(data) > 32:
        raise SignerError("has a number of more than 32 bytes")
    return bytes(32 - len(data)) + data


def _open_advice(device: str, error: OSError) -> str:
    text = f"TPM {device}: cannot be opened: {error.strerror or error}"
    if isinstance(error, FileNotFoundError):
        return text + "; is there a TPM, and is its driver loaded (Raspberry Pi: dtoverlay=tpm-slb9670 in config.txt)?"
    if isinstance(error, PermissionError):
        return text + "; add the pile's user to the device's group: sudo usermod -aG tss <user>, then log in again"
    if error.errno == 16:  # EBUSY
        return text + "; another program holds it: use /dev/tpmrm0"
    return text
