"""From measured energy to postings: the journal of a contract, a pure function of its terms, M and the cause.

The verifier runs this very function on a certificate, offline. C = p x Q, M' = min(M, Q + O); debits round up.

    within tau          E->H p*M'
    over                E->H C             E->G (M' - Q)*p_cat                  the grid provides the rest
    under, user         E->H C             G->E (Q - M')*min(p_buy, p)          the grid buys the rest
    under, pile         E->H p*M'          B->E min(bond, (Q - M')*max(0, p_cat - p))
    then always         E->F fee           E->U rest            B->H rest

(Paper section 3, "Expense Settlement": deviations are provided or purchased by the grid at the catalog price.)
The minimum in `under, user` keeps a user who takes nothing from earning on the difference.
"""

from dataclasses import dataclass

from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import BoundsError
from pile_shared.platform import sha256
from pile_shared.terms import Terms
from pile_shared.units import MAX_AMOUNT_MICRO, MAX_ENERGY_WH, check_bytes, check_int, cost_micro

USER, OWNER, GRID, FEES, ESCROW, BOND = "U", "H", "G", "F", "E", "B"
_SIDES = (USER, OWNER, GRID, FEES, ESCROW, BOND)

CAUSE_NONE, CAUSE_USER, CAUSE_PILE = "none", "user", "pile"
CAUSE_DEFAULT, CAUSE_NO_SHOW = "default", "no-show"  # nothing was begun: the pile's fault, or the user's
CAUSES = (CAUSE_NONE, CAUSE_USER, CAUSE_PILE, CAUSE_DEFAULT, CAUSE_NO_SHOW)

WITHIN, OVER, UNDER = "within tolerance", "over", "under"

MAX_STATEMENT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Posting:
    """An amount (> 0, micro) from one side of a contract to another: U, H, G, F, E or B."""

    debit: str
    credit: str
    amount_micro: int


def escrow_micro(
    energy_wh: int, overuse_wh: int, price_micro_per_kwh: int, catalog_micro_per_kwh: int, fee_micro: int
) -> int:
    """What a user puts up: p*Q + O*max(p_cat, p) + fee, each rounded up. Enough for every row of the journal."""
    dearer = max(price_micro_per_kwh, catalog_micro_per_kwh)
    return cost_micro(energy_wh, price_micro_per_kwh) + cost_micro(overuse_wh, dearer) + fee_micro


def contract_escrow_micro(terms: Terms) -> int:
    """The escrow of a contract."""
    return escrow_micro(
        terms.energy_wh,
        terms.overuse_wh,
        terms.price_micro_per_kwh,
        terms.catalog_sell_micro_per_kwh,
        terms.fee_micro,
    )


def deviation(terms: Terms, measured_wh: int) -> str:
    """WITHIN, OVER or UNDER."""
    if abs(measured_wh - terms.energy_wh) <= terms.tolerance_wh:
        return WITHIN
    return OVER if measured_wh > terms.energy_wh else UNDER


def settle(
    terms: Terms, measured_wh: int, cause: str, *, penalty_permille: int, no_show_permille: int
) -> list[Posting]:
    """The postings that close a contract, in order, whatever became of it; afterwards its escrow and bond are empty."""
    if cause == CAUSE_DEFAULT:
        return _default_journal(terms, penalty_permille)
    if cause == CAUSE_NO_SHOW:
        return _no_show_journal(terms, no_show_permille)
    return _journal(terms, measured_wh, cause)


