"""What must hold after every block. A node that finds one broken stops before it commits.

The numbers are those of the ledger guide. `check` costs the same whatever the number of open orders, because the state
keeps running totals, and looks one by one at what this block touched; `check_in_full` recounts everything, names the
culprit, and is what tests and start-up use.
"""

from pile_coordinator.chain import accounts, election, epochs, notes, settlement, stake
from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.records import (
    ANONYMOUS,
    Account,
    Bid,
    Contract,
    Denomination,
    Dispute,
    Funding,
    Listing,
    NoteBin,
    Party,
    Pile,
    Stake,
    Staking,
    Tally,
    ValidatorSet,
    Withdrawal,
    Zone,
)
from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.state import State
from pile_coordinator.ring.signature import RING_SIZE

MAX_NAMED = 8  # accounts or orders in one message


def check(state: State, journal: Journal) -> None:
    """Invariants 1 to 10, from running totals and for what this block touched.

    Where a total is broken, everything is recounted so that BrokenInvariantError names the account, order or zone.
    """
    broken = _broken_total(state)
    if broken:
        _recount(state)
        raise BrokenInvariantError(f"{broken}; {_suspects(state, journal)}")
    for account in state.touched(Account):
        _check_overdraft(state, account)
    _check_closed(state, journal)
    _check_energy(state, journal)
    for zone in state.touched(Zone):
        _check_load(zone, state.open_wh.get(zone.id, 0))
        _check_cover(state, zone, state.covered.get(zone.id, {}))
    for pile in state.touched(Pile):
        _check_proofs(pile)
    for kind in state.touched(Denomination):
        _check_notes(state, kind)
    for one in state.touched(NoteBin):
        _check_bin(one)
    if state.stake_rules is not None:
        for candidate in sorted({one.candidate for one in state.touched(Stake)}):
            _check_stake(state, candidate)
        _check_fees(state)
        for elected in state.touched(ValidatorSet):
            _check_set(elected)


def check_in_full(state: State) -> None:
    """The same, recounted from the records."""
    _recount(state)
    check(state, Journal())


def _broken_total(state: State) -> str:
    """1, 2, 7, 8: which running total contradicts another, or ""."""
    total = sum(state.totals.values())
    if total != 0:
        return f"accounts sum to {total} micro, not 0"
    for kind in accounts.SET_ASIDE:
        held, owed = state.totals.get(kind, 0), state.owed.get(kind, 0)
        if held != owed:
            return f"accounts {kind} hold {held} micro, what is open put up {owed}"
    tally, is_open = state.get(Tally, "tally"), state.count(Contract)
    if tally.contracts_signed - tally.contracts_closed != is_open:
        return f"of {tally.contracts_signed} contracts {tally.contracts_closed} were closed, and {is_open} are open"
    return ""


def _suspects(state: State, journal: Journal) -> str:
    """Of a total that no single record contradicts: what this block touched, for only that can have broken it."""
    moved = _some([account.name for account in state.touched(Account)])
    changed = _some([contract.id.hex() for contract in state.touched(Contract)])
    closed = _some([order.hex() for order in journal.closed])
    return f"this block moved accounts {moved}, changed contracts {changed} and closed orders {closed}"


def _some(names: list[str]) -> str:
    """Names for a message, the first MAX_NAMED of them."""
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return ", ".join([*names[:MAX_NAMED], *more]) or "(none)"


def _check_overdraft(state: State, account: Account) -> None:
    may_owe = {accounts.OUTSIDE, accounts.party_account(state.params.grid)}
    if account.balance_micro < 0 and account.name not in may_owe:
        raise BrokenInvariantError(f"{account.name} is overdrawn: {account.balance_micro} micro")


