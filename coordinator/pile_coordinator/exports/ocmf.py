"""OCMF records of a session: found in a folder copied from the pile, checked against the proofs, put into the S.A.F.E. XML.

The pile signs a record at begin and end and keeps it in a folder (docs/ocmf.md); nothing of it is on the chain. So a record
is trusted for what the chain knows already: it counts only if the contract's pile key signed it and every value the proof
has too is the proof's. Table numbers are those of "Open Charge Metering Format" 1.4.1 (SAFE-eV).
"""

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from pile_coordinator.exports.order import ExportError, Order
from pile_shared.errors import ConfigError
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

MAX_RECORD_BYTES = 2500  # signedMeterData of OCPP 2.0.1; the longest that a pile makes is 1,024
MAX_FOLDER_RECORDS = 1_000_000  # names in memory, some 200 MB: a year of 500,000 sessions
CONTRACT_DIGITS = 40  # of the contract id that a record names
OBIS_IMPORT = "01-00:01.08.00*FF"
SIGNATURE_ALGORITHM = "ECDSA-secp256r1-SHA256"
_NAME = re.compile(r"T\d{10}-\d{10}-(begin|end)-([0-9a-f]{40})\.ocmf")
_TIME_STATUS = "UISR"  # table 19, in the order of pile_shared.reading.TIME_*
_KINDS = {BEGIN: "begin", END: "end"}
_CONTEXTS = {"begin": "Transaction.Begin", "end": "Transaction.End"}
_ENDINGS = dict.fromkeys((REASON_VEHICLE_FULL, REASON_ENERGY_REACHED, REASON_WINDOW_END), "L") | {
    REASON_USER: "R",
    REASON_POWER_LOST: "P",
}
# SubjectPublicKeyInfo (RFC 5480) of an uncompressed P-256 point, up to the point
_KEY_INFO = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


@dataclass(frozen=True, slots=True)
class Record:
    """A record that fits its proof. kind: begin or end. pagination: its number, from 1. payload: what is signed."""

    kind: str
    pagination: int
    payload: str
    text: str


def public_key_info(public: bytes) -> bytes:
    """The SubjectPublicKeyInfo, 91 bytes, of an uncompressed point of 65 bytes."""
    return _KEY_INFO + public


def check_record(order: Order, text: str) -> Record | None:
    """The record, if the contract's pile signed it and it says what the session's begin or end proof says.

    None if that proof was not settled: a session may settle without its end, which the pile recorded all the same.

    Raises:
        ExportError: it is no OCMF record of ours, not signed by this pile, or differs from the proof; names the field.
    """
    payload, fields, signature = _parts(text)
    if not es256_verify(order.terms.pile_public, payload.encode(), signature):
        raise ExportError(
            f"an OCMF record is not signed by the key of {order.terms.pile}; was the key or file changed?"
        )
    event = BEGIN if fields["RD"][0]["TX"] == "B" else END
    proof = next((proof for proof in order.session if proof.event == event), None)
    if proof is None:
        return None
    _compare(order, proof, fields)
    return Record(_KINDS[event], int(fields["PG"][1:]), payload, text)


def check_records(order: Order, texts: list[str]) -> list[Record]:
    """The records of one session, begin before end; the same record twice counts once.

    Raises:
        ExportError: as check_record; or there are two different records of one event.
    """
    kept: dict[str, Record] = {}
    for text in texts:
        record = check_record(order, text)
        if record is not None and kept.setdefault(record.kind, record) != record:
            raise ExportError(
                f"two different OCMF {record.kind} records of contract {order.contract}; keep the pile's own"
            )
    return [kept[kind] for kind in _KINDS.values() if kind in kept]


def safe_xml(order: Order, records: list[Record]) -> str:
    """The records as the S.A.F.E. Transparency Software opens them; the transaction is numbered as its first record."""
    key = public_key_info(order.terms.pile_public).hex()
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<values>"]
    for record in records:
        lines += [
            f'  <value transactionId="{records[0].pagination}" context="{_CONTEXTS[record.kind]}">',
            f'    <signedData format="OCMF" encoding="plain">{escape(record.text)}</signedData>',
            f'    <publicKey encoding="plain">{key}</publicKey>',
            "  </value>",
        ]
    return "\n".join([*lines, "</values>", ""])


