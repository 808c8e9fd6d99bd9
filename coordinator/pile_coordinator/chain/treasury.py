"""Money in and out: deposits, withdrawals and fees (ledger guide, "Money in and out").

The treasury books what happened outside. It can add money and say what was paid; it cannot take a party's.
"""

from pile_coordinator.chain import accounts, orders, stake
from pile_coordinator.chain.records import ANONYMOUS, GRID, OPERATOR, Party, Payment, Withdrawal
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import CollectFees, Deposit, PayOut, RefuseWithdrawal, Withdraw
from pile_shared.units import MAX_AMOUNT_MICRO


def deposit(state: State, sender: str, body: Deposit) -> None:
    """Money arrived outside for a party."""
    _check_treasury(state, sender)
    party = state.find(Party, body.party)
    if party is None or party.role == ANONYMOUS:
        raise Rejection("unknown_party", f"no party {body.party}")
    _check_reference(state, body.reference)
    if body.amount_micro - state.balance_micro(accounts.OUTSIDE) > MAX_AMOUNT_MICRO:
        raise Rejection("limit", f"the chain would hold more than {MAX_AMOUNT_MICRO} micro")
    state.put(Payment(body.reference, body.amount_micro))
    accounts.post(state, accounts.OUTSIDE, accounts.party_account(body.party), body.amount_micro)
    orders.wake(state, body.party)


def withdraw(state: State, sender: str, withdrawal: bytes, body: Withdraw) -> None:
    """A party asks for its money. The grid may owe without limit for energy, but what it has not got is not paid out."""
    account = accounts.party_account(sender)
    if state.balance_micro(account) < body.amount_micro:
        raise Rejection("funds", f"{account} has {state.balance_micro(account)} micro, needs {body.amount_micro}")
    orders.count_order(state, sender)
    accounts.post(state, account, accounts.withdrawal_account(withdrawal), body.amount_micro)
    state.put(Withdrawal(withdrawal, sender, body.amount_micro, body.destination))


def pay_out(state: State, sender: str, body: PayOut) -> None:
    """The treasury has paid a withdrawal outside."""
    _check_treasury(state, sender)
    withdrawal = _withdrawal(state, body.withdrawal)
    _check_reference(state, body.reference)
    state.put(Payment(body.reference, -withdrawal.amount_micro))
    _end(state, withdrawal, accounts.OUTSIDE)


def refuse_withdrawal(state: State, sender: str, body: RefuseWithdrawal) -> None:
    """The treasury could not pay: the money is the party's again."""
    _check_treasury(state, sender)
    withdrawal = _withdrawal(state, body.withdrawal)
    _end(state, withdrawal, accounts.party_account(withdrawal.party))
    orders.wake(state, withdrawal.party)


def collect_fees(state: State, sender: str, body: CollectFees) -> None:
    """Fees go to whom the treasury names among those who run the chain."""
    _check_treasury(state, sender)
    party = state.find(Party, body.party)
    if party is None or party.role not in {GRID, OPERATOR}:
        raise Rejection("unknown_party", f"{body.party} is no grid or operator party")
    if state.balance_micro(accounts.FEES) < body.amount_micro:
        raise Rejection("funds", f"{state.balance_micro(accounts.FEES)} micro of fees have come in")
    stake.collect(state, body.amount_micro)
    accounts.post(state, accounts.FEES, accounts.party_account(body.party), body.amount_micro)


def _check_treasury(state: State, sender: str) -> None:
    if sender != state.params.treasury:
        raise Rejection("wrong_role", f"payments are booked by {state.params.treasury}")


def _check_reference(state: State, reference: str) -> None:
    if state.find(Payment, reference) is not None:
        raise Rejection("exists", f"payment {reference} is booked")


def _withdrawal(state: State, key: bytes) -> Withdrawal:
    withdrawal = state.find(Withdrawal, key)
    if withdrawal is None:
        raise Rejection("unknown_withdrawal", "no such open withdrawal")
    return withdrawal


def _end(state: State, withdrawal: Withdrawal, credit: str) -> None:
    accounts.post(state, accounts.withdrawal_account(withdrawal.id), credit, withdrawal.amount_micro)
    orders.drop_order(state, Withdrawal, withdrawal.id, withdrawal.party)
