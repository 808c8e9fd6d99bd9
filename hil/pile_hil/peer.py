"""The other end of a pile's wire, for tests: a chain of three validators, a user, and a coordinator on a real broker.

Everything it sends is what a real one sends, made with pile_shared: certificates, inclusion paths, signatures. It keeps
every proof it hears and checks each as a coordinator must.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from pile_shared import cose, merkle
from pile_shared.certificate import (
    Certificate,
    Header,
    Inclusion,
    Validator,
    attest,
    encode_handover,
    validators_hash,
)
from pile_shared.codec import encode
from pile_shared.platform import sha256
from pile_shared.proof import NO_PREVIOUS, Proof, open_proof, proof_hash
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_RECEIPT, Terms, terms_from
from pile_shared.topics import pile_topic

if TYPE_CHECKING:
    from collections.abc import Callable

START, STOP = 1, 2
_CONNECT_SECONDS = 10


def secret(number: int) -> bytes:
    """A key for tests, the same every time."""
    return number.to_bytes(32, "big")


class Chain:
    """Certified blocks with whatever leaves a test wants in them."""

    def __init__(
        self, chain_id: str = "test-chain", powers: tuple[int, ...] = (1, 1, 1), first_key: int = 1000
    ) -> None:
        self.chain_id = chain_id
        self.signers = [cose.SoftwareSigner(secret(first_key + i)) for i in range(len(powers))]
        self.validators = [
            Validator(f"node-{i}", signer.public, power)
            for i, (signer, power) in enumerate(zip(self.signers, powers, strict=True))
        ]
        self.height = 0

    def hand_over(self, following: Chain, *, signing: tuple[int, ...] | None = None) -> bytes:
        """The message that makes the validators of `following` the next set, who go on from this chain's height."""
        certificate = self._certified(0, merkle.EMPTY_ROOT, following.validators, signing)
        following.height = self.height
        return encode_handover(certificate, following.validators)

    def inclusion(self, leaf: bytes, *, signing: tuple[int, ...] | None = None, others: int = 4) -> Inclusion:
        """Proof that `leaf` is in a new block, among `others` more, attested by the validators of indices `signing`."""
        leaves = [encode([99, i]) for i in range(others)]
        index = others // 2
        leaves.insert(index, leaf)
        levels = merkle.levels(leaves)
        certificate = self._certified(len(leaves), levels[-1][0], self.validators, signing)
        return Inclusion(certificate, leaf, index, merkle.path(levels, index))

    def _certified(
        self, leaves: int, result_root: bytes, following: list[Validator], signing: tuple[int, ...] | None
    ) -> Certificate:
        self.height += 1
        header = Header(
            chain_id=self.chain_id,
            height=self.height,
            time_ms=1_800_000_000_000 + self.height,
            proposer="node-0",
            tx_count=0,
            result_count=leaves,
            previous=sha256(b"previous"),
            tx_root=merkle.EMPTY_ROOT,
            result_root=result_root,
            state_root=sha256(b"state"),
            validators_hash=validators_hash(self.validators),
            next_validators_hash=validators_hash(following),
        ).encoded()
        chosen = range(len(self.signers)) if signing is None else signing
        attestations: list[list[object]] = [[i, attest(header, self.signers[i], self.chain_id)] for i in chosen]
        return Certificate(header, attestations)

    def contract(self, terms: Terms) -> bytes:
        """The message that reserves a pile."""
        return self.inclusion(encode([LEAF_CONTRACT, terms.encoded()])).encoded()

    def closed(self, contract_id: bytes, outcome: str = "settled") -> bytes:
        """The message that ends a contract."""
        return self.inclusion(encode([LEAF_CLOSED, contract_id, outcome])).encoded()

    def receipt(self, pile_id: str, through: int, digest: bytes) -> bytes:
        """The message that tells which proofs are on the chain."""
        return self.inclusion(encode([LEAF_RECEIPT, pile_id, through, digest])).encoded()


