"""OCMF records as a coordinator checks them: by the pile's key, and against the signed proof whose reading they repeat.

Nothing of a record is on the chain, so it is believed only for what the chain knows already: every value that the proof has
too must be the proof's. Table numbers are those of "Open Charge Metering Format" 1.4.1 (SAFE-eV).
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from pile_shared.cose import low_s
from pile_shared.errors import PilechainError
from pile_shared.platform import es256_verify
from pile_shared.proof import (
    BEGIN,
    END,
    REASON_ENERGY_REACHED,
    REASON_POWER_LOST,
    REASON_USER,
    REASON_VEHICLE_FULL,
    REASON_WINDOW_END,
    Proof,
)
from pile_shared.record import MAX_RECORD_BYTES
from pile_shared.terms import Terms

CONTRACT_DIGITS = 40  # of the contract id that a record names
OBIS_IMPORT = "01-00:01.08.00*FF"
SIGNATURE_ALGORITHM = "ECDSA-secp256r1-SHA256"
KINDS = {BEGIN: "begin", END: "end"}
_SIGNATURE = '{{"SA":"ECDSA-secp256r1-SHA256","SE":"hex","SM":"application/x-der","SD":"{}"}}'
_TIME_STATUS = "UISR"  # table 19, in the order of pile_shared.reading.TIME_*
_ENDINGS = dict.fromkeys((REASON_VEHICLE_FULL, REASON_ENERGY_REACHED, REASON_WINDOW_END), "L") | {
    REASON_USER: "R",
    REASON_POWER_LOST: "P",
}


class RecordError(PilechainError):
    """A record that is refused: `damaged`, `bad_signature`, or `differs` from its proof; the message names the field."""

    code = "damaged"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A record taken apart, not yet checked.

    Attributes:
        text: the record. payload: what is signed. fields: of the payload, decimals as text. signature: r || s.
    """

    text: str
    payload: str
    fields: dict[str, Any]
    signature: bytes

    @property
    def event(self) -> int:
        """BEGIN or END."""
        return BEGIN if self.fields["RD"][0]["TX"] == "B" else END

    @property
    def pagination(self) -> int:
        """The number of the record, from 0 to 9,999,999,999."""
        return int(self.fields["PG"][1:])

    def check_signature(self, pile: str, public: bytes) -> None:
        """RecordError `bad_signature` unless this key (65 bytes) signed the payload; `pile` is for the message."""
        if not es256_verify(public, self.payload.encode(), self.signature):
            raise RecordError(
                f"an OCMF record is not signed by the key of {pile}; was the key or file changed?", "bad_signature"
            )


def parse_record(text: str) -> Parsed:
    """The parts of a record; RecordError `damaged` unless it has the form ours have."""
    parts = text.split("|")
    if len(text) > MAX_RECORD_BYTES or len(parts) != 3 or parts[0] != "OCMF":
        raise RecordError(f"not an OCMF record of at most {MAX_RECORD_BYTES} bytes: {text[:40]!r}")
    try:
        fields = json.loads(parts[1], parse_float=str)
        signed = json.loads(parts[2])
        (reading,) = fields["RD"]
        if (
            signed["SA"] != SIGNATURE_ALGORITHM
            or not re.fullmatch(r"T[0-9]{1,10}", fields["PG"])
            or not isinstance(reading, dict)  # "TX" may be in a list, too, and the pile's own key may sign that
            or "TX" not in reading
        ):
            raise RecordError("an OCMF record of another signature algorithm or numbering than ours")
        r, s = decode_dss_signature(bytes.fromhex(signed["SD"]))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError) as error:
        raise RecordError(f"an OCMF record is damaged: {type(error).__name__} {error}") from error
    # What follows the payload is not signed: were it free, whoever passes a record on could make another text of it.
    if parts[2] != _SIGNATURE.format(encode_dss_signature(r, s).hex()) or low_s(signature) != signature:
        raise RecordError("the signature of an OCMF record is not written as piles write it")
    return Parsed(text, parts[1], fields, signature)


def compare(record: Parsed, chain_id: str, terms: Terms, model: str | None, proof: Proof) -> None:
    """Each value that record and proof share. GV is the software's at that moment: an update may lie before the end.

    Args:
        record: by the pile's key.
        chain_id: of the contract.
        terms: of the contract.
        model: the meter's, as the begin proof of the session says.
        proof: the begin or end proof, with readings.

    Raises:
        RecordError: `differs`; names the field.
    """
    reading = proof.readings[-1]
    expected = {
        "GS": f"{chain_id}/{terms.pile}",
        "ID": terms.contract_id().hex()[:CONTRACT_DIGITS],
        "MS": terms.meter_serial,
        "MM": model,
    }
    values = {
        "TM": f"{_timestamp(reading.time_ms)} {_TIME_STATUS[reading.time_status]}",
        "TX": "B" if proof.event == BEGIN else _ENDINGS.get(proof.reason, "A"),
        "RV": f"{reading.energy_wh // 1000}.{reading.energy_wh % 1000:03}",
        "RI": OBIS_IMPORT,
        "RU": "kWh",
        "ST": "G",
    }
    for shown, wanted in ((record.fields, expected), (record.fields["RD"][0], values)):
        for name, value in wanted.items():
            if shown.get(name) != value:
                raise RecordError(
                    f"an OCMF record says {name} {shown.get(name)!r}, the signed proof {value!r}", "differs"
                )


def _timestamp(time_ms: int) -> str:
    """Table 7: UTC with milliseconds after a comma. From parts: a float of seconds would round."""
    at = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S},{time_ms % 1000:03}+0000"
