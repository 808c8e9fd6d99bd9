"""OCPI 2.2.1 charge detail records of an order (module CDRs): one, or of a dispute the first, its credit note and the last.

Energy is the settlement's to the Wh; the cost is what its postings leave the user poorer by, to the micro. "number" has four
decimals in OCPI "unless mentioned otherwise"; money here has up to six, for the chain's has. Hours have four.
"""

import re
from base64 import b64encode
from datetime import UTC, datetime

from pile_coordinator.chain.settlement import ESCROW, FEES, Statement
from pile_coordinator.exports.exact import decimal, dumps, rounded_div
from pile_coordinator.exports.ocmf import Record, public_key_info
from pile_coordinator.exports.operator import Operator
from pile_coordinator.exports.order import NAMED, ExportError, Order

MAX_ID, MAX_CREDIT_ID = 36, 39  # CDR.id, of a credit note
CONTRACT_DIGITS = 34  # of the contract id; "-1" or "-2" for the settlement follows, and "-C" on a credit note
MAX_PLAIN_DATA = 512  # SignedValue.plain_data
NOT_APPLICABLE = "#NA"  # EVSE and connector of a reservation that never became a session
_NATURES = {"begin": "Start", "end": "End"}
_MS_PER_HOUR = 3_600_000
MICRO_PLACES, WH_PLACES, HOUR_PLACES = 6, 3, 4

Json = dict[str, object]


def cdrs(order: Order, operator: Operator, records: list[Record]) -> list[Json]:
    """The records in the order in which a provider must get them; total costs add up to what the user paid.

    Args:
        order: closed.
        operator: who sends them, and where the pile stands.
        records: the OCMF records of the session, or none.

    Raises:
        ExportError: the operator's file lacks the pile, or a currency.
    """
    first = _Maker(order, operator, records)
    if order.verified.disputed is None:
        return [first.cdr(order.first, 1, order.closed_ms)]
    original = first.cdr(order.first, 1, order.written_ms)
    return [original, _credit(original, order.closed_ms), first.cdr(order.verified.statement, 2, order.closed_ms)]


def cdrs_json(order: Order, operator: Operator, records: list[Record]) -> bytes:
    """The records as a JSON array in UTF-8; ExportError as cdrs."""
    return (dumps(cdrs(order, operator, records)) + "\n").encode()


def price(amount_micro: int, vat_permille: int | None) -> Json:
    """A Price whose amount includes the tax; without a rate no tax applies, and the amount is all there is."""
    if vat_permille is None:
        return {"excl_vat": decimal(amount_micro, MICRO_PLACES)}
    without_micro = rounded_div(amount_micro * 1000, 1000 + vat_permille)
    return {"excl_vat": decimal(without_micro, MICRO_PLACES), "incl_vat": decimal(amount_micro, MICRO_PLACES)}


