"""Changes of rules, gated by height (stake guide, "Upgrades").

A rule of this file changes nothing until its height comes, so nodes may be updated one by one before it. Heights come from
genesis or from votes of accounting nodes, and until it begins votes can put a rule off or call it off: a mistake in a release
shows late. A node that does not know a rule whose height has come stops: going on by the old one would lead to another state
than everybody else's.
"""

from pile_coordinator.chain.election import PARTY, POWER
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.records import Upgrade, UpgradeVotes
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import NEVER, VoteUpgrade
from pile_shared.errors import PilechainError

REPORTER_PART = "reporter-part"  # who shows a double attestation gets a tenth of what it costs
KNOWN = (REPORTER_PART,)
MIN_NOTICE_BLOCKS = 100  # between the decision and the change: nodes that lack the rule have to be updated


class UnknownRuleError(PilechainError):
    """A rule has begun that this release does not know. The node must stop; the message says what to install."""

    code = "upgrade"


def in_force(state: State, height: int, name: str) -> bool:
    """Whether a rule holds in a block."""
    found = state.find(Upgrade, name)
    return found is not None and found.height <= height


def check_known(state: State, height: int) -> None:
    """UnknownRuleError if a rule has begun that this release does not have."""
    for upgrade in state.each(Upgrade):
        if upgrade.height <= height and upgrade.name not in KNOWN:
            raise UnknownRuleError(
                f"the rule {upgrade.name} holds from block {upgrade.height} on and this release does not know it: "
                "install a release that does, and start again"
            )


def vote(state: State, env: Env, sender: str, body: VoteUpgrade) -> None:
    """One accounting node's word, replaced by its next. More than two thirds of the power for one name and height decide.

    They may decide again, also to call it off, until it has begun.
    """
    members = _powers(state, env.height)
    if sender not in members:
        raise Rejection("not_yours", f"{sender} is no accounting node of block {env.height}")
    _check_open(state, env, body)
    _withdraw_vote(state, sender)
    proposal = state.find(UpgradeVotes, body.name) or UpgradeVotes(body.name, [])
    word: list[str | int] = [sender, body.height]
    votes = sorted([*proposal.votes, word], key=lambda vote: vote[0])
    power = sum(members.get(str(vote[0]), 0) for vote in votes if vote[1] == body.height)
    if 3 * power <= 2 * sum(members.values()):
        state.put(UpgradeVotes(body.name, votes))
        return
    if proposal.votes:
        state.drop(UpgradeVotes, body.name)
    if body.height == NEVER:
        state.drop(Upgrade, body.name)
    else:
        state.put(Upgrade(body.name, body.height))


def _check_open(state: State, env: Env, body: VoteUpgrade) -> None:
    """Rejection unless this can still be decided."""
    decided = state.find(Upgrade, body.name)
    if decided is not None and (decided.height <= env.height or decided.height == body.height):
        raise Rejection("exists", f"{body.name} is decided, from block {decided.height} on")
    if decided is None and body.height == NEVER:
        raise Rejection("phase", f"{body.name} is not decided, so there is nothing to call off")
    if body.height != NEVER and body.height < env.height + MIN_NOTICE_BLOCKS:
        raise Rejection("late", f"nodes need {MIN_NOTICE_BLOCKS} blocks of notice; this is block {env.height}")


def _withdraw_vote(state: State, party: str) -> None:
    """A party has one vote, so that there are no more open questions than candidates."""
    for proposal in state.each(UpgradeVotes):
        votes = [v for v in proposal.votes if v[0] != party]
        if not votes:
            state.drop(UpgradeVotes, proposal.name)
        elif len(votes) < len(proposal.votes):
            state.put(UpgradeVotes(proposal.name, votes))


def _powers(state: State, height: int) -> dict[str, int]:
    found = state.set_at(height)
    return {str(m[PARTY]): int(m[POWER]) for m in found.members} if found else {}
