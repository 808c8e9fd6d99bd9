"""Fetches what was before a node's snapshot from the other nodes, in a thread of its own, and hands on what is here.

A question at a time, to one node, over the broker that nodes tell each other attestations by. Whoever is silent, lacks the
block or sends something else is left for another for a while. What was verified is written in one transaction, so a node
that is killed goes on below the lowest block it has.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from pile_coordinator.engines.attesting import node_topic, parse_node_topic
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.engine import Publish, StoreError, validators_at
from pile_coordinator.engines.history import HISTORY, WANTED, Fetched, Row, Shelf, decode_wanted, encode_wanted
from pile_shared.certificate import Header, Validator, validators_hash
from pile_shared.codec import encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

ANSWER_S = 5.0  # what a node and a broker may take for an answer of 128 kB
AWAY_S = 20.0  # for which a node that was silent, or lacked the block, is not asked again
LIAR_S = 120.0  # for which one that sent something else is not; anybody at the broker may have sent it in its name
PAUSE_S = 0.1  # between questions: ten answers of 128 kB a second at most through the broker
IDLE_PART = 3  # and three times as long as the last answer took to check and write: a quarter of a core
ANSWERS_PER_S = 16  # that a node gives, to all together: 2 MB, and a few ms of work for each


def history_topic(chain_id: str, server: str, asker: str) -> str:
    """Where a node answers another that wants its blocks; only that one listens."""
    return f"{node_topic(chain_id, server, HISTORY)}/{asker}"


def history_from(chain_id: str, topic: str, asker: str) -> str | None:
    """Which node answers `asker` on a topic; None for any other topic."""
    sent, _, to = topic.rpartition("/")
    parsed = parse_node_topic(chain_id, sent)
    return parsed[0] if parsed is not None and parsed[1] == HISTORY and to == asker else None


class Backfill:
    """The history of one node: what it lacks is fetched, what others lack is given.

    `begin`, `offer` and `answer` belong to the coordinator's thread.

    Attributes:
        publish: sends to the other nodes; nothing is sent before it is set.
    """

    def __init__(
        self, ledger: CometLedger, party: str, certified: Callable[[], int], log: Callable[[str], None]
    ) -> None:
        """For the node of `party`; `certified` is the height up to which blocks here have their certificates."""
        self.publish: Publish = lambda *_: None
        self._ledger = ledger
        self._party = party
        self._certified = certified
        self._log = log
        self._founders = _encoded(list(ledger.genesis.validators))
        self._shelf = Shelf(self._row, self._set_of)
        self._given: tuple[int, int] = (0, 0)  # in which second, how many answers
        self._asked = ""  # whom; nobody else is listened to
        self._answers: queue.Queue[bytes] = queue.Queue(1)
        self._away_until_s: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start fetching if blocks are missing here."""
        if self._thread is not None and self._thread.is_alive():
            return
        if self._stopping.is_set() or self.missing() is None:
            return
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop fetching; what is written stays."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):
            self._answers.put_nowait(b"")  # it may wait for one
        if self._thread is not None:
            self._thread.join(ANSWER_S)

    def missing(self) -> tuple[int, bytes] | None:
        """The height and hash of the highest block that is missing below the first one, or None."""
        with self._ledger.lock:
            height = self._ledger.store.first_height() - 1
            return (height, self._ledger.store.hash_below()) if height else None

    # --- giving --------------------------------------------------------------------------------------------------

    def answer(self, asker: str, payload: bytes) -> str:
        """Another node wants blocks, perhaps of this one: send what is here; "" or why the question was refused."""
        try:
            server, height, offset = decode_wanted(payload)
        except PilechainError as error:
            return error.code
        if server != self._party or not self._may_give():
            return ""
        with self._ledger.lock:
            said = self._shelf.answer(height, offset)
        self.publish(history_topic(self._ledger.chain_id, self._party, asker), said, False)
        return ""

    def _may_give(self) -> bool:
        second, count = self._given
        now = int(time.monotonic())
        self._given = (now, count + 1 if now == second else 1)
        return self._given[1] <= ANSWERS_PER_S

    def _row(self, height: int) -> Row | None:
        return self._ledger.store.row(height) if 0 < height <= self._certified() else None

    def _set_of(self, header: Header) -> bytes | None:
        """The encoding of the set that attests a block, wherever it stands."""
        wanted, ledger = header.validators_hash, self._ledger
        if sha256(self._founders) == wanted:
            return self._founders
        found = ledger.store.set_of(wanted)
        if found is not None:
            return found
        try:
            found = _encoded(validators_at(ledger.genesis, ledger.state, header.height))
        except KeyError:
            return None
        return found if sha256(found) == wanted else None

    # --- fetching ------------------------------------------------------------------------------------------------

    def offer(self, server: str, payload: bytes) -> str:
        """Take an answer; "" or why nobody waits for it."""
        if server != self._asked:
            return "not_asked"
        try:
            self._answers.put_nowait(payload)
        except queue.Full:
            return "not_asked"
        return ""

    def _run(self) -> None:
        self.keep_first_set()
        missing = self.missing()
        if missing is not None:
            self._log(f"fetches blocks {missing[0]} to 1 from the other nodes")
        while not self._stopping.is_set() and self.missing() is not None:
            server = self._next_server()
            if server is None:
                self._stopping.wait(1)
            elif not self.fetch(server):
                self._asked = ""
        if not self._stopping.is_set():
            self._log("has every block since genesis")

    def _next_server(self) -> str | None:
        """Who is asked: whoever was last, as long as it answers; None while everybody is left alone."""
        now_s = time.monotonic()
        with self._ledger.lock:
            attesting = self._ledger.validators_at(self._ledger.height + 1)
        names = sorted({v.party for v in (*attesting, *self._ledger.genesis.validators)} - {self._party})
        names.sort(key=lambda name: (name != self._asked, name < self._party))  # not all begin with the same
        return next((name for name in names if self._away_until_s.get(name, 0.0) <= now_s), None)

    def keep_first_set(self) -> None:
        """Keep the set after the snapshot's block: a handover may lead to it, and the state forgets it in time."""
        with self._ledger.lock:
            ledger, height = self._ledger, self._ledger.store.first_height()
            try:
                ledger.store.keep_set(_encoded(validators_at(ledger.genesis, ledger.state, height)))
            except KeyError:
                return  # it was kept at an earlier start

    def fetch(self, server: str) -> bool:
        """Ask a node for the next blocks and write them; False if it is to be left for another."""
        missing = self.missing()
        if missing is None:
            return True
        fetched = Fetched(self._ledger.chain_id, *missing)
        while not fetched.blocks:
            answer = self._ask(server, fetched)
            if self._stopping.is_set():
                return True
            began_s = time.monotonic()
            try:
                if answer is None or not fetched.take(answer):
                    return self._leave(server, AWAY_S)
            except PilechainError as error:
                self._log(f"{server} did not send block {fetched.height}: {error}; another node is asked")
                return self._leave(server, LIAR_S)
            if fetched.blocks:
                self._write(fetched)
            self._stopping.wait(max(PAUSE_S, IDLE_PART * (time.monotonic() - began_s)))
        return True

    def _ask(self, server: str, fetched: Fetched) -> bytes | None:
        """What a node answers; None if it does not. Brokers repeat, so what answers an earlier question is passed over."""
        self._asked = server
        topic = node_topic(self._ledger.chain_id, self._party, WANTED)
        self.publish(topic, encode_wanted(server, fetched.height, fetched.offset), False)
        deadline_s = time.monotonic() + ANSWER_S
        with contextlib.suppress(queue.Empty):
            while (left_s := deadline_s - time.monotonic()) > 0:
                answer = self._answers.get(timeout=left_s)
                if self._stopping.is_set() or not fetched.is_passed(answer):
                    return answer
        return None

    def _write(self, fetched: Fetched) -> None:
        try:
            with self._ledger.lock:
                self._ledger.store.prepend(fetched.blocks)
        except StoreError as error:  # the disk is full, or a snapshot took the place of what was here
            self._log(f"{error}; tried again in {AWAY_S:.0f} s")
            self._stopping.wait(AWAY_S)

    def _leave(self, server: str, seconds: float) -> bool:
        self._away_until_s[server] = time.monotonic() + seconds
        return False


def _encoded(validators: list[Validator]) -> bytes:
    data = encode([validator.fields() for validator in validators])
    assert sha256(data) == validators_hash(validators)
    return data
