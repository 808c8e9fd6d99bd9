"""Who may see what: the one table that decides it, and the one function that asks it.

A route that is not in the table answers nobody. What a caller may see of a resource is a scope, and every query takes one,
so that what is not the caller's is not found, as if it were not there.
"""

import time
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from pile_coordinator.chain.records import EV_OWNER, GRID, OPERATOR, PILE_OWNER, THIRD_PARTY
from pile_coordinator.evidence.scopes import ALL, DEVIATED, DISPUTED, NONE, OWN, View
from pile_coordinator.web.limits import RateLimit
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.tokens import Token, TokenError, Tokens

TOTALS = "totals"  # sums of the whole chain, of zones and of operators, of nobody's own
BY_KIND = "by-kind"  # of orders, contracts, piles and parties as much as their own routes show

_PUBLIC = {OPERATOR: ALL, GRID: ALL, PILE_OWNER: ALL, EV_OWNER: ALL, THIRD_PARTY: ALL}
_ORDERS = {OPERATOR: ALL, PILE_OWNER: OWN, EV_OWNER: OWN, THIRD_PARTY: DISPUTED}
_CONTRACTS = _ORDERS | {GRID: DEVIATED}
_BY_KIND = {GRID: BY_KIND, OPERATOR: ALL, PILE_OWNER: BY_KIND, EV_OWNER: BY_KIND, THIRD_PARTY: BY_KIND}
_STANDING = {OPERATOR: ALL, GRID: ALL, PILE_OWNER: OWN, EV_OWNER: OWN, THIRD_PARTY: DISPUTED}

RULES: dict[str, dict[str, str]] = {
    "whoami": _PUBLIC,
    "blocks": _PUBLIC,
    "block": _PUBLIC,
    "prices": _PUBLIC,
    "live": _PUBLIC,
    "orders": _ORDERS,
    "order": _ORDERS,
    "contracts": _CONTRACTS,
    "contract": _CONTRACTS,
    "contract_proofs": _CONTRACTS,
    "contract_trace": _CONTRACTS,
    "contract_timeline": _CONTRACTS,
    "certificate": _CONTRACTS,
    "contract_records": _CONTRACTS,
    "export": _CONTRACTS,
    "exports": _CONTRACTS,
    "disputes": _CONTRACTS,
    "deviations": _CONTRACTS,
    "book": _ORDERS,
    "depth": _PUBLIC,
    "price_history": _PUBLIC,
    "statistics": {OPERATOR: ALL, GRID: TOTALS, PILE_OWNER: OWN, EV_OWNER: OWN},
    "trace": _BY_KIND,
    "pile_states": _STANDING,
    "network": _PUBLIC,
    "anonymity": _PUBLIC,  # all of it stands on the ledger
    "alarms": _BY_KIND,
    "postings": _CONTRACTS,
    "piles": _STANDING,
    "pile": _STANDING,
    "pile_proofs": {OPERATOR: ALL, PILE_OWNER: OWN},
    "parties": _STANDING,
    "party": _STANDING,
    "metrics": {OPERATOR: ALL},
}
"""By the name of a route, by role: the scope. A role that is not there is denied."""

COSTS = {
    "certificate": 20,
    "contract_trace": 3,
    "contract_timeline": 5,
    "trace": 5,
    "statistics": 5,
    "price_history": 5,
    "pile_states": 3,
    "network": 3,
    "anonymity": 3,
    "alarms": 5,
    "export": 20,
    "exports": 100,
}  # of the rate limit; every other request costs 1
_FAILED_COST = 10  # of an address that brings a bad token


@dataclass(frozen=True, slots=True)
class Grant:
    """That a caller may see a resource, and how much of it."""

    token: Token
    scope: str

    @property
    def party(self) -> str:
        """The caller's party."""
        return self.token.party


def authorised(request: Request) -> Grant:
    """What the caller of this request may see, by its bearer token and the route's name.

    Raises:
        Refused: 401 without a good token, 403 if its role has no part in the route, 429 if the token asks too often.
    """
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip() if scheme.lower() == "bearer" else ""
    return admit(request.app.state.web, text, request.scope["route"].name, address_key(request))


def admit(web: Any, text: str, route: str, address: str, cost: int | None = None) -> Grant:
    """What the holder of this token's text may see of a route; `address` is the bucket of where it asks from.

    It costs the token as much of its rate as the route does, or `cost`. Reads the file of tokens, so not for the event loop.

    Raises:
        Refused: 401 without a good token, 403 if its role has no part in the route, 429 if the token asks too often.
    """
    tokens: Tokens = web.tokens
    limit: RateLimit = web.limit
    try:
        token = tokens.check(text, time.time_ns() // 1_000_000)
    except TokenError as error:
        web.metrics.refused.labels(f"token_{error.code}").inc()
        if text:
            limit.charge(address, _FAILED_COST)
        detail = "bring a bearer token that is good; the operator makes them with: pilechain web token add"
        raise Refused(401, "token", detail, {"WWW-Authenticate": 'Bearer realm="pilechain"'}) from error
    wait_s = limit.take(f"token {token.id}", COSTS.get(route, 1) if cost is None else cost)
    if wait_s:
        web.metrics.refused.labels("rate").inc()
        raise too_often(wait_s)
    scope = RULES.get(route, {}).get(token.role)
    if scope is None:
        web.metrics.refused.labels("role").inc()
        raise Refused(403, "role", f"a token of the role {token.role} has no part in this")
    return Grant(token, scope)


def address_key(request: Request) -> str:
    """What a caller's address is counted by."""
    return RateLimit.address(request.client.host if request.client else "")


def too_often(wait_s: int) -> Refused:
    """The refusal of who asks too often."""
    return Refused(429, "rate", f"too many requests; wait {wait_s} s", {"Retry-After": str(wait_s)})


def also(grant: Grant, route: str) -> Grant | None:
    """What the same caller may see of another route; None if nothing."""
    scope = RULES[route].get(grant.token.role)
    return None if scope is None else Grant(grant.token, scope)


def view_of(token: Token) -> View:
    """How much of each kind the holder of a token sees, as its own routes say."""
    orders, contracts, piles, parties = (
        RULES[route].get(token.role, NONE) for route in ("orders", "contracts", "piles", "parties")
    )
    return View(token.party, orders, contracts, piles, parties, senders=token.role == OPERATOR)


def bearer(request: Request) -> str:
    """The text of the token that a request brought; only after `authorised`."""
    return request.headers["authorization"].partition(" ")[2].strip()
