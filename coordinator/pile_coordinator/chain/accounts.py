"""Double entry. Every amount leaves one account and enters another, so the sum of all balances is 0 by construction.

Names: `X` the world outside (deposits come from it), `F` fees, `P:<party>` a party's money, `E:<hex id>` the escrow of a
bid or contract, `B:<hex id>` the owner's bond in a contract, `D:<hex id>` the bond of an objection to its settlement,
`W:<hex id>` a withdrawal that has not been paid out, `N` what outstanding notes are worth, `S:<candidate>` what all have put
up for a candidate. The grid party may owe: what it provides or takes is balanced outside the chain. No other account but X
falls below zero.
"""

from typing import TYPE_CHECKING

from pile_coordinator.chain.records import Account
from pile_coordinator.chain.rejections import BrokenInvariantError, Rejection

if TYPE_CHECKING:
    from pile_coordinator.chain.state import State

OUTSIDE = "X"
FEES = "F"

ESCROWS, BONDS, OBJECTIONS, WITHDRAWALS, NOTES, STAKES = "E", "B", "D", "W", "N", "S"
SET_ASIDE = (
    ESCROWS,
    BONDS,
    OBJECTIONS,
    WITHDRAWALS,
    NOTES,
    STAKES,
)  # kinds whose balance something open must account for
_CLOSES_WHEN_EMPTY = frozenset({ESCROWS, BONDS, OBJECTIONS, WITHDRAWALS, STAKES})


NOTE_ACCOUNT = "N"


def party_account(party: str) -> str:
    """A party's own account."""
    return "P:" + party


def escrow_account(order: bytes) -> str:
    """What a user has put up for a bid or contract."""
    return "E:" + order.hex()


def bond_account(contract: bytes) -> str:
    """What an owner has put up for a contract."""
    return "B:" + contract.hex()


def objection_account(contract: bytes) -> str:
    """What an objector has put up to dispute a contract's settlement."""
    return "D:" + contract.hex()


def withdrawal_account(withdrawal: bytes) -> str:
    """What is set aside to be paid out."""
    return "W:" + withdrawal.hex()


def stake_account(candidate: str) -> str:
    """What all parties have put up for a candidate."""
    return "S:" + candidate


def kind_of(account: str) -> str:
    """X, F, N, P, E, B, D, W or S."""
    return account[0]


def close_party(state: "State", party: str) -> None:
    """Forget the account of a party that is one no more; it must be empty."""
    account = state.find(Account, party_account(party))
    if account is not None and account.balance_micro:
        raise BrokenInvariantError(f"{account.name} is closed with {account.balance_micro} micro in it")
    if account is not None:
        state.drop(Account, account.name)


def post(state: "State", debit: str, credit: str, amount_micro: int) -> None:
    """Move an amount (>= 0) from one account to another. Rejection `funds` if a party cannot pay it.

    An escrow or bond that cannot pay is not a party's mistake but ours: BrokenInvariantError.
    """
    if amount_micro < 0:
        raise BrokenInvariantError(f"negative posting {amount_micro} from {debit} to {credit}")
    if amount_micro == 0:
        return
    left = state.balance_micro(debit) - amount_micro
    if left < 0 and debit not in {OUTSIDE, party_account(state.params.grid)}:
        if kind_of(debit) == "P":
            raise Rejection("funds", f"{debit} has {left + amount_micro} micro, needs {amount_micro}")
        raise BrokenInvariantError(f"{debit} would fall to {left} micro")
    _set(state, debit, left)
    _set(state, credit, state.balance_micro(credit) + amount_micro)


def _set(state: "State", name: str, balance_micro: int) -> None:
    if balance_micro == 0 and name[0] in _CLOSES_WHEN_EMPTY:
        state.drop(Account, name)  # an empty escrow is a closed one
    else:
        state.put(Account(name, balance_micro))