def date_time(time_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, 24 characters."""
    at = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}Z"


def _credit(original: Json, made_ms: int) -> Json:
    """All of the original; only its total cost is negative (section "Credit CDRs")."""
    total = original["total_cost"]
    assert isinstance(total, dict)
    return {
        **original,
        "id": f"{original['id']}-C",
        "total_cost": {name: -amount if amount else amount for name, amount in total.items()},
        "credit": True,
        "credit_reference_id": original["id"],
        "last_updated": date_time(made_ms),
    }


class _Maker:
    """Makes the records of one order."""

    def __init__(self, order: Order, operator: Operator, records: list[Record]) -> None:
        self._order, self._operator, self._records = order, operator, records
        self._currency = _currency(order.currency, operator.currency)
        terms = order.terms
        if order.session:
            self._from_ms = order.session[0].readings[0].time_ms
            self._until_ms = order.session[-1].readings[-1].time_ms
        else:  # reserved in its window, until it was over or given back
            self._from_ms = terms.window_start_ms
            self._until_ms = max(terms.window_start_ms, min(terms.window_end_ms, order.closed_ms))

    def cdr(self, statement: Statement, number: int, made_ms: int) -> Json:
        """The record of one settlement, the number-th."""
        order, operator = self._order, self._operator
        record: Json = {
            "country_code": operator.country_code,
            "party_id": operator.party_id,
            "id": f"{order.contract[:CONTRACT_DIGITS]}-{number}",
            "start_date_time": date_time(self._from_ms),
            "end_date_time": date_time(self._until_ms),
        }
        if order.session:
            record["session_id"] = order.contract[:MAX_ID]
        record |= {
            "cdr_token": self._token(),
            "auth_method": "COMMAND",  # the user's signed start
            "authorization_reference": order.contract[:MAX_ID],
            "cdr_location": self._location(),
            "meter_id": order.terms.meter_serial,
            "currency": self._currency,
            "charging_periods": [self._period(statement)],
        }
        if self._records:
            record["signed_data"] = self._signed_data()
        record |= self._costs(statement)
        ended = f"{order.verified.outcome}, cause {statement.cause}"
        record |= {
            "remark": f"{ended}; Pilechain contract {order.contract}; {self._payer()}",
            "home_charging_compensation": order.terms.user in operator.home_of.get(order.terms.pile, ()),
            "last_updated": date_time(made_ms),
        }
        return record

    def _payer(self) -> str:
        if self._order.funding == NAMED:
            return "not anonymous"
        return f"paid anonymously by one of {self._order.verified.set_size}"

    def _token(self) -> Json:
        """Of who paid with notes it is of one use: their next order has another (section "TokenType")."""
        user = self._order.terms.user
        kind = "APP_USER" if self._order.funding == NAMED else "AD_HOC_USER"
        return {**self._operator.token, "uid": user, "type": kind, "contract_id": user}

    def _location(self) -> Json:
        terms = self._order.terms
        name, place, pile = self._operator.location_of(terms.pile)
        plain = {key: value for key, value in place.items() if key not in {"latitude", "longitude"}}
        coordinates = {key: place[key] for key in ("latitude", "longitude")}
        began = bool(self._order.session)
        return {
            "id": name,
            **plain,
            "coordinates": coordinates,
            "evse_uid": terms.pile if began else NOT_APPLICABLE,
            "evse_id": pile["evse_id"] if began else NOT_APPLICABLE,
            "connector_id": pile.get("connector_id", "1") if began else NOT_APPLICABLE,
            **{key: pile[key] for key in ("connector_standard", "connector_format", "connector_power_type")},
        }

    def _hours(self) -> object:
        units = rounded_div((self._until_ms - self._from_ms) * 10**HOUR_PLACES, _MS_PER_HOUR)
        return decimal(units, HOUR_PLACES)

    def _period(self, statement: Statement) -> Json:
        """One: a contract has one price for its whole session."""
        energy = {"type": "ENERGY", "volume": decimal(statement.measured_wh, WH_PLACES)}
        time = {"type": "TIME" if self._order.session else "RESERVATION_TIME", "volume": self._hours()}
        return {
            "start_date_time": date_time(self._from_ms),
            "dimensions": [energy, time] if self._order.session else [time],
        }

    def _costs(self, statement: Statement) -> Json:
        """The fee is fixed. What a dispute moved besides energy is in the total alone, as OCPI has no name for it."""
        vat = self._operator.vat_permille
        total_micro = self._order.money(statement).user_paid_micro
        fee_micro = sum(row.amount_micro for row in statement.postings if (row.debit, row.credit) == (ESCROW, FEES))
        costs: Json = {"total_cost": price(total_micro, vat)}
        if self._order.session:
            costs["total_fixed_cost"] = price(fee_micro, vat)
        costs["total_energy"] = decimal(statement.measured_wh, WH_PLACES)
        if self._order.session and statement.verdict is None:
            costs["total_energy_cost"] = price(total_micro - fee_micro, vat)
        costs["total_time"] = self._hours()
        if not self._order.session:
            costs["total_reservation_cost"] = price(total_micro, vat)
        return costs

    def _signed_data(self) -> Json:
        key = b64encode(public_key_info(self._order.terms.pile_public)).decode()
        values = [
            {
                "nature": _NATURES[record.kind],
                "plain_data": _plain(record.payload),
                "signed_data": b64encode(record.text.encode()).decode(),
            }
            for record in self._records
        ]
        return {"encoding_method": "OCMF", "public_key": key, "signed_values": values}


def _currency(of_chain: str, of_operator: str | None) -> str:
    """The chain's, if it calls it by an ISO 4217 code; else what the operator calls it. Nothing is converted here."""
    is_code = re.fullmatch("[A-Z]{3}", of_chain) is not None
    if is_code and of_operator not in {None, of_chain}:
        raise ExportError(f"the chain's amounts are in {of_chain}; no other currency may stand in the operator's file")
    if not is_code and of_operator is None:
        raise ExportError(f"{of_chain} is no ISO 4217 code; set `currency` in the operator's file")
    return of_chain if of_operator is None else of_operator


def _plain(payload: str) -> str:
    """The payload; of one that is too long for the field its readings, which `signed_data` repeats in full."""
    return payload if len(payload) <= MAX_PLAIN_DATA else '{"RD":' + payload.rpartition('"RD":')[2]
