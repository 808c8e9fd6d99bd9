"""OCMF records as OCPP 2.0.1 carries them: the SignedMeterValueType (part 2, data types), for a CSMS that wants it."""

from base64 import b64encode

from pile_coordinator.exports.exact import dumps
from pile_coordinator.exports.ocmf import Record, public_key_info
from pile_coordinator.exports.order import ExportError, Order
from pile_coordinator.ocmf import SIGNATURE_ALGORITHM

MAX_DATA = 2500  # characters of signedMeterData and of publicKey


def signed_meter_values(order: Order, records: list[Record]) -> list[dict[str, object]]:
    """One value per record; the key as "Signed Meter Values in OCPP" (Open Charge Alliance) writes it.

    Raises:
        ExportError: a record is too long for the field, which none that a pile makes is.
    """
    named = f"oca:base16:asn1:{public_key_info(order.terms.pile_public).hex()}"
    values: list[dict[str, object]] = []
    for record in records:
        data = b64encode(record.text.encode()).decode()
        if len(data) > MAX_DATA:
            raise ExportError(
                f"an OCMF record of {len(record.text)} bytes does not fit into OCPP's {MAX_DATA} characters"
            )
        values.append(
            {
                "signedMeterData": data,
                "signingMethod": SIGNATURE_ALGORITHM,
                "encodingMethod": "OCMF",
                "publicKey": b64encode(named.encode()).decode(),
            }
        )
    return values


def signed_meter_values_json(order: Order, records: list[Record]) -> bytes:
    """The values as a JSON array; ExportError as signed_meter_values."""
    return (dumps(list(signed_meter_values(order, records))) + "\n").encode()
