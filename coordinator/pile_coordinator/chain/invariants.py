"""What must hold after every block. A node that finds one broken stops before it commits.

The numbers are those of the ledger guide. `check` costs the same whatever the number of open orders, because the state
keeps running totals; `check_in_full` recounts everything, names the culprit, and is what tests and start-up use.
"""

from pile_coordinator.chain import accounts, contracts, settlement
from pile_coordinator.chain.records import Account, Bid, Contract, Zone
from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.state import State


def check(state: State) -> None:
    """Invariants 1 to 5, from running totals and for the zones this block touched.

    Where one is broken, everything is recounted so that BrokenInvariantError names the account, order or zone.
    """
    broken = _broken_total(state)
    if broken:
        _recount(state)
        raise BrokenInvariantError(broken)
    for zone in state.touched(Zone):
        _check_zone(state, zone, state.owed.get(f"load {zone.id}", 0), state.owed.get(f"curve {zone.id}", 0))


def check_in_full(state: State) -> None:
    """The same, recounted from the records."""
    _recount(state)
    check(state)


def _broken_total(state: State) -> str:
    """Which running total contradicts another, or ""."""
    total = sum(state.totals.values())
    if total != 0:
        return f"accounts sum to {total} micro, not 0"
    for kind, what in (("E", "escrows hold"), ("B", "bonds hold")):
        held, owed = state.totals.get(kind, 0), state.owed.get(kind, 0)
        if held != owed:
            return f"{what} {held} micro, open orders put up {owed}"
    return ""


def _recount(state: State) -> None:
    """1: no account but X and the grid's is overdrawn, and the running totals are what the accounts hold; then 2 to 5."""
    recounted: dict[str, int] = {}
    for account in state.each(Account):
        kind = accounts.kind_of(account.name)
        recounted[kind] = recounted.get(kind, 0) + account.balance_micro
        if account.balance_micro < 0 and account.name not in {
            accounts.OUTSIDE,
            accounts.party_account(state.params.grid),
        }:
            raise BrokenInvariantError(f"{account.name} is overdrawn: {account.balance_micro} micro")
    for kind, total in state.totals.items():
        if recounted.get(kind, 0) != total:
            raise BrokenInvariantError(f"accounts {kind} sum to {recounted.get(kind, 0)}, the running total is {total}")
    _check_escrow(state)
    _check_zones(state)


def _check_escrow(state: State) -> None:
    """2 and 3: escrow and bonds are those of open bids and contracts, exactly; nothing terminal holds any."""
    expected: dict[str, int] = {}
    for bid in state.each(Bid):
        expected[accounts.escrow_account(bid.id)] = bid.hold_micro
    for contract in state.each(Contract):
        terms = state.terms_of(contract)
        expected[accounts.escrow_account(contract.id)] = settlement.contract_escrow_micro(terms)
        if terms.bond_micro:
            expected[accounts.bond_account(contract.id)] = terms.bond_micro
    held = {a.name: a.balance_micro for a in state.each(Account) if accounts.kind_of(a.name) in "EB"}
    for name in sorted(expected.keys() | held.keys()):
        if expected.get(name, 0) != held.get(name, 0):
            raise BrokenInvariantError(f"{name} holds {held.get(name, 0)} micro, should hold {expected.get(name, 0)}")


def _check_zones(state: State) -> None:
    for zone in state.each(Zone):
        curve_terms = [t for t in map(state.terms_of, state.each(Contract)) if t.on_curve and t.zone == zone.id]
        escrow_micro = sum(settlement.contract_escrow_micro(terms) for terms in curve_terms)
        _check_zone(state, zone, sum(terms.energy_wh for terms in curve_terms), escrow_micro)


def _check_zone(state: State, zone: Zone, open_wh: int, escrow_micro: int) -> None:
    """4 and 5: a zone's load is its open curve energy, and their escrow covers B(S) - B0."""
    if open_wh != zone.open_wh:
        raise BrokenInvariantError(f"zone {zone.id} has {zone.open_wh} Wh open, its contracts {open_wh} Wh")
    reserve_nano = contracts.zone_curve(state, zone).cost_nano(0, open_wh)
    if 1000 * escrow_micro < reserve_nano:
        raise BrokenInvariantError(f"zone {zone.id} holds {1000 * escrow_micro} of a reserve of {reserve_nano} (10^-9)")
