"""An accounting node that does everything a node may not do, for one test: the real one, with a mutated ABCI application.

The test has that node's processes call `begin()` from a `sitecustomize`, so the product knows nothing of it. CometBFT itself
stays honest: what its own checks refuse never leaves the node.
"""

import base64
import contextlib
import os
import random
import sys
import threading
import time
from pathlib import Path

from pile_coordinator.chain.records import Party
from pile_coordinator.chain.transactions import Body, Rule, Undelegate, sign_transaction
from pile_coordinator.engines.comet import engine
from pile_coordinator.engines.comet.app import Application
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.comet.pool import framed_bytes, propose
from pile_coordinator.engines.comet.rpc import Rpc
from pile_coordinator.keys import load_key
from pile_shared.errors import LinkError

FOLDER = "TEST_BYZANTINE"  # the environment variable that says where the node's files are
PROPOSED = "proposed.log"  # in that folder: a line for each proposal, with what was wrong with it
EXTENDED = "vote extension"  # a line of the same file, once: others' votes are extended, so ours must be
LIES = (
    "gap", "backwards", "bad signature", "garbage", "twice", "oversized", "expired", "replayed", "wrong role",
    "another's name", "whole mempool",
)  # fmt: skip
FLOOD_S = 0.03  # between transactions that nobody should let into a mempool


def begin() -> None:
    """Corrupt this process, if it is the application of a node whose folder has a file for what it proposes."""
    if "--without-node" in sys.argv and (Path(os.environ[FOLDER]) / PROPOSED).exists():
        engine.Application = Liar  # type: ignore[misc]


class Liar(Application):
    """Answers CometBFT as no correct application would."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._folder = Path(os.environ[FOLDER])
        self._dice = random.Random(5)
        self._party = f"coordinator-{self._folder.name}"
        self._key = load_key(self._folder / "keys" / "coordinator.key")
        self._committed: list[bytes] = []
        self._turn, self._is_extended = 0, False
        self._methods["extend_vote"] = lambda _: abci.ResponseExtendVote(vote_extension=self._garbage(100))
        threading.Thread(target=self._flood, daemon=True).start()

    def _garbage(self, most: int) -> bytes:
        return self._dice.randbytes(self._dice.choice((0, 1, most)))

    def _own(self, ahead: int, body: Body | None = None, **over) -> bytes:
        """A transaction of this node's own party, well signed."""
        ledger = self._ledger
        sequence = ledger.state.get(Party, self._party).sequence + ahead
        until = over.get("until", ledger.height + 50)
        sender, body = over.get("sender", self._party), body or Undelegate("nobody", 1)
        return sign_transaction(self._key, ledger.chain_id, sender, sequence, until, body)

    def _lie(self, what: str, honest: list[bytes], waiting: list[bytes], most: int) -> list[bytes]:
        """A proposal that no correct node makes."""
        good = self._own(1)
        if what == "whole mempool":
            chosen, left = [], most
            for tx in [*waiting, self._dice.randbytes(40)]:
                left -= framed_bytes(tx)
                chosen += [tx] if left > 0 else []
            return chosen
        return {
            "gap": [*honest, self._own(5)],
            "backwards": [self._own(2), good],
            "bad signature": [good[:-1] + bytes([good[-1] ^ 1]), *honest],
            "garbage": [b"", self._dice.randbytes(300), *honest],
            "twice": (honest or [good]) * 2,
            "oversized": [
                self._dice.randbytes(most - 8)
            ],  # CometBFT ends consensus at a proposer whose block is longer
            "expired": [self._own(1, until=1)],
            "replayed": [*self._committed, *honest],
            "wrong role": [self._own(1, Rule(bytes(32), 1, "user"))],
            "another's name": [self._own(1, sender="grid")],
        }[what]

    # --- what CometBFT asks --------------------------------------------------------------------------------------

    def _prepare_proposal(self, request: abci.RequestPrepareProposal) -> abci.ResponsePrepareProposal:
        ledger, waiting = self._ledger, list(request.txs)
        honest = propose(ledger.state, ledger.env(ledger.time_ms), waiting, request.max_tx_bytes // 2)
        what = LIES[self._turn % len(LIES)]
        self._turn += 1
        txs = self._lie(what, honest, waiting, request.max_tx_bytes)
        self._note(what)
        return abci.ResponsePrepareProposal(txs=txs)

    def _note(self, what: str) -> None:
        with (self._folder / PROPOSED).open("a") as log:
            log.write(what + "\n")

    def _process_proposal(self, _: abci.RequestProcessProposal) -> abci.ResponseProcessProposal:
        answer = abci.ResponseProcessProposal
        return answer(status=self._dice.choice((answer.ACCEPT, answer.REJECT)))

    def _verify_vote_extension(self, _: abci.RequestVerifyVoteExtension) -> abci.ResponseVerifyVoteExtension:
        if not self._is_extended:
            self._is_extended = True
            self._note(EXTENDED)
        answer = abci.ResponseVerifyVoteExtension
        return answer(status=self._dice.choice((answer.ACCEPT, answer.ACCEPT, answer.REJECT)))

    def _check_tx(self, _: abci.RequestCheckTx) -> abci.ResponseCheckTx:
        return abci.ResponseCheckTx(gas_wanted=1)

    def _finalize_block(self, request: abci.RequestFinalizeBlock) -> abci.ResponseFinalizeBlock:
        self._committed = list(request.txs)[:1] or self._committed
        return super()._finalize_block(request)

    # --- what it hands to its mempool, and so to everybody's ------------------------------------------------------

    def _flood(self) -> None:
        rpc = Rpc(Home(self._folder / "node").rpc_address())
        for number in range(1 << 30):
            time.sleep(FLOOD_S)
            with self._ledger.lock:
                kinds = [
                    self._dice.randbytes(self._dice.choice((1, 60, 60_000))),
                    self._own(2 + number % 200),
                    self._own(1, until=1),
                    self._own(1, sender="grid"),
                    self._own(1)[:-9] + bytes(9),
                    self._own(1, Rule(bytes(32), 1, "user")),
                    *self._committed,
                ]
            tx = base64.b64encode(kinds[number % len(kinds)]).decode()
            with contextlib.suppress(LinkError):
                rpc.call("broadcast_tx_async", tx=tx)
