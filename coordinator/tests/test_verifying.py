"""Verify workers: what they bring is what a coordinator would have taken itself, whoever is killed or lies meanwhile."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import PILE, Served
from world import NOW, Market

from pile_coordinator.chain.records import Pile
from pile_coordinator.chain.transactions import RegisterPile, RetirePile
from pile_coordinator.ingest import ProofDesk
from pile_coordinator.keys import make_key
from pile_coordinator.mqtt import Broker, Tls
from pile_coordinator.verifying import roster, stream
from pile_coordinator.verifying.config import load_worker
from pile_coordinator.verifying.stream import Stream, packet, publish_packet, split
from pile_coordinator.verifying.wire import Batch, decode_keys, keys_digest, keys_topic, open_batch, sign_batch
from pile_coordinator.verifying.worker import Worker, WorkerConfig
from pile_hil.broker import Mosquitto, find_mosquitto, make_certificates
from pile_hil.requirements import require
from pile_hil.site import SiteProcess
from pile_shared import cose
from pile_shared.certificate import decode_inclusion
from pile_shared.codec import decode
from pile_shared.errors import ConfigError, LinkError, PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof, proof_hash
from pile_shared.reading import Reading

WORKERS = ("worker-1", "worker-2")
GROUP = "0123456789abcdef"
WAIT_S = 60.0
EACH = 120  # proofs of each pile
SEND_AGAIN_S = 3.0
MANY = ("max_inflight_messages 2000", "max_queued_messages 10000")


# --- the wire ------------------------------------------------------------------------------------------------------------

SIGNER = cose.SoftwareSigner(sha256(b"worker"))
KNOWN = {SIGNER.kid: ("worker-1", SIGNER.public)}
BATCH = Batch([b"one", b"two"], keys_digest([PILE.public, PILE.public]), [("pile-9", b"three")])


def test_a_batch_comes_as_it_was_signed() -> None:
    assert open_batch(sign_batch(BATCH, SIGNER, "demo-1"), KNOWN, "demo-1") == ("worker-1", BATCH)


def test_a_batch_of_anybody_else_is_refused() -> None:
    message = sign_batch(BATCH, SIGNER, "demo-1")
    other = cose.SoftwareSigner(sha256(b"other"))
    altered = message.replace(b"two", b"tow")
    for data, chain, code in (
        (sign_batch(BATCH, other, "demo-1"), "demo-1", "unknown_key"),
        (altered, "demo-1", "bad_signature"),
        (message, "demo-2", "bad_signature"),
        (message[:-1], "demo-1", "malformed"),
        (bytes(70_000), "demo-1", "oversized"),
        (sign_batch(Batch([], b"short", []), SIGNER, "demo-1"), "demo-1", "bounds"),
        (sign_batch(Batch([], bytes(32), [("No Pile", b"")]), SIGNER, "demo-1"), "demo-1", "bounds"),
        (sign_batch(Batch([b""] * 257, bytes(32), []), SIGNER, "demo-1"), "demo-1", "codec"),
    ):
        with pytest.raises(PilechainError) as refusal:
            open_batch(data, KNOWN, chain)
        assert refusal.value.code == code


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 40), st.binary(max_size=1))
def test_packets_are_the_same_in_whatever_pieces_they_come(bodies: list[bytes], step: int, rest: bytes) -> None:
    data, buffer, found = b"".join(packet(0x30, body) for body in bodies) + rest, bytearray(), list[bytes]()
    for start in range(0, len(data), step):
        buffer += data[start : start + step]
        packets, taken = split(buffer)
        del buffer[:taken]
        found += [body for _, body in packets]
    assert (found, bytes(buffer)) == (bodies, rest)


@pytest.mark.parametrize("data", [b"\x30\xff\xff\xff\xff\x01", packet(0x30, bytes(stream.MAX_PACKET_BYTES + 1))])
def test_a_packet_that_is_too_long_ends_the_connection(data: bytes) -> None:
    with pytest.raises(LinkError):
        split(data)


@given(st.integers(1, 5000), st.text("abc-1", min_size=1, max_size=30))
def test_a_workers_claim_is_what_the_coordinator_finds_in_the_parts(number: int, chain_id: str) -> None:
    readings = [Reading(1, 2, bytes(8), i, 0, 0) for i in range(number % 60)]
    message = Proof(number, NO_PREVIOUS, None, HEARTBEAT, readings).sign(PILE, chain_id)
    signed = cose.parse1(message, len(message))
    to_be_signed = cose.to_be_signed(signed.kid, signed.payload, cose.purpose(cose.PROOF, chain_id))
    worker = Worker(WorkerConfig(chain_id, "coordinator", "worker-1", SIGNER, GROUP, Broker("", 0)))
    assert worker._claim(message) == (signed.kid, to_be_signed, signed.signature)


@given(st.binary(max_size=200))
def test_no_bytes_are_a_claim_that_breaks_a_worker(data: bytes) -> None:
    worker = Worker(WorkerConfig("demo-1", "coordinator", "worker-1", SIGNER, GROUP, Broker("", 0)))
    worker._known = {data[8:16]: PILE.public}
    assert worker._verify(data) is None


# --- the desk ------------------------------------------------------------------------------------------------------------


def test_proofs_of_a_retired_pile_are_refused() -> None:
    market = Market(1, 0)
    desk = ProofDesk(market.chain_id, lambda *_: True)  # type: ignore[arg-type]
    first = market.prove("pile-1", HEARTBEAT, [(NOW + 1, 1)])
    market.send("operator", RetirePile("pile-1"))
    market.ok()
    assert desk.offer(market.state, "pile-1", first) == "unknown_pile"
    assert desk.ready == 0


# --- a site --------------------------------------------------------------------------------------------------------------


class Scaled(Served):
    """A served coordinator that names two workers, processes that are started by a test."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.signers = {name: make_key(folder / f"{name}.key") for name in WORKERS}
        self.workers: dict[str, SiteProcess] = {}
        super().__init__(folder, port)
        self.admit()

    def _config(self) -> Path:
        path = self.site.write_coordinator()
        lines = [f'{name} = "{signer.public.hex()}"' for name, signer in self.signers.items()]
        path.write_text(path.read_text() + "\n".join(["", "[workers]", *lines, ""]))
        return path

    def start_worker(self, name: str) -> SiteProcess:
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'genesis = "genesis.json"\nparty = "coordinator"\nname = "{name}"\nkey = "{name}.key"\ngroup = "{GROUP}"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.site.port}\n'
        )
        command = (sys.executable, "-m", "pile_coordinator.cli", "verify-worker", "--config", str(path))
        self.workers[name] = self.site.start(name, *command)
        wait_for(lambda: "shares the proofs" in self.workers[name].text(), self.workers[name].text)
        return self.workers[name]

    def last(self, pile: str) -> int:
        return self.coordinator.engine.state.get(Pile, pile).last_sequence

    def close(self) -> None:
        self.site.close()
        super().close()


