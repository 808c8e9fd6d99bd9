"""Typed errors with stable codes. The code crosses the wire and stands in logs and counters; the message is for people."""


class PilechainError(Exception):
    """Base of everything this project raises on purpose. `code` is stable; never reuse one for another meaning."""

    code = "error"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message


class CodecError(PilechainError):
    """Bytes that are not the one deterministic CBOR encoding of an allowed value."""

    code = "codec"


class BoundsError(PilechainError):
    """A value outside the range its field allows."""

    code = "bounds"


class SignatureError(PilechainError):
    """A COSE_Sign1 that is malformed, by an unknown key, or whose signature does not verify."""

    code = "signature"


class ProofError(PilechainError):
    """A metering proof that is well signed but breaks its chain, order or physics."""

    code = "proof"


class CertificateError(PilechainError):
    """A block certificate or inclusion path that does not lead to the pinned validator set."""

    code = "certificate"


class ConfigError(PilechainError):
    """A configuration that names a wrong value; the message names file, key and expected form."""

    code = "config"


class BusError(PilechainError):
    """A Modbus exchange that gave no trustworthy answer: `timeout`, `crc`, `frame`, `exception` or `closed`."""

    code = "bus"


class LinkError(PilechainError):
    """The MQTT connection could not be made or was lost."""

    code = "link"


class JournalError(PilechainError):
    """The journal on flash cannot be written or is full of records that must not be dropped."""

    code = "journal"