def _journal(terms: Terms, measured_wh: int, cause: str) -> list[Posting]:
    price, contracted_wh = terms.price_micro_per_kwh, terms.energy_wh
    paid_wh = min(measured_wh, contracted_wh + terms.overuse_wh)
    kind = deviation(terms, measured_wh)
    rows: list[Posting] = []
    if kind == OVER:
        rows.append(Posting(ESCROW, OWNER, cost_micro(contracted_wh, price)))
        rows.append(Posting(ESCROW, GRID, cost_micro(paid_wh - contracted_wh, terms.catalog_sell_micro_per_kwh)))
    elif kind == UNDER and cause == CAUSE_USER:
        rows.append(Posting(ESCROW, OWNER, cost_micro(contracted_wh, price)))
        buy_back = min(terms.catalog_buy_micro_per_kwh, price)
        rows.append(Posting(GRID, ESCROW, cost_micro(contracted_wh - paid_wh, buy_back)))
    elif kind == UNDER:
        rows.append(Posting(ESCROW, OWNER, cost_micro(paid_wh, price)))
        missing = cost_micro(contracted_wh - paid_wh, max(0, terms.catalog_sell_micro_per_kwh - price))
        rows.append(Posting(BOND, ESCROW, min(terms.bond_micro, missing)))
    else:
        rows.append(Posting(ESCROW, OWNER, cost_micro(paid_wh, price)))
    return _closed(terms, rows, fee_micro=terms.fee_micro)


def _default_journal(terms: Terms, penalty_permille: int) -> list[Posting]:
    """The pile did not deliver: the user gets everything back and the penalty from the bond."""
    penalty = terms.bond_micro * penalty_permille // 1000
    return _closed(terms, [Posting(BOND, USER, penalty)], fee_micro=0)


def _no_show_journal(terms: Terms, no_show_permille: int) -> list[Posting]:
    """The pile was there and the user was not: a share of C to the owner, and the fee."""
    share = cost_micro(terms.energy_wh, terms.price_micro_per_kwh) * no_show_permille // 1000
    return _closed(terms, [Posting(ESCROW, OWNER, share)], fee_micro=terms.fee_micro)


def _closed(terms: Terms, rows: list[Posting], *, fee_micro: int) -> list[Posting]:
    rows = [*rows, Posting(ESCROW, FEES, fee_micro)]
    escrow = contract_escrow_micro(terms) + _net(rows, ESCROW)
    bond = terms.bond_micro + _net(rows, BOND)
    rows += [Posting(ESCROW, USER, escrow), Posting(BOND, OWNER, bond)]
    return [row for row in rows if row.amount_micro != 0]


def _net(rows: list[Posting], side: str) -> int:
    return sum(row.amount_micro for row in rows if row.credit == side) - sum(
        row.amount_micro for row in rows if row.debit == side
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """The settlement both parties are asked to sign. Its digest covers chain, contract, evidence, M, cause and postings."""

    chain_id: str
    contract: bytes
    evidence: bytes
    measured_wh: int
    cause: str
    postings: tuple[Posting, ...]

    def encoded(self) -> bytes:
        """Deterministic CBOR."""
        rows = [[row.debit, row.credit, row.amount_micro] for row in self.postings]
        return encode([self.chain_id, self.contract, self.evidence, self.measured_wh, self.cause, rows])

    def digest(self) -> bytes:
        """What a confirmation names: SHA-256 of the encoding."""
        return sha256(self.encoded())


def decode_statement(data: bytes) -> Statement:
    """A statement from its bytes; CodecError or BoundsError for anything else."""
    chain_id, contract, evidence, measured_wh, cause, rows = array(decode(data, MAX_STATEMENT_BYTES), 6)
    postings = []
    for row in items(rows, 16):
        debit, credit, amount = array(row, 3)
        if debit not in _SIDES or credit not in _SIDES:
            raise BoundsError("a posting is between U, H, G, F, E and B")
        postings.append(Posting(debit, credit, check_int("amount_micro", amount, 1, MAX_AMOUNT_MICRO)))
    if cause not in CAUSES or not isinstance(chain_id, str):
        raise BoundsError("not a settlement statement")
    return Statement(
        chain_id,
        check_bytes("contract", contract, 32, 32),
        check_bytes("evidence", evidence, 32, 32),
        check_int("measured_wh", measured_wh, 0, MAX_ENERGY_WH),
        cause,
        tuple(postings),
    )