def wait_for(condition: Callable[[], bool], what: object = "") -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, what() if callable(what) else what
        time.sleep(0.02)


def proofs_of(signer: cose.SoftwareSigner, chain_id: str, count: int) -> list[bytes]:
    """A pile's heartbeats, from now on back."""
    previous, messages, since_ms = NO_PREVIOUS, list[bytes](), time.time_ns() // 1_000_000 - count * 1000
    for sequence in range(1, count + 1):
        reading = Reading(since_ms + sequence * 1000, 2, bytes(8), 0, 0, 0)
        messages.append(Proof(sequence, previous, None, HEARTBEAT, [reading]).sign(signer, chain_id))
        previous = proof_hash(messages[-1])
    return messages


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    require(find_mosquitto() is not None, "needs mosquitto (apt install mosquitto)")
    with Mosquitto(tmp_path_factory.mktemp("broker"), extra_config=MANY, quiet=True) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, broker: Mosquitto) -> Iterator[Scaled]:
    scaled = Scaled(tmp_path, broker.port)
    yield scaled
    scaled.close()


def test_a_killed_worker_loses_no_proof(site: Scaled) -> None:
    """Two workers under load, one dies by SIGKILL: what it had in hand comes again, and the other does all of it."""
    chain_id, piles = site.chain_id, [f"pile-{i}" for i in range(2, 8)]
    keys = {pile: cose.SoftwareSigner(sha256(pile.encode())) for pile in piles}
    with site.site.wallet("operator") as operator:
        for pile in piles:
            operator.send(RegisterPile(pile, "olga", keys[pile].public, "SDM630", pile, "north", 7000))
    proofs = {pile: proofs_of(keys[pile], chain_id, EACH) for pile in piles}
    for name in WORKERS:
        site.start_worker(name)
    wait_for(lambda: not site.coordinator._hears_proofs)
    covered, sent_s, killed = dict.fromkeys(piles, 0), 0.0, False
    deadline_s = time.monotonic() + WAIT_S
    while min(covered.values()) < EACH:
        assert time.monotonic() < deadline_s, (covered, site.coordinator.counts)
        if time.monotonic() - sent_s > SEND_AGAIN_S:  # as piles do, from the last receipt on
            for number in range(EACH):
                for pile in piles:
                    if number >= covered[pile]:
                        site.proof(proofs[pile][number], pile)
            sent_s = time.monotonic()
        for topic, payload in site.raw.take(0.05, 1000):
            if topic.endswith("/receipt"):
                _, pile, sequence, _ = decode(decode_inclusion(payload).leaf, 1024)
                covered[pile] = max(covered[pile], sequence)
        if not killed and max(covered.values()):
            site.workers["worker-1"].signal(signal.SIGKILL)
            killed = True
    assert killed
    assert [site.coordinator.engine.state.get(Pile, pile).admitted for pile in piles] == [EACH] * len(piles)
    assert not site.coordinator._hears_proofs, "the coordinator verified itself"


