"""The CDR of OCPI 2.2.1 as its specification lists it: name, type and cardinality of every field, as a JSON Schema.

Written from the tables of "OCPI 2.2.1", chapters 10.3 (CDR object), 10.4 (data types) and 16 (types), not from our code.
Cardinality: 1 required, ? optional, + a list of one or more, * a list. Number: whole digits and decimals, no exponent.
"""

_ASCII = "^[\\x20-\\x7e]*$"
_DATE_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z?$"
_CLASSES = {
    "CDR": """
country_code               CiString(2)     1
party_id                   CiString(3)     1
id                         CiString(39)    1
start_date_time            DateTime        1
end_date_time              DateTime        1
session_id                 CiString(36)    ?
cdr_token                  CdrToken        1
auth_method                AuthMethod      1
authorization_reference    CiString(36)    ?
cdr_location               CdrLocation     1
meter_id                   string(255)     ?
currency                   string(3)       1
charging_periods           ChargingPeriod  +
signed_data                SignedData      ?
total_cost                 Price           1
total_fixed_cost           Price           ?
total_energy               number          1
total_energy_cost          Price           ?
total_time                 number          1
total_time_cost            Price           ?
total_parking_time         number          ?
total_parking_cost         Price           ?
total_reservation_cost     Price           ?
remark                     string(255)     ?
invoice_reference_id       CiString(39)    ?
credit                     boolean         ?
credit_reference_id        CiString(39)    ?
home_charging_compensation boolean         ?
last_updated               DateTime        1
""",
    "CdrToken": """
country_code CiString(2)  1
party_id     CiString(3)  1
uid          CiString(36) 1
type         TokenType    1
contract_id  CiString(36) 1
""",
    "CdrLocation": """
id                   CiString(36)    1
name                 string(255)     ?
address              string(45)      1
city                 string(45)      1
postal_code          string(10)      ?
state                string(20)      ?
country              string(3)       1
coordinates          GeoLocation     1
evse_uid             CiString(36)    1
evse_id              CiString(48)    1
connector_id         CiString(36)    1
connector_standard   ConnectorType   1
connector_format     ConnectorFormat 1
connector_power_type PowerType       1
""",
    "GeoLocation": """
latitude  Latitude  1
longitude Longitude 1
""",
    "ChargingPeriod": """
start_date_time DateTime     1
dimensions      CdrDimension +
tariff_id       CiString(36) ?
""",
    "CdrDimension": """
type   CdrDimensionType 1
volume number           1
""",
    "Price": """
excl_vat number 1
incl_vat number ?
""",
    "SignedData": """
encoding_method         CiString(36) 1
encoding_method_version int          ?
public_key              string(512)  ?
signed_values           SignedValue  +
url                     string(512)  ?
""",
    "SignedValue": """
nature      CiString(32)  1
plain_data  string(512)   1
signed_data string(5000)  1
""",
}
_ENUMS = {
    "AuthMethod": ["AUTH_REQUEST", "COMMAND", "WHITELIST"],
    "TokenType": ["AD_HOC_USER", "APP_USER", "OTHER", "RFID"],
    "ConnectorFormat": ["SOCKET", "CABLE"],
    "PowerType": ["AC_1_PHASE", "AC_2_PHASE", "AC_2_PHASE_SPLIT", "AC_3_PHASE", "DC"],
    # Without those that are for sessions only.
    "CdrDimensionType": [
        *("ENERGY", "MAX_CURRENT", "MIN_CURRENT", "MAX_POWER", "MIN_POWER", "PARKING_TIME", "RESERVATION_TIME", "TIME"),
    ],
    "ConnectorType": [
        *("CHADEMO", "CHAOJI", "GBT_AC", "GBT_DC", *(f"DOMESTIC_{letter}" for letter in "ABCDEFGHIJKLMNO")),
        *("IEC_60309_2_single_16", "IEC_60309_2_three_16", "IEC_60309_2_three_32", "IEC_60309_2_three_64"),
        *("IEC_62196_T1", "IEC_62196_T1_COMBO", "IEC_62196_T2", "IEC_62196_T2_COMBO", "IEC_62196_T3A", "IEC_62196_T3C"),
        *("NEMA_5_20", "NEMA_6_30", "NEMA_6_50", "NEMA_10_30", "NEMA_10_50", "NEMA_14_30", "NEMA_14_50"),
        *("PANTOGRAPH_BOTTOM_UP", "PANTOGRAPH_TOP_DOWN", "TESLA_R", "TESLA_S"),
    ],
}
_BASE = {
    "number": {"type": "number"},
    "int": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "DateTime": {"type": "string", "maxLength": 25, "pattern": _DATE_TIME},
    "Latitude": {"type": "string", "maxLength": 10, "pattern": r"^-?[0-9]{1,2}\.[0-9]{5,7}$"},
    "Longitude": {"type": "string", "maxLength": 11, "pattern": r"^-?[0-9]{1,3}\.[0-9]{5,7}$"},
}


def _type(name):
    kind, _, length = name.partition("(")
    if kind in {"CiString", "string"}:
        pattern = {"pattern": _ASCII} if kind == "CiString" else {}
        return {"type": "string", "minLength": 1, "maxLength": int(length[:-1])} | pattern
    if kind in _ENUMS:
        return {"enum": _ENUMS[kind]}
    return _BASE.get(kind) or {"$ref": f"#/$defs/{kind}"}


def _class(table):
    rows = [line.split() for line in table.strip().splitlines()]
    fields = {
        name: {"type": "array", "items": _type(kind)} | ({"minItems": 1} if count == "+" else {})
        if count in "+*"
        else _type(kind)
        for name, kind, count in rows
    }
    required = [name for name, _, count in rows if count in "1+"]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


# A normal CDR's id is shorter than that of a credit note, which names the record that it credits.
CDR_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {name: _class(table) for name, table in _CLASSES.items()},
    "$ref": "#/$defs/CDR",
    "if": {"properties": {"credit": {"const": True}}, "required": ["credit"]},
    "then": {"required": ["credit_reference_id"]},
    "else": {"properties": {"id": {"maxLength": 36}, "credit_reference_id": False}},
}

# OCPP 2.0.1, part 3, the JSON schema of MeterValuesRequest: SignedMeterValueType.
SIGNED_METER_VALUE_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "signedMeterData": {"type": "string", "maxLength": 2500},
        "signingMethod": {"type": "string", "maxLength": 50},
        "encodingMethod": {"type": "string", "maxLength": 50},
        "publicKey": {"type": "string", "maxLength": 2500},
    },
    "required": ["signedMeterData", "signingMethod", "encodingMethod", "publicKey"],
}
