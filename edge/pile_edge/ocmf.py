"""OCMF 1.4.1: a begin or end record as text, signed. What the S.A.F.E. Transparency Software and OCPP understand.

`OCMF|{payload}|{signature}`; what is signed is the payload's text, byte for byte. It is a second signature by the same key:
a proof's is over a COSE Sig_structure, which begins with the byte 84, an OCMF payload with 7B, so one is never the other.
One record holds one reading, for the Transparency Software refuses an end record that holds a begin reading too.
Table numbers below are those of "Open Charge Metering Format" 1.4.1 (SAFE-eV).
"""

from binascii import hexlify

from pile_shared.cose import low_s
from pile_shared.proof import (
    BEGIN,
    REASON_ENERGY_REACHED,
    REASON_POWER_LOST,
    REASON_USER,
    REASON_VEHICLE_FULL,
    REASON_WINDOW_END,
    Origin,
    Proof,
)

FORMAT_VERSION = "1.0"  # uses nothing newer; the Transparency Software 1.4 refuses all above 1.3 (its issue 50)
MAX_RECORD_BYTES = 2500  # SignedMeterValueType.signedMeterData of OCPP 2.0.1
CONTRACT_DIGITS = 40  # of the contract id: section "Type" provides 40 bytes for identification data
OBIS_IMPORT = "01-00:01.08.00*FF"  # active import, total; law-relevant where A = 1, C = 1, D = 8, F = FF
_TIME_STATUS = "UISR"  # table 19, in the order of pile_shared.reading.TIME_*
# SubjectPublicKeyInfo (RFC 5480) of an uncompressed P-256 point, up to the point
_KEY_INFO = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"


def make_record(proof: Proof, pagination: int, place: str, origin: Origin, signer) -> str:  # type: ignore[no-untyped-def] # noqa: ANN001 - any signer
    """The signed record of a begin or end proof: its last reading.

    Args:
        proof: A BEGIN or END; the energy is its reading's, in kWh with three decimals, which is exactly its Wh.
        pagination: Number of the record, from 1, one more than that of the record before.
        place: Which pile this is, for GS: chain and pile id.
        origin: Meter and firmware.
        signer: With `sign(message)`.

    Returns:
        ASCII text of at most MAX_RECORD_BYTES; the same for the same arguments if the signer is deterministic.
    """
    assert proof.contract is not None
    payload = _payload(proof, pagination, place, origin)
    signature = der_signature(low_s(signer.sign(payload.encode())))
    return (
        "OCMF|"
        + payload
        + '|{"SA":"ECDSA-secp256r1-SHA256","SE":"hex","SM":"application/x-der","SD":"'
        + hexlify(signature).decode()
        + '"}'
    )


def _payload(proof: Proof, pagination: int, place: str, origin: Origin) -> str:
    reading = proof.readings[-1]
    energy_wh = reading.energy_wh
    decimals = str(1000 + energy_wh % 1000)[1:]
    assert proof.contract is not None
    # CERTIFIED (table 11): the user's signature over the start message, checked by the pile, says whose contract it is.
    return "".join(
        (
            '{"FV":"' + FORMAT_VERSION + '","GI":"Pilechain","GS":',
            quoted(place),
            ',"GV":"' + hexlify(origin.firmware[:8]).decode() + '","PG":"T' + str(pagination),
            '","MM":' + quoted(origin.model) + ',"MS":' + quoted(origin.serial),
            ',"IS":true,"IL":"CERTIFIED","IF":[],"IT":"CENTRAL","ID":"',
            hexlify(proof.contract).decode()[:CONTRACT_DIGITS],
            '","RD":[{"TM":"' + timestamp(reading.time_ms) + " " + _TIME_STATUS[reading.time_status],
            '","TX":"' + transaction_code(proof.event, proof.reason),
            '","RV":' + str(energy_wh // 1000) + "." + decimals,
            ',"RI":"' + OBIS_IMPORT + '","RU":"kWh","RT":"AC","EF":"","ST":"G"}]}',
        )
    )


def transaction_code(event: int, reason: int) -> str:
    """TX (table 7): B, or how it ended: R by the user's message, L by the pile's rules, P power lost, A a fault."""
    if event == BEGIN:
        return "B"
    if reason == REASON_USER:
        return "R"
    if reason in (REASON_VEHICLE_FULL, REASON_ENERGY_REACHED, REASON_WINDOW_END):
        return "L"
    return "P" if reason == REASON_POWER_LOST else "A"


def timestamp(time_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds after a comma, as table 7 wants it; `time_ms` is unix milliseconds."""
    # Days to a date by eras of 400 years that begin in March, so that the leap day comes last; boards count from 2000.
    days = time_ms // 86_400_000 + 719_468
    era_day = days % 146_097
    year = (era_day - era_day // 1_460 + era_day // 36_524 - era_day // 146_096) // 365
    year_day = era_day - (365 * year + year // 4 - year // 100)
    from_march = (5 * year_day + 2) // 153
    day = year_day - (153 * from_march + 2) // 5 + 1
    month = from_march + 3 if from_march < 10 else from_march - 9
    year += days // 146_097 * 400 + (1 if month <= 2 else 0)
    seconds = time_ms // 1000 % 86_400
    date = _digits(year, 4) + "-" + _digits(month, 2) + "-" + _digits(day, 2)
    clock = _digits(seconds // 3600, 2) + ":" + _digits(seconds // 60 % 60, 2) + ":" + _digits(seconds % 60, 2)
    return date + "T" + clock + "," + _digits(time_ms % 1000, 3) + "+0000"


def _digits(value: int, width: int) -> str:
    return str(10**width + value)[1:]


def quoted(text: str) -> str:
    """Printable ASCII as a JSON string; "|" is escaped too, for it parts the sections of a record wherever it stands."""
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("|", "\\u007c")):
        text = text.replace(character, escape)
    return '"' + text + '"'


def der_signature(signature: bytes) -> bytes:
    """An ECDSA-Sig-Value (RFC 3279 section 2.2.3) of r || s, 64 bytes."""
    body = _der_integer(signature[:32]) + _der_integer(signature[32:])
    return b"\x30" + bytes((len(body),)) + body


def _der_integer(data: bytes) -> bytes:
    while len(data) > 1 and data[0] == 0:
        data = data[1:]
    if data[0] & 0x80:
        data = b"\x00" + data
    return b"\x02" + bytes((len(data),)) + data


def public_key_info(public: bytes) -> bytes:
    """The SubjectPublicKeyInfo, 91 bytes, by which OCMF names a key, of an uncompressed point of 65 bytes."""
    return _KEY_INFO + public