def make_terms(**changes: object) -> Terms:
    """Plausible terms; `changes` needs at least pile, pile_public, meter_serial and user_public to match a pile."""
    values: dict[str, object] = {
        "version": 1,
        "order": sha256(b"order"),
        "listing": sha256(b"listing"),
        "zone": "zone-1",
        "pile": "pile-1",
        "pile_public": b"\x04" + bytes(64),
        "meter_serial": "12345678",
        "rated_power_w": 11_000,
        "user": "user-1",
        "user_public": b"\x04" + bytes(64),
        "owner": "owner-1",
        "owner_public": b"\x04" + bytes(64),
        "energy_wh": 1_000,
        "window_start_ms": 0,
        "window_end_ms": 1,
        "price_micro_per_kwh": 300_000,
        "on_curve": False,
        "tolerance_wh": 100,
        "overuse_wh": 100,
        "catalog_sell_micro_per_kwh": 500_000,
        "catalog_buy_micro_per_kwh": 200_000,
        "fee_micro": 10_000,
        "bond_micro": 100_000,
        "begin_grace_ms": 172_800_000,
        "evidence_window_ms": 600_000,
        "confirm_window_ms": 600_000,
    }
    return terms_from({**values, **changes})


def session_message(
    user: cose.SoftwareSigner, chain_id: str, contract_id: bytes, action: int, time_ms: int, limit_wh: int = 0
) -> bytes:
    """A user's signed start or stop."""
    payload = encode([contract_id, action, time_ms, limit_wh])
    return cose.sign1(payload, user, cose.purpose(cose.SESSION, chain_id))


class Coordinator:
    """Hears one pile on a broker, checks its proofs, and answers with receipts while `answers` is set."""

    def __init__(self, port: int, chain: Chain, pile_id: str, public: bytes) -> None:
        self.chain = chain
        self.pile_id = pile_id
        self.public = public
        self.answers = True
        self.proofs: list[Proof] = []
        self.messages: list[bytes] = []
        self.repeated = 0
        self.faults: list[str] = []
        self.status = b""
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"coordinator-{pile_id}", clean_session=False)
        self._client.on_connect = lambda client, *_rest: client.subscribe(
            [(self._topic("proof"), 1), (self._topic("status"), 1)]
        )
        self._client.on_subscribe = lambda *_rest: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self._hear(message.topic, bytes(message.payload))
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        if not self._subscribed.wait(_CONNECT_SECONDS):
            raise TimeoutError("coordinator cannot subscribe")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, kind: str, payload: bytes) -> None:
        """Publish a downlink message."""
        self._client.publish(self._topic(kind), payload, qos=1)

    def wait(self, condition: Callable[[Coordinator], bool], seconds: float = 20) -> None:
        """Until `condition` holds; it is asked again after every message.

        Raises:
            TimeoutError: with what was heard instead.
        """
        give_up_s = time.monotonic() + seconds
        with self._changed:
            while not condition(self):
                rest_s = give_up_s - time.monotonic()
                if rest_s <= 0:
                    heard = [(proof.sequence, proof.event, proof.reason) for proof in self.proofs]
                    raise TimeoutError(f"heard {heard}, faults {self.faults}")
                self._changed.wait(min(rest_s, 0.5))

    def _topic(self, kind: str) -> str:
        return pile_topic(self.chain.chain_id, self.pile_id, kind)

    def _hear(self, topic: str, payload: bytes) -> None:
        with self._changed:
            if topic.endswith("status"):
                self.status = payload
            else:
                self._hear_proof(payload)
            self._changed.notify_all()

    def _hear_proof(self, message: bytes) -> None:
        try:
            proof = open_proof(message, self.public, self.chain.chain_id)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the test wants to see it
            self.faults.append(f"{type(error).__name__}: {error}")
            return
        if proof.sequence <= len(self.messages):
            self.repeated += 1
            if self.messages[proof.sequence - 1] != message:
                self.faults.append(f"two proofs {proof.sequence}")
        elif proof.sequence > len(self.messages) + 1:
            self.faults.append(f"gap before {proof.sequence}")
            return
        else:
            previous = proof_hash(self.messages[-1]) if self.messages else NO_PREVIOUS
            if proof.previous != previous:
                self.faults.append(f"chain broken at {proof.sequence}")
            self.messages.append(message)
            self.proofs.append(proof)
        if self.answers:
            digest = proof_hash(self.messages[-1])
            self.send("receipt", self.chain.receipt(self.pile_id, len(self.messages), digest))
