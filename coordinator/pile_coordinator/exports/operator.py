"""The operator's file (TOML): what an OCPI record says that no chain knows: who sends it, its VAT, where its piles stand."""

import re
from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.config import load_toml
from pile_coordinator.exports.order import ExportError
from pile_shared.errors import ConfigError

_COUNTRY, _PARTY = r"[A-Z]{2}", r"[A-Z0-9]{3}"
_PRINTABLE = r"[^\x00-\x1f\x7f]"
_ID = r"[\x20-\x7e]"
_DEGREES = r"-?[0-9]{1,3}\.[0-9]{5,7}"

# ConnectorType of OCPI 2.2.1, module Locations.
_CONNECTORS = (
    "CHADEMO|CHAOJI|DOMESTIC_[A-O]|GBT_(AC|DC)|IEC_60309_2_(single_16|three_(16|32|64))|IEC_62196_(T1|T2)(_COMBO)?"
    "|IEC_62196_T3[AC]|NEMA_(5_20|6_30|6_50|10_30|10_50|14_30|14_50)|PANTOGRAPH_(BOTTOM_UP|TOP_DOWN)|TESLA_[RS]"
)

# Key: (pattern, what is expected, is it required). Lengths and forms are OCPI 2.2.1's, module CDRs, class CdrLocation.
_Keys = dict[str, tuple[str, str, bool]]
_TOP: _Keys = {
    "country_code": (_COUNTRY, 'two letters, like "DE"', True),
    "party_id": (_PARTY, 'three letters or digits, like "PIL"', True),
    "currency": (r"[A-Z]{3}", 'an ISO 4217 code, like "EUR"; only if genesis has none', False),
}
_TOKEN: _Keys = {
    "country_code": (_COUNTRY, 'two letters, like "DE"', True),
    "party_id": (_PARTY, 'three letters or digits, like "EMP"', True),
}
_LOCATION: _Keys = {
    "name": (f"{_PRINTABLE}{{1,255}}", "at most 255 characters", False),
    "address": (f"{_PRINTABLE}{{1,45}}", "street and number, at most 45 characters", True),
    "city": (f"{_PRINTABLE}{{1,45}}", "at most 45 characters", True),
    "postal_code": (f"{_PRINTABLE}{{1,10}}", "at most 10 characters", False),
    "state": (f"{_PRINTABLE}{{1,20}}", "at most 20 characters", False),
    "country": (r"[A-Z]{3}", 'three letters, like "DEU"', True),
    "latitude": (r"-?[0-9]{1,2}\.[0-9]{5,7}", 'degrees with 5 to 7 decimals as text, like "52.520008"', True),
    "longitude": (_DEGREES, 'degrees with 5 to 7 decimals as text, like "13.404954"', True),
}
_PILE: _Keys = {
    "location": (f"{_ID}{{1,36}}", "the name of one of [locations], at most 36 characters", True),
    "evse_id": (f"{_ID}{{1,48}}", 'an eMI3 EVSE id, like "DE*PIL*E0001"', True),
    "connector_id": (f"{_ID}{{1,36}}", 'at most 36 characters (default: "1")', False),
    "connector_standard": (_CONNECTORS, 'an OCPI ConnectorType, like "IEC_62196_T2"', True),
    "connector_format": ("SOCKET|CABLE", '"SOCKET" or "CABLE"', True),
    "connector_power_type": ("AC_1_PHASE|AC_2_PHASE|AC_2_PHASE_SPLIT|AC_3_PHASE|DC", 'like "AC_3_PHASE"', True),
}


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator's file.

    Attributes:
        country_code, party_id: of the charge point operator. currency: what ISO 4217 calls it where genesis does not.
        vat_permille: tax that the chain's amounts include, in thousandths of the amount without it; None where no VAT
        applies. token: country and party of the provider whose drivers charge. locations, piles: by name and pile id, with
        OCPI's names. home_of: by pile id, the drivers whose home charger a pile is.
    """

    country_code: str
    party_id: str
    currency: str | None
    vat_permille: int | None
    token: dict[str, str]
    locations: dict[str, dict[str, str]]
    piles: dict[str, dict[str, str]]
    home_of: dict[str, tuple[str, ...]]

    def location_of(self, pile: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """Name and values of a pile's location, and the pile's own; ExportError if the file lacks it."""
        if pile not in self.piles:
            raise ExportError(f"the operator's file does not say where {pile} stands; add a table [piles.{pile}]")
        values = self.piles[pile]
        return values["location"], self.locations[values["location"]], values


def load_operator(path: Path) -> Operator:
    """Read the file; ConfigError naming file, key and expected form."""
    given = load_toml(path)
    vat = given.pop("vat_permille", None)
    if vat is not None and (type(vat) is not int or not 0 <= vat <= 1000):
        raise ConfigError(f"{path}: vat_permille = {vat!r} is wrong; expected thousandths from 0 to 1000, 190 for 19 %")
    token = _values(path, "token", _table(path, "token", given.pop("token", None)), _TOKEN)
    locations = {
        name: _values(path, f"locations.{name}", _table(path, f"locations.{name}", table), _LOCATION)
        for name, table in _table(path, "locations", given.pop("locations", None)).items()
    }
    piles, home_of = dict[str, dict[str, str]](), dict[str, tuple[str, ...]]()
    for pile, table in _table(path, "piles", given.pop("piles", None)).items():
        values = _table(path, f"piles.{pile}", table)
        home_of[pile] = _drivers(path, pile, values.pop("home_of", []))
        piles[pile] = _values(path, f"piles.{pile}", values, _PILE)
        if piles[pile]["location"] not in locations:
            raise ConfigError(
                f"{path}: piles.{pile}.location is none of [locations]; expected one of {sorted(locations)}"
            )
    top = _values(path, "", given, _TOP)
    return Operator(
        country_code=top["country_code"],
        party_id=top["party_id"],
        currency=top.get("currency"),
        vat_permille=vat,
        token=token,
        locations=locations,
        piles=piles,
        home_of=home_of,
    )


def _table(path: Path, name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: the table [{name}] is missing; see docs/exports.md")
    return dict(value)


def _drivers(path: Path, pile: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(driver, str) for driver in value):
        raise ConfigError(f'{path}: piles.{pile}.home_of is wrong; expected ids of drivers, like ["dan"]')
    return tuple(value)


def _values(path: Path, table: str, given: dict[str, object], keys: _Keys) -> dict[str, str]:
    where = f"{path}: {table}{'.' if table else ''}"
    for key in given:
        if key not in keys:
            raise ConfigError(f"{where}{key} is unknown; expected {', '.join(keys)}")
    values = {}
    for key, (pattern, form, required) in keys.items():
        value = given.get(key)
        if value is None and not required:
            continue
        if value is None:
            raise ConfigError(f"{where}{key} is missing; expected {form}")
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ConfigError(f"{where}{key} = {value!r} is wrong; expected {form}")
        values[key] = value
    return values
