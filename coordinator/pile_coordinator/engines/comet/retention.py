"""From which height on CometBFT keeps its blocks: ours keeps every block of the chain, so CometBFT need not as well.

Each node decides for itself. What is dropped is older than all of these:

    so many heights as the operator wants kept, for nodes that were away and fetch what they missed
    evidence of a double sign, by heights AND by time: while it can be shown, the headers it is held against are needed
    the oldest snapshot that we give: who begins with it goes on with the blocks after it
"""

from pile_coordinator.chain.state import State
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.comet.network import EVIDENCE_BLOCKS, EVIDENCE_HOURS
from pile_coordinator.engines.comet.snapshots import Snapshots
from pile_shared.codec import decode, encode

MARKS = "retention"  # the note that holds what time it was at which heights, [[height, time in ms], ...], ascending
MARK_EVERY = 1000  # heights; so many blocks are dropped at once
MAX_MARKS = (
    4096  # enough for the most that may be kept (config.MAX_RETAIN_BLOCKS); were there more, nothing would be dropped
)
_NOTE_BYTES = 32 * MAX_MARKS


class Retention:
    """Tells CometBFT at each Commit what it may drop. Used by who holds the ledger's lock."""

    def __init__(self, ledger: CometLedger, snapshots: Snapshots, blocks: int) -> None:
        """Keep the last `blocks` heights of CometBFT, or more where others need them; all of them if it is 0."""
        self._ledger = ledger
        self._snapshots = snapshots
        self._blocks = blocks
        self._marks = _read(ledger.store.note(MARKS))

    def after_commit(self) -> int:
        """The lowest height that CometBFT is to keep, as ResponseCommit has it; 0 to drop nothing."""
        ledger = self._ledger
        height = ledger.comet_height
        if not self._blocks or height % MARK_EVERY:
            return 0
        if self._marks and self._marks[-1][0] >= height:
            self._marks = []  # the ledger began again, with a snapshot
        oldest = self._snapshots.oldest()
        blocks, age_ms = _evidence_age(ledger.state)
        first = height - max(self._blocks, blocks)
        dropped = [
            mark
            for mark in self._marks
            if mark[0] <= min(first, oldest or first) and ledger.comet_time_ms - mark[1] > age_ms
        ]
        if self._snapshots.are_taken and not oldest:
            dropped = []  # nobody could join by ours yet
        keep = self._marks[max(0, len(dropped) - 1) :]  # the last of them stands for the lowest height that is kept
        self._marks = [*keep, (height, ledger.comet_time_ms)][-MAX_MARKS:]
        ledger.store.commit(None, [], {MARKS: encode([list(mark) for mark in self._marks])})
        return dropped[-1][0] if dropped else 0


def _evidence_age(state: State) -> tuple[int, int]:
    """(heights, ms) for which a double sign can be shown, as CometBFT's genesis file has it."""
    rules = state.stake_rules
    if rules is None:
        return EVIDENCE_BLOCKS, EVIDENCE_HOURS * 3_600_000
    return rules.evidence_age_blocks, rules.evidence_age_ms


def _read(note: bytes | None) -> list[tuple[int, int]]:
    rows = [] if note is None else decode(note, _NOTE_BYTES)
    assert isinstance(rows, list)
    return [(height, time_ms) for height, time_ms in rows]