def _check_closed(state: State, journal: Journal) -> None:
    """3 and 8: what this block closed is gone, once, and holds nothing."""
    seen = set()
    for order in journal.closed:
        if order in seen:
            raise BrokenInvariantError(f"order {order.hex()} was closed twice in one block")
        seen.add(order)
        if any(state.find(kind, order) is not None for kind in (Contract, Bid, Listing, Dispute)):
            raise BrokenInvariantError(f"order {order.hex()} was closed and is still open")
        for name in (accounts.escrow_account(order), accounts.bond_account(order), accounts.objection_account(order)):
            if state.balance_micro(name):
                raise BrokenInvariantError(f"{name} holds {state.balance_micro(name)} micro of a closed order")


def _check_energy(state: State, journal: Journal) -> None:
    """6: metered = delivered under contract + supplied by the grid + unpaid, for each settlement and in sum."""
    for contract, metered_wh, *parts_wh in journal.metered:
        if metered_wh != sum(parts_wh) or min(parts_wh) < 0:
            raise BrokenInvariantError(
                f"contract {contract.hex()} metered {metered_wh} Wh, its parts are {parts_wh} Wh"
            )
    tally = state.get(Tally, "tally")
    parts = tally.contracted_wh + tally.grid_wh + tally.unpaid_wh
    if tally.metered_wh != parts:
        settled = _some([contract.hex() for contract, *_ in journal.metered])
        raise BrokenInvariantError(
            f"{tally.metered_wh} Wh were metered in all, the parts sum to {parts} Wh; this block settled {settled}"
        )


def _check_proofs(pile: Pile) -> None:
    """8: a proof counts once, so a pile's sequence is the number of its admitted proofs."""
    if pile.admitted != pile.last_sequence:
        raise BrokenInvariantError(f"pile {pile.id} is at sequence {pile.last_sequence} after {pile.admitted} proofs")


def _check_stake(state: State, candidate: str) -> None:
    """2: an account of stake is the sum of what its parties have there, each at least 1."""
    stakes = state.stakes_of(candidate)
    whole, held = sum(one.amount_micro for one in stakes), state.balance_micro(accounts.stake_account(candidate))
    if whole != held:
        raise BrokenInvariantError(f"{accounts.stake_account(candidate)} holds {held} micro, should hold {whole}")
    least = min((one.amount_micro for one in stakes), default=1)
    if least < 1:
        raise BrokenInvariantError(f"{accounts.stake_account(candidate)} has a stake of {least} micro in it")


def _check_notes(state: State, kind: Denomination) -> None:
    """7: no more notes of a denomination were spent than issued, and those not in sealed bins are in the open one."""
    filling = state.find(NoteBin, notes.bin_id(kind.id[0], kind.open_bin))
    waiting = len(filling.notes) if filling else 0
    if not 0 <= kind.spent <= kind.issued - waiting or kind.issued != kind.open_bin * RING_SIZE + waiting:
        raise BrokenInvariantError(
            f"denomination {kind.id[0]}: {kind.issued} notes issued and {kind.spent} spent, {kind.open_bin} bins sealed"
            f" and {waiting} notes waiting"
        )


def _check_bin(one: NoteBin) -> None:
    """7: a bin is sealed when it is full, and only then are its notes spent; it stays while it has one, or an order over it."""
    is_full, is_spent = len(one.notes) == RING_SIZE, len(one.images) == RING_SIZE
    if (
        not 1 <= len(one.notes) <= RING_SIZE
        or is_full != (one.sealed_ms > 0)
        or len(one.images) > (RING_SIZE if is_full else 0)
        or len(set(one.images)) != len(one.images)
        or len({note[0] for note in one.notes}) != len(one.notes)
        or one.in_use < (1 if is_spent else 0)
    ):
        raise BrokenInvariantError(
            f"bin {one.id.hex()} has {len(one.notes)} notes and {len(one.images)} images, and {one.in_use} orders over it"
        )


