"""The metering proof: numbered, chained and signed readings of one pile.

A proof is a COSE_Sign1 whose payload is a map (docs/wire-format.cddl, `metering-proof`). `sequence` counts from 1 without
gaps; `previous` is the SHA-256 of the previous proof's bytes (zeros in the first), so that a pile cannot retell its past.
"""

from pile_shared import cose
from pile_shared.codec import decode, encode
from pile_shared.errors import ProofError
from pile_shared.platform import sha256
from pile_shared.reading import MAX_READINGS, Reading, decode_readings, encode_readings
from pile_shared.units import MAX_SEQUENCE, check_bytes, check_int, check_text

VERSION = 1
MAX_PROOF_BYTES = 2048  # 60 readings and the longest begin; a board keeps a few in RAM
NO_PREVIOUS = b"\x00" * 32

BEGIN, PERIODIC, END, HEARTBEAT, ALARM = 0, 1, 2, 3, 4
EVENT_NAMES = ("begin", "periodic", "end", "heartbeat", "alarm")

# Why a session ended or an alarm rose. The first four are the user's doing, the rest the pile's (ledger guide, "Cause").
REASON_USER, REASON_VEHICLE_FULL, REASON_ENERGY_REACHED, REASON_WINDOW_END = 1, 2, 3, 4
REASON_METER_SILENT, REASON_METER_FAULT, REASON_POWER_LOST, REASON_PILE_FAULT = 5, 6, 7, 8
USER_REASONS = (REASON_USER, REASON_VEHICLE_FULL, REASON_ENERGY_REACHED, REASON_WINDOW_END)
REASON_NAMES = (
    "none",
    "stopped by the user",
    "vehicle full",
    "contracted energy reached",
    "window ended",
    "meter silent",
    "meter fault",
    "power lost",
    "pile fault",
)

_SEQUENCE, _PREVIOUS, _CONTRACT, _EVENT, _REASON, _READINGS, _ORIGIN = 1, 2, 3, 4, 5, 6, 7


class Origin:
    """Where readings come from; carried by every begin proof: meter model and serial, profile id, firmware hash."""

    def __init__(self, model: str, serial: str, profile: str, firmware: bytes) -> None:
        self.model = check_text("model", model, 32)
        self.serial = check_text("serial", serial, 32)
        self.profile = check_text("profile", profile, 32)
        self.firmware = check_bytes("firmware", firmware, 8, 32)

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.model, self.serial, self.profile, self.firmware]


class Proof:
    """One proof's content. `contract` is the 32-byte contract id or None; `reason` is 0 unless the event is end or alarm."""

    def __init__(
        self,
        sequence: int,
        previous: bytes,
        contract: bytes | None,
        event: int,
        readings: list[Reading],
        reason: int = 0,
        origin: Origin | None = None,
    ) -> None:
        self.sequence = check_int("sequence", sequence, 1, MAX_SEQUENCE)
        self.previous = check_bytes("previous", previous, 32, 32)
        self.contract = contract if contract is None else check_bytes("contract", contract, 32, 32)
        self.event = check_int("event", event, BEGIN, ALARM)
        self.reason = check_int("reason", reason, 0, len(REASON_NAMES) - 1)
        self.readings = readings
        self.origin = origin
        self._check_shape()

    def _check_shape(self) -> None:
        if (self.reason != 0) != (self.event in {END, ALARM}):
            raise ProofError("end and alarm proofs carry a reason, others none", "malformed")
        if (self.origin is not None) != (self.event == BEGIN):
            raise ProofError("begin proofs name the meter, others do not", "malformed")
        if self.event in {BEGIN, PERIODIC, END} and (self.contract is None or not self.readings):
            raise ProofError("begin, periodic and end proofs carry a contract and a reading", "malformed")
        if len(self.readings) > MAX_READINGS:
            raise ProofError("a proof carries at most " + str(MAX_READINGS) + " readings", "malformed")
        for i in range(1, len(self.readings)):
            before, after = self.readings[i - 1], self.readings[i]
            if after.time_ms < before.time_ms or after.energy_wh < before.energy_wh:
                raise ProofError("readings of one proof must not run backwards", "malformed")

    def payload(self) -> bytes:
        """The deterministic CBOR that is signed."""
        fields = {
            0: VERSION,
            _SEQUENCE: self.sequence,
            _PREVIOUS: self.previous,
            _CONTRACT: self.contract,
            _EVENT: self.event,
            _READINGS: encode_readings(self.readings),
        }  # type: dict[int, object]
        if self.reason:
            fields[_REASON] = self.reason
        if self.origin is not None:
            fields[_ORIGIN] = self.origin.fields()
        return encode(fields)

    def sign(self, signer: cose.SoftwareSigner, chain_id: str) -> bytes:
        """The proof's bytes, as journalled, published, chained and settled."""
        message = cose.sign1(self.payload(), signer, cose.purpose(cose.PROOF, chain_id))
        if len(message) > MAX_PROOF_BYTES:
            raise ProofError("a proof must not exceed " + str(MAX_PROOF_BYTES) + " bytes", "oversized")
        return message


def proof_hash(message: bytes) -> bytes:
    """What the next proof names as `previous`."""
    return sha256(message)


def decode_payload(payload: bytes) -> Proof:
    """The content of a proof from its payload bytes; a typed error unless it is exactly one proof's encoding."""
    fields = decode(payload, MAX_PROOF_BYTES)
    if not isinstance(fields, dict) or fields.get(0) != VERSION or fields[0] is True:
        raise ProofError("not a version 1 proof", "malformed")
    known = {0, _SEQUENCE, _PREVIOUS, _CONTRACT, _EVENT, _READINGS}
    if not known <= set(fields) or not set(fields) <= known | {_REASON, _ORIGIN}:
        raise ProofError("unknown or missing fields", "malformed")
    reason = fields.get(_REASON, 0)
    if _REASON in fields and reason == 0:
        raise ProofError("a reason of zero is left out", "malformed")
    origin = None
    if _ORIGIN in fields:
        parts = fields[_ORIGIN]
        if not isinstance(parts, list) or len(parts) != 4:
            raise ProofError("origin must be [model, serial, profile, firmware]", "malformed")
        origin = Origin(*parts)
    return Proof(
        fields[_SEQUENCE],
        fields[_PREVIOUS],
        fields[_CONTRACT],
        fields[_EVENT],
        decode_readings(fields[_READINGS]),
        reason,
        origin,
    )


def parse(message: bytes) -> tuple[cose.Sign1, Proof]:
    """Parse a proof's bytes without trusting them: call `.verify(public, purpose)` on the first part."""
    signed = cose.parse1(message, MAX_PROOF_BYTES)
    return signed, decode_payload(signed.payload)


def open_proof(message: bytes, public: bytes, chain_id: str) -> Proof:
    """Verify and parse a proof: SignatureError, CodecError, BoundsError or ProofError if anything is wrong."""
    signed = cose.parse1(message, MAX_PROOF_BYTES)
    signed.verify(public, cose.purpose(cose.PROOF, chain_id))
    return decode_payload(signed.payload)