class RecordFolder:
    """Copies of piles' record folders, anywhere below one folder, indexed by contract. Reads names only until asked."""

    def __init__(self, folder: Path, *, max_records: int = MAX_FOLDER_RECORDS) -> None:
        """Index; ConfigError if there is no such folder or more than `max_records` records in it."""
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; copy the piles' record folders into it (docs/exports.md)")
        self._paths: dict[str, list[Path]] = {}
        found = 0
        for parent, _, names in os.walk(folder):
            for name in names:
                match = _NAME.fullmatch(name)
                if match is None:
                    continue
                found += 1
                if found > max_records:
                    raise ConfigError(f"more than {max_records} OCMF records in {folder}; export from several folders")
                self._paths.setdefault(match[2], []).append(Path(parent) / name)

    def texts(self, order: Order) -> list[str]:
        """The records that name a contract, unchecked; ExportError if a file cannot be read as one."""
        texts = []
        for path in sorted(self._paths.get(order.contract[:CONTRACT_DIGITS], [])):
            try:
                with path.open("rb") as file:
                    texts.append(file.read(MAX_RECORD_BYTES + 1).decode("ascii"))
            except (OSError, UnicodeDecodeError) as error:
                raise ExportError(f"{path} cannot be read as an OCMF record: {error}") from error
        return texts


def _parts(text: str) -> tuple[str, dict[str, Any], bytes]:
    """Payload, its fields (numbers as text) and the signature, r || s; ExportError unless it has the form ours have."""
    parts = text.split("|")
    if len(text) > MAX_RECORD_BYTES or len(parts) != 3 or parts[0] != "OCMF":
        raise ExportError(f"not an OCMF record of at most {MAX_RECORD_BYTES} bytes: {text[:40]!r}")
    try:
        fields = json.loads(parts[1], parse_float=str)
        signed = json.loads(parts[2])
        (reading,) = fields["RD"]
        if signed["SA"] != SIGNATURE_ALGORITHM or not re.fullmatch(r"T\d{1,10}", fields["PG"]) or "TX" not in reading:
            raise ExportError("an OCMF record of another signature algorithm or numbering than ours")
        r, s = decode_dss_signature(bytes.fromhex(signed["SD"]))
        return parts[1], fields, r.to_bytes(32, "big") + s.to_bytes(32, "big")
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError) as error:
        raise ExportError(f"an OCMF record is damaged: {type(error).__name__} {error}") from error


def _compare(order: Order, proof: Proof, fields: dict[str, Any]) -> None:
    """Each value that record and proof share. GV is the software's at that moment: an update may lie before the end."""
    terms, reading, said = order.terms, proof.readings[-1], fields["RD"][0]
    model = order.session[0].origin
    expected = {
        "GS": f"{order.chain_id}/{terms.pile}",
        "ID": order.contract[:CONTRACT_DIGITS],
        "MS": terms.meter_serial,
        "MM": model.model if model else None,
    }
    values = {
        "TM": f"{_timestamp(reading.time_ms)} {_TIME_STATUS[reading.time_status]}",
        "TX": "B" if proof.event == BEGIN else _ENDINGS.get(proof.reason, "A"),
        "RV": f"{reading.energy_wh // 1000}.{reading.energy_wh % 1000:03}",
        "RI": OBIS_IMPORT,
        "RU": "kWh",
        "ST": "G",
    }
    for shown, wanted in ((fields, expected), (said, values)):
        for name, value in wanted.items():
            if shown.get(name) != value:
                raise ExportError(f"an OCMF record says {name} {shown.get(name)!r}, the signed proof {value!r}")


def _timestamp(time_ms: int) -> str:
    """Table 7: UTC with milliseconds after a comma. From parts: a float of seconds would round."""
    at = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S},{time_ms % 1000:03}+0000"