def _check_bins(state: State) -> None:
    """7: the unspent notes of each denomination are in its bins, and bins know how many orders are confirmed over them."""
    unspent: dict[bytes, int] = {}
    over: dict[bytes, int] = {}
    for funding in state.each(Funding):
        over[funding.bin] = over.get(funding.bin, 0) + 1
    for one in state.each(NoteBin):
        unspent[one.id[:1]] = unspent.get(one.id[:1], 0) + len(one.notes) - len(one.images)
        _check_bin(one)
        if one.in_use != over.pop(one.id, 0):
            raise BrokenInvariantError(f"bin {one.id.hex()} is not in use by {one.in_use} orders")
    if over:
        raise BrokenInvariantError(
            f"bins {_some([name.hex() for name in over])} are gone, and orders are confirmed over them"
        )
    for kind in state.each(Denomination):
        _check_notes(state, kind)
        if unspent.get(kind.id, 0) != kind.issued - kind.spent:
            raise BrokenInvariantError(
                f"denomination {kind.id[0]} has {unspent.get(kind.id, 0)} unspent notes in bins, should have"
                f" {kind.issued - kind.spent}"
            )


def _check_anonymous(state: State) -> None:
    """7: who pays with notes is a party as long as the order lasts, and until its rest is notes again; no longer."""
    users = {state.terms_of(contract).user for contract in state.each(Contract)} | {bid.user for bid in state.each(Bid)}
    open_orders = {one.party for one in state.each(Funding) if not one.ended_height}
    ended = {one.party for one in state.each(Funding) if one.ended_height}
    parties = {party.id for party in state.each(Party) if party.role == ANONYMOUS}
    if open_orders != parties & users or ended != parties - users:
        raise BrokenInvariantError(
            f"anonymous parties {_some(sorted(parties))}: {len(parties & users)} have an order, {len(open_orders)} a funding"
            f" of an open one and {len(ended)} of one that has ended"
        )


def _check_fees(state: State) -> None:
    """9: what the fee account owes to accounting nodes and treasury is there."""
    staking, fees = state.get(Staking, stake.STAKING), state.balance_micro(accounts.FEES)
    if min(staking.pot_micro, staking.collectable_micro, fees - staking.pot_micro - staking.collectable_micro) < 0:
        divided = f"{staking.pot_micro} for accounting nodes and {staking.collectable_micro} for the treasury"
        raise BrokenInvariantError(f"F holds {fees} micro, {divided}")


def _check_set(elected: ValidatorSet) -> None:
    """10: a set is never empty, names nobody and no key twice, and nobody in it has more than a quarter of the power."""
    rows, name = elected.members, f"the set from block {int.from_bytes(elected.from_height, 'big')}"
    powers = [int(row[election.POWER]) for row in rows]
    if not 1 <= len(rows) <= election.MAX_VALIDATORS or min(powers) < 1 or sum(powers) > election.MAX_TOTAL_POWER:
        raise BrokenInvariantError(f"{name} has {len(rows)} accounting nodes with {sum(powers)} votes")
    for column in (election.PARTY, election.CONSENSUS, election.ATTESTATION):
        if len({row[column] for row in rows}) != len(rows):
            raise BrokenInvariantError(f"{name} has a node or key twice")
    if len(rows) >= election.MOST_OF_POWER and election.MOST_OF_POWER * max(powers) > sum(powers):
        raise BrokenInvariantError(f"{name} gives {max(powers)} of {sum(powers)} votes to one node")


def _check_load(zone: Zone, open_wh: int) -> None:
    """4: a zone's load is its open curve energy."""
    if open_wh != zone.open_wh:
        raise BrokenInvariantError(f"zone {zone.id} has {zone.open_wh} Wh open, its contracts {open_wh} Wh")


