"""The coordinator's side of its verify workers: whether any is there, what it brings, and the keys that it needs."""

import time
from collections.abc import Callable, Mapping

from pile_coordinator.chain.records import Pile
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import RegisterPile, RetirePile, decode_transaction
from pile_coordinator.chain.transition import OK
from pile_coordinator.engines.engine import Block
from pile_coordinator.verifying.wire import Batch, bucket_of, keys_topic, open_batch, verified_topic
from pile_shared.cose import key_id

AWAY_S = 10.0  # five times what a worker lets pass before it says that it is there


class Roster:
    """The workers of one coordinator. Used by one thread.

    Attributes:
        topic: where they bring their batches.
    """

    def __init__(
        self,
        chain_id: str,
        party: str,
        publics: Mapping[str, bytes],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Expect the workers of these names and public keys; `now_s` is a clock that only runs forward."""
        self._chain_id = chain_id
        self._party = party
        self._workers = {key_id(public): (name, public) for name, public in publics.items()}
        self._now_s = now_s
        self._heard_s = now_s()
        self._buckets: dict[str, set[bytes]] = {}
        self.topic = verified_topic(chain_id, party)

    @property
    def is_here(self) -> bool:
        """Whether a worker was heard of lately; at the start, whether one may still be."""
        return bool(self._workers) and self._now_s() - self._heard_s < AWAY_S

    def __bool__(self) -> bool:
        return bool(self._workers)

    def open(self, message: bytes) -> Batch:
        """A worker's batch. SignatureError, CodecError or BoundsError if it is none."""
        _, batch = open_batch(message, self._workers, self._chain_id)
        self._heard_s = self._now_s()
        return batch

    def key_lists(self, state: State) -> list[tuple[str, bytes]]:
        """All lists of keys, as (topic, payload): what workers need before they can begin."""
        self._buckets = {}
        for pile in state.each(Pile):
            self._enter(pile)
        return [self._list(bucket) for bucket in sorted(self._buckets)]

    def key_lists_after(self, block: Block, state: State) -> list[tuple[str, bytes]]:
        """Those that a block changed."""
        changed: dict[str, None] = {}
        for data, result in zip(block.txs, block.results, strict=True):
            body = decode_transaction(data).body if result.code == OK else None
            if isinstance(body, RegisterPile | RetirePile):
                changed[self._enter(state.get(Pile, body.id if isinstance(body, RegisterPile) else body.pile))] = None
        return [self._list(bucket) for bucket in changed]

    def _enter(self, pile: Pile) -> str:
        bucket = bucket_of(key_id(pile.public))
        listed = self._buckets.setdefault(bucket, set())
        if pile.retired:
            listed.discard(pile.public)
        else:
            listed.add(pile.public)
        return bucket

    def _list(self, bucket: str) -> tuple[str, bytes]:
        return keys_topic(self._chain_id, self._party, bucket), b"".join(sorted(self._buckets[bucket]))