def test_what_does_not_verify_is_told_and_refused(site: Scaled) -> None:
    """A worker does not hide a bad proof: the coordinator says why, as it would without workers."""
    worker = site.start_worker("worker-1")
    (one,) = proofs_of(PILE, site.chain_id, 1)
    broken = bytearray(one)
    broken[-40] ^= 1
    site.proof(bytes(broken))
    site.proof(b"nonsense")
    site.counted("bad_signature", 1)
    site.counted("malformed", 1)
    site.proof(one, "pile-77")  # whoever brings it: its key says whose it is
    wait_for(lambda: site.last("pile-1") == 1, worker.text)
    with site.site.wallet("operator") as operator:
        operator.send(RetirePile("pile-1"))
    site.proof(proofs_of(PILE, site.chain_id, 2)[1])
    site.counted("unknown_pile", 1)
    worker.stop()
    assert worker.text().endswith("worker ended\n")


def test_without_workers_the_coordinator_takes_the_proofs(site: Scaled, monkeypatch: pytest.MonkeyPatch) -> None:
    """It notices that the last one is gone, and that one is back."""
    monkeypatch.setattr(roster, "AWAY_S", 0.5)
    proofs = proofs_of(PILE, site.chain_id, 3)
    wait_for(lambda: site.coordinator._hears_proofs)
    send_until(site, proofs[0], 1)
    monkeypatch.setattr(roster, "AWAY_S", 10.0)
    worker = site.start_worker("worker-2")
    wait_for(lambda: not site.coordinator._hears_proofs, worker.text)
    send_until(site, proofs[1], 2)
    worker.kill()
    monkeypatch.setattr(roster, "AWAY_S", 0.5)
    send_until(site, proofs[2], 3)
    assert site.coordinator._hears_proofs


def send_until(site: Scaled, proof: bytes, sequence: int) -> None:
    def sent() -> bool:
        site.proof(proof)
        time.sleep(0.2)  # as often as a very impatient pile
        return site.last("pile-1") == sequence

    wait_for(sent, lambda: str(site.coordinator.counts))


