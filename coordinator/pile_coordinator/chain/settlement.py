"""From measured energy to postings: the journal of a contract, a pure function of its terms, M and the cause.

The verifier runs this very function on a certificate, offline. C = p x Q, M' = min(M, Q + O); debits round up.

    within tau          E->H p*M'
    over                E->H C             E->G (M' - Q)*p_cat                  the grid provides the rest
    under, user         E->H C             G->E (Q - M')*min(p_buy, p)          the grid buys the rest
    under, pile         E->H p*M'          B->E min(bond, (Q - M')*max(0, p_cat - p))
    then always         E->F fee           E->U rest            B->H rest

(Paper section 3, "Expense Settlement": deviations are provided or purchased by the grid at the catalog price.)
The minimum in `under, user` keeps a user who takes nothing from earning on the difference. What never began, was called off
or was never signed has rows of its own below; a dispute adds what the loser pays the winner.
"""

from dataclasses import dataclass

from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import BoundsError
from pile_shared.platform import sha256
from pile_shared.terms import Terms
from pile_shared.units import MAX_AMOUNT_MICRO, MAX_ENERGY_WH, check_bytes, check_id, check_int, cost_micro

USER, OWNER, GRID, FEES, ESCROW, BOND, OBJECTION = "U", "H", "G", "F", "E", "B", "D"
_SIDES = (USER, OWNER, GRID, FEES, ESCROW, BOND, OBJECTION)

CAUSE_NONE, CAUSE_USER, CAUSE_PILE = "none", "user", "pile"
CAUSE_DEFAULT, CAUSE_NO_SHOW = "default", "no-show"  # nothing was begun: the pile's fault, or the user's
CAUSE_USER_CANCEL, CAUSE_PILE_CANCEL = "user-cancel", "pile-cancel"  # called off in time
CAUSE_USER_UNSIGNED, CAUSE_PILE_UNSIGNED = "user-unsigned", "pile-unsigned"  # proposed, and never signed
_NEVER_BEGAN = (
    CAUSE_DEFAULT,
    CAUSE_NO_SHOW,
    CAUSE_USER_CANCEL,
    CAUSE_PILE_CANCEL,
    CAUSE_USER_UNSIGNED,
    CAUSE_PILE_UNSIGNED,
)
CAUSES = (CAUSE_NONE, CAUSE_USER, CAUSE_PILE, *_NEVER_BEGAN)

BASIS_RULING, BASIS_ANSWER, BASIS_TIMEOUT = "ruling", "answer", "timeout"
BASES = (BASIS_RULING, BASIS_ANSWER, BASIS_TIMEOUT)
MAX_ARBITERS = 16

WITHIN, OVER, UNDER = "within tolerance", "over", "under"

MAX_STATEMENT_BYTES = 3072  # the keys of 16 arbiters take 1,600


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


@dataclass(frozen=True, slots=True)
class Energy:
    """Where metered energy came from, in Wh: under the contract, from the grid, or unpaid (let through beyond Q + O)."""

    contracted_wh: int
    grid_wh: int
    unpaid_wh: int