def _check_cover(state: State, zone: Zone, covered: dict[tuple[int, int], tuple[int, int]]) -> None:
    """5: for each anchor of the curve, the escrow of what was priced by it covers B(S) - B0 for that alone.

    When a contract was signed, the load below it was at least what is now open of its own anchor before it; so it paid at
    least its stretch of B, which is convex, whichever others have closed meanwhile.
    """
    for (capacity_wh, catalog), (open_wh, escrow_micro) in sorted(covered.items()):
        curve = epochs.curve(state.params, capacity_wh, catalog)
        reserve_nano = curve.cost_nano(0, open_wh)
        if 1000 * escrow_micro < reserve_nano:
            raise BrokenInvariantError(
                f"zone {zone.id} holds {1000 * escrow_micro} of a reserve of {reserve_nano} (10^-9) at catalog price {catalog}"
            )


def _recount(state: State) -> None:
    """Everything from the records: balances and their running totals, then what each open thing holds, zones and piles."""
    recounted: dict[str, int] = {}
    for account in state.each(Account):
        kind = accounts.kind_of(account.name)
        recounted[kind] = recounted.get(kind, 0) + account.balance_micro
        _check_overdraft(state, account)
    for kind, total in state.totals.items():
        if recounted.get(kind, 0) != total:
            raise BrokenInvariantError(f"accounts {kind} sum to {recounted.get(kind, 0)}, the running total is {total}")
    _check_set_aside(state)
    _check_zones(state)
    for pile in state.each(Pile):
        _check_proofs(pile)
    _check_bins(state)
    _check_anonymous(state)
    for elected in state.validator_sets():
        _check_set(elected)
    if state.stake_rules is not None:
        for candidate in sorted({one.candidate for one in state.each(Stake)}):
            _check_stake(state, candidate)
        _check_fees(state)


def _check_set_aside(state: State) -> None:
    """2, 3 and 7: what is set aside is of open bids, contracts, disputes, withdrawals and notes, exactly."""
    expected: dict[str, int] = {}
    for bid in state.each(Bid):
        expected[accounts.escrow_account(bid.id)] = bid.hold_micro
    for contract in state.each(Contract):
        terms = state.terms_of(contract)
        expected[accounts.escrow_account(contract.id)] = settlement.contract_escrow_micro(terms)
        expected[accounts.bond_account(contract.id)] = terms.bond_micro
    for dispute in state.each(Dispute):
        expected[accounts.objection_account(dispute.contract)] = dispute.bond_micro
    for withdrawal in state.each(Withdrawal):
        expected[accounts.withdrawal_account(withdrawal.id)] = withdrawal.amount_micro
    for one in state.each(Stake):
        name = accounts.stake_account(one.candidate)
        expected[name] = expected.get(name, 0) + one.amount_micro
    for kind in state.each(Denomination):
        expected[accounts.NOTE_ACCOUNT] = expected.get(accounts.NOTE_ACCOUNT, 0) + kind.value_micro * (
            kind.issued - kind.spent
        )
    held = {a.name: a.balance_micro for a in state.each(Account) if accounts.kind_of(a.name) in accounts.SET_ASIDE}
    for name in sorted(expected.keys() | held.keys()):
        if expected.get(name, 0) != held.get(name, 0):
            raise BrokenInvariantError(f"{name} holds {held.get(name, 0)} micro, should hold {expected.get(name, 0)}")


def _check_zones(state: State) -> None:
    load_wh: dict[str, int] = {}
    covered: dict[str, dict[tuple[int, int], tuple[int, int]]] = {}
    for contract in state.each(Contract):
        terms = state.terms_of(contract)
        if terms.on_curve:
            load_wh[terms.zone] = load_wh.get(terms.zone, 0) + terms.energy_wh
            anchor = contract.capacity_wh, terms.catalog_sell_micro_per_kwh
            of_zone = covered.setdefault(terms.zone, {})
            open_wh, escrow = of_zone.get(anchor, (0, 0))
            of_zone[anchor] = open_wh + terms.energy_wh, escrow + settlement.contract_escrow_micro(terms)
    for zone in state.each(Zone):
        _check_load(zone, load_wh.get(zone.id, 0))
        _check_cover(state, zone, covered.get(zone.id, {}))