def test_a_worker_with_other_keys_is_not_believed(site: Scaled) -> None:
    """A batch by a worker of another list of keys, or of nobody's, lets no proof in that the pile did not sign."""
    forged = cose.SoftwareSigner(sha256(b"forger"))
    (bad,) = proofs_of(forged, site.chain_id, 1)
    disguised = bad.replace(forged.kid, PILE.kid)
    (good,) = proofs_of(PILE, site.chain_id, 1)
    topic = site.coordinator.roster.topic

    def bring(batch: Batch, signer: cose.SoftwareSigner) -> None:
        site.raw.publish(topic, sign_batch(batch, signer, site.chain_id))

    bring(Batch([good], keys_digest([PILE.public]), []), forged)
    site.counted("unknown_key", 1)
    bring(Batch([disguised], keys_digest([forged.public]), []), site.signers["worker-1"])
    site.counted("stale_keys", 1)
    site.counted("bad_signature", 1)
    assert site.last("pile-1") == 0
    bring(Batch([good], keys_digest([PILE.public]), []), site.signers["worker-1"])
    wait_for(lambda: site.last("pile-1") == 1)


def test_key_lists_follow_the_chain(site: Scaled, broker: Mosquitto) -> None:
    known: dict[bytes, bytes] = {}
    with Stream(Broker("127.0.0.1", broker.port), "reader") as reader:
        reader.subscribe(keys_topic(site.chain_id, "coordinator", "+"))
        seen = list[int]()

        def hears(count: int) -> bool:
            for message in reader.receive(0.1).messages:
                reader.acknowledge([message.packet_id])
                listed = decode_keys(message.payload)
                known.clear() if not listed else known.update(listed)
                seen.append(len(listed))
            return len(known) == count

        wait_for(lambda: hears(1), lambda: str(seen))
        assert known == {PILE.kid: PILE.public}
        with site.site.wallet("operator") as operator:
            operator.send(RetirePile("pile-1"))
        wait_for(lambda: hears(0), lambda: str(seen))


# --- the connection ------------------------------------------------------------------------------------------------------


def test_a_stream_over_tls(tmp_path: Path) -> None:
    require(find_mosquitto() is not None, "needs mosquitto (apt install mosquitto)")
    files = make_certificates(tmp_path / "tls")
    files["pile-key.pem"].chmod(0o600)
    tls = {"ca": files["ca.pem"], "cert": files["broker.pem"], "key": files["broker-key.pem"]}
    with Mosquitto(tmp_path / "broker", tls=tls, quiet=True) as broker:
        spec = Broker(
            "localhost", broker.port, tls=Tls(files["ca.pem"], files["pile.pem"], files["pile-key.pem"]), keepalive_s=5
        )
        with Stream(spec, "one") as one, Stream(spec, "two") as two:
            two.subscribe("a/+")
            payloads = [os.urandom(1 + i * 997) for i in range(40)]  # over a record, too
            one.send(b"".join(publish_packet("a/b", payload, one.next_id()) for payload in payloads))
            heard, acknowledged = list[bytes](), list[int]()

            def hears() -> bool:
                messages, _ = two.receive(0.1)
                two.acknowledge(message.packet_id for message in messages)
                heard.extend(message.payload for message in messages)
                acknowledged.extend(one.receive(0.0).acknowledged)
                return len(heard) == len(acknowledged) == len(payloads)

            wait_for(hears)
            assert (heard, acknowledged) == (payloads, list(range(1, len(payloads) + 1)))
            broker.kill()
            with pytest.raises(LinkError):
                hears_until_the_end(one)
        with pytest.raises(LinkError, match="no connection"):
            Stream(spec, "three")


def hears_until_the_end(stream: Stream) -> None:
    while True:
        stream.receive(1.0)


def test_a_worker_file_says_what_is_wrong(tmp_path: Path) -> None:
    site = tmp_path / "worker.toml"
    site.write_text('genesis = "none.json"\n')
    with pytest.raises(ConfigError, match=r"none\.json"):
        load_worker(site)