def energy_of(terms: Terms, measured_wh: int) -> Energy:
    """Invariant 6: the three parts are the metered energy."""
    if deviation(terms, measured_wh) != OVER:
        return Energy(measured_wh, 0, 0)
    paid_wh = min(measured_wh, terms.energy_wh + terms.overuse_wh)
    return Energy(terms.energy_wh, paid_wh - terms.energy_wh, measured_wh - paid_wh)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a dispute ended: who had objected (USER or OWNER), with what bond, why it ended, and which arbiters said so.

    arbiters: (id, 65-byte public key) of each whose ruling decided; empty unless basis is BASIS_RULING.
    """

    objector: str
    bond_micro: int
    basis: str
    arbiters: tuple[tuple[str, bytes], ...]

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.objector, self.bond_micro, self.basis, [list(arbiter) for arbiter in self.arbiters]]


@dataclass(frozen=True, slots=True)
class Shares:
    """The two shares that genesis sets, in thousandths: of the bond to the user, and of C to the owner."""

    penalty_permille: int
    no_show_permille: int


def settle(terms: Terms, measured_wh: int, cause: str, shares: Shares) -> list[Posting]:
    """The postings that close a contract, in order, whatever became of it; afterwards its escrow and bond are empty."""
    rows, fee_micro = _rows(terms, measured_wh, cause, shares)
    return _closed(terms, [*rows, Posting(ESCROW, FEES, fee_micro)])


def settle_disputed(
    terms: Terms, disputed: list[Posting], measured_wh: int, cause: str, shares: Shares, verdict: Verdict
) -> list[Posting]:
    """The postings of a dispute's end: the journal of `measured_wh` and `cause`, and the loser's bond to the winner.

    `disputed` are the postings objected to. The objector wins by being better off than by those.
    """
    rows, fee_micro = _rows(terms, measured_wh, cause, shares)
    rows = [*rows, Posting(ESCROW, FEES, fee_micro)]
    objector = verdict.objector
    other, others_rest = (OWNER, BOND) if objector == USER else (USER, ESCROW)
    if _net(_closed(terms, rows), objector) > _net(disputed, objector):
        left = _put_up(terms, others_rest) + _net(rows, others_rest)
        rows.append(Posting(others_rest, objector, min(verdict.bond_micro, left)))
        rows.append(Posting(OBJECTION, objector, verdict.bond_micro))
    else:
        rows.append(Posting(OBJECTION, other, verdict.bond_micro))
    return _closed(terms, rows)


def _rows(terms: Terms, measured_wh: int, cause: str, shares: Shares) -> tuple[list[Posting], int]:
    """What the outcome itself moves, and the fee it costs the user."""
    if cause in {CAUSE_DEFAULT, CAUSE_PILE_CANCEL}:  # everything back to the user, and the penalty from the bond
        return [Posting(BOND, USER, terms.bond_micro * shares.penalty_permille // 1000)], 0
    if cause == CAUSE_NO_SHOW:  # a share of C to the owner
        agreed = cost_micro(terms.energy_wh, terms.price_micro_per_kwh)
        return [Posting(ESCROW, OWNER, agreed * shares.no_show_permille // 1000)], terms.fee_micro
    if cause in {CAUSE_USER_CANCEL, CAUSE_USER_UNSIGNED}:
        return [], terms.fee_micro
    if cause == CAUSE_PILE_UNSIGNED:
        return [Posting(BOND, FEES, min(terms.bond_micro, terms.fee_micro))], 0
    return _journal(terms, measured_wh, cause), terms.fee_micro


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
    return rows


def _closed(terms: Terms, rows: list[Posting]) -> list[Posting]:
    rows = [
        *rows,
        Posting(ESCROW, USER, _put_up(terms, ESCROW) + _net(rows, ESCROW)),
        Posting(BOND, OWNER, _put_up(terms, BOND) + _net(rows, BOND)),
    ]
    return [row for row in rows if row.amount_micro != 0]


def _put_up(terms: Terms, side: str) -> int:
    return contract_escrow_micro(terms) if side == ESCROW else terms.bond_micro


def _net(rows: list[Posting], side: str) -> int:
    return sum(row.amount_micro for row in rows if row.credit == side) - sum(
        row.amount_micro for row in rows if row.debit == side
    )


@dataclass(frozen=True, slots=True)
class Statement:
    """The settlement both parties are asked to sign. Its digest covers chain, contract, evidence, M, cause and postings.

    verdict: how the dispute ended that this statement closes; None for one that was not disputed.
    """

    chain_id: str
    contract: bytes
    evidence: bytes
    measured_wh: int
    cause: str
    postings: tuple[Posting, ...]
    verdict: Verdict | None = None

    def encoded(self) -> bytes:
        """Deterministic CBOR."""
        rows = [[row.debit, row.credit, row.amount_micro] for row in self.postings]
        verdict = self.verdict.fields() if self.verdict else None
        return encode([self.chain_id, self.contract, self.evidence, self.measured_wh, self.cause, rows, verdict])

    def digest(self) -> bytes:
        """What a confirmation names: SHA-256 of the encoding."""
        return sha256(self.encoded())


def decode_statement(data: bytes) -> Statement:
    """A statement from its bytes; CodecError or BoundsError for anything else."""
    chain_id, contract, evidence, measured_wh, cause, rows, verdict = array(decode(data, MAX_STATEMENT_BYTES), 7)
    postings = []
    for row in items(rows, 16):
        debit, credit, amount = array(row, 3)
        if debit not in _SIDES or credit not in _SIDES:
            raise BoundsError(f"a posting is between {', '.join(_SIDES)}")
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
        None if verdict is None else _decode_verdict(verdict),
    )


def _decode_verdict(value: object) -> Verdict:
    objector, bond_micro, basis, rows = array(value, 4)
    if objector not in (USER, OWNER) or basis not in BASES:
        raise BoundsError("not a verdict")
    arbiters = [array(row, 2) for row in items(rows, MAX_ARBITERS)]
    return Verdict(
        objector,
        check_int("bond_micro", bond_micro, 0, MAX_AMOUNT_MICRO),
        basis,
        tuple((check_id("arbiter", name), check_bytes("public", public, 65, 65)) for name, public in arbiters),
    )
