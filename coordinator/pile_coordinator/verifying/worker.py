"""A verify worker: takes its share of all piles' proofs from the broker, checks signatures, brings them on in batches.

    broker --proofs, shared--> worker --batch of up to 256--> broker --> coordinator

It keeps nothing. The broker is told that a proof has arrived when it has the batch with that proof, which it keeps for the
coordinator; what a worker that is killed had in hand, its piles send again, as they do until a receipt covers it.
"""

import time
from collections import deque
from dataclasses import dataclass
from itertools import islice

from pile_coordinator.log_line import log
from pile_coordinator.mqtt import Broker
from pile_coordinator.verifying.stream import MAX_IDS, Message, Stream, publish_packet
from pile_coordinator.verifying.wire import (
    MAX_BATCH_BYTES,
    MAX_BATCH_PROOFS,
    MAX_REST,
    Batch,
    decode_keys,
    keys_digest,
    keys_topic,
    sign_batch,
    verified_topic,
)
from pile_shared import cose
from pile_shared.errors import LinkError, PilechainError
from pile_shared.platform import es256_verify, random_bytes
from pile_shared.proof import MAX_PROOF_BYTES
from pile_shared.topics import pile_topic
from pile_shared.units import check_id

LINGER_S = 0.02  # for which proofs that are fewer than a batch wait for others
PRESENT_S = 2.0  # between two batches; an empty one says that the worker is there
MAX_OUTSTANDING = 4  # batches that the broker has not taken yet: then no more are verified
MAX_WAITING = MAX_IDS  # proofs not verified yet; a broker has no more than so many packet ids that are not acknowledged
END_S = 5.0  # for what is in hand, when told to stop
RETRY_S = (0.5, 1.0, 2.0, 5.0, 15.0)  # waits before connecting again
_GOOD_RUN_S = 30.0  # after which the waits begin anew
_ROW_BYTES = 64  # around a message in a batch: a pile's id and heads
_START, _CONTEXT = 8, cose.to_be_signed(b"", b"", b"")[:-2]  # of a message; of what is signed, to the key id
_KID = slice(_START, _START + cose.KID_BYTES)
_PAYLOAD = slice(_KID.stop + 1, -cose.SIGNATURE_BYTES - 2)  # with its head
_SIGNATURE = slice(-cose.SIGNATURE_BYTES, None)
_PILE_AT = 3  # the level of a topic that names the pile


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs: whose coordinator it works for, its name and key, the group whose members share the proofs."""

    chain_id: str
    party: str
    name: str
    signer: cose.SoftwareSigner
    group: str
    broker: Broker


class Worker:
    """One worker. `run` serves until `stop`, and connects again whenever the broker was away."""

    def __init__(self, config: WorkerConfig) -> None:
        """Prepare; nothing is opened yet."""
        self._config = config
        aad = cose.purpose(cose.PROOF, config.chain_id)
        self._aad = cose.to_be_signed(b"", b"", aad)[len(_CONTEXT) : -1]  # with its head
        self._topic = verified_topic(config.chain_id, config.party)
        self._keys_topic = keys_topic(config.chain_id, config.party, "").encode()
        self._keys: dict[bytes, dict[bytes, bytes]] = {}  # by bucket: public key by its id
        self._known: dict[bytes, bytes] = {}  # all of them
        self._waiting: deque[Message] = deque()
        self._since_s = 0.0  # when the first of them came
        self._outstanding: dict[int, list[Message]] = {}  # batches by their packet ids, and what they answer
        self._brought_s = 0.0
        self._stopping = False

    def stop(self) -> None:
        """End `run` with the batch in hand."""
        self._stopping = True

    def run(self) -> None:
        """Serve. ConfigError if the files of TLS are of no use."""
        failures = 0
        while not self._stopping:
            began_s = time.monotonic()
            try:
                self._serve()
            except LinkError as error:
                failures = 0 if time.monotonic() - began_s > _GOOD_RUN_S else failures
                pause_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                failures += 1
                log(f"worker {self._config.name}: {error}; tried again in {pause_s} s")
                self._pause(pause_s)

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until_s:
            time.sleep(0.1)

    def _serve(self) -> None:
        config = self._config
        self._waiting, self._outstanding, self._brought_s = deque(), {}, 0.0
        proofs = f"$share/{config.group}/{pile_topic(config.chain_id, '+', 'proof')}"
        client_id = f"verify-{random_bytes(8).hex()}"  # who guessed it could end our connection
        with Stream(config.broker, client_id) as stream:  # without a session: a dead worker's share goes to the others
            stream.subscribe(keys_topic(config.chain_id, config.party, "+"))
            stream.subscribe(proofs)
            log(f"worker {config.name} shares the proofs of chain {config.chain_id} in a group")
            while not self._stopping:
                self._take(stream, self._wait_s())
                self._bring_what_is_due(stream)
            self._end(stream, proofs)

    def _end(self, stream: Stream, proofs: str) -> None:
        """Let the others have the proofs from now on, and bring those that are here."""
        stream.unsubscribe(proofs)
        until_s = time.monotonic() + END_S
        while (self._waiting or self._outstanding) and time.monotonic() < until_s:
            self._bring_what_is_due(stream)
            self._take(stream, LINGER_S)

    def _wait_s(self) -> float:
        """For messages: until a batch is due that waits for company."""
        if len(self._outstanding) >= MAX_OUTSTANDING:
            return PRESENT_S
        if len(self._waiting) >= MAX_BATCH_PROOFS:
            return 0.0
        now_s = time.monotonic()
        due_s = self._since_s + LINGER_S if self._waiting else self._brought_s + PRESENT_S
        return max(0.0, due_s - now_s)

    def _take(self, stream: Stream, wait_s: float) -> None:
        messages, acknowledged = stream.receive(wait_s)
        if not self._waiting:
            self._since_s = time.monotonic()
        for message in messages:
            if message.topic.startswith(self._keys_topic):
                self._learn(message)
                stream.acknowledge([message.packet_id] if message.packet_id else [])
            elif message.packet_id or len(self._waiting) < MAX_WAITING:
                self._waiting.append(message)
        for packet_id in acknowledged:
            answered = self._outstanding.pop(packet_id, [])
            stream.acknowledge(message.packet_id for message in answered if message.packet_id)

    def _learn(self, message: Message) -> None:
        bucket = message.topic[len(self._keys_topic) :]
        try:
            listed = decode_keys(message.payload)
        except PilechainError as error:
            log(f"worker {self._config.name}: a list of keys is refused: {error}")
            return
        for kid in self._keys.get(bucket, ()):
            self._known.pop(kid, None)
        self._keys[bucket] = listed
        self._known.update(listed)

    def _bring_what_is_due(self, stream: Stream) -> None:
        now_s = time.monotonic()
        is_due = bool(self._waiting) and now_s >= self._since_s + LINGER_S
        is_due = is_due or len(self._waiting) >= MAX_BATCH_PROOFS or now_s >= self._brought_s + PRESENT_S
        if is_due and len(self._outstanding) < MAX_OUTSTANDING:
            self._bring(stream)

    def _bring(self, stream: Stream) -> None:
        """Verify a batch of what waits, and send it on."""
        batch, taken = self._checked()
        answered = [self._waiting.popleft() for _ in range(taken)]
        packet_id = stream.next_id()
        self._outstanding[packet_id] = answered
        message = sign_batch(batch, self._config.signer, self._config.chain_id)
        stream.send(publish_packet(self._topic, message, packet_id))
        self._since_s = self._brought_s = time.monotonic()

    def _checked(self) -> tuple[Batch, int]:
        """A batch of what waits, and of how many messages; those that are too long for a proof are left out."""
        verified: list[bytes] = []
        publics: list[bytes] = []
        rest: list[tuple[str, bytes]] = []
        size = taken = 0
        for topic, message, _ in islice(self._waiting, MAX_BATCH_PROOFS):
            is_short = len(message) <= MAX_PROOF_BYTES
            size += len(message) + _ROW_BYTES if is_short else 0
            if size > MAX_BATCH_BYTES:
                break
            taken += 1
            public = self._verify(message)
            if public is not None:
                verified.append(message)
                publics.append(public)
            elif len(rest) < MAX_REST and is_short and (pile := _pile_of(topic)):
                rest.append((pile, message))
        return Batch(verified, keys_digest(publics), rest), taken

    def _verify(self, message: bytes) -> bytes | None:
        """The pile's public key if it signed this; None if not, or if no such pile is known here."""
        kid, to_be_signed, signature = self._claim(message)
        public = self._known.get(kid)
        return public if public is not None and es256_verify(public, to_be_signed, signature) else None

    def _claim(self, message: bytes) -> tuple[bytes, bytes, bytes]:
        """Key id, what is signed, signature of a COSE_Sign1, by their places; of anything else something that no key signed.

        The coordinator takes a message apart strictly (`cose.parse1`); then this is what its parts give, with less work.
        """
        kid = message[_KID]
        return kid, b"".join((_CONTEXT, kid, self._aad, message[_PAYLOAD])), message[_SIGNATURE]


def _pile_of(topic: bytes) -> str:
    """The pile that a topic names; empty if no pile can be called so."""
    try:
        return check_id("pile", topic.split(b"/")[_PILE_AT].decode())
    except (PilechainError, UnicodeDecodeError):
        return ""
