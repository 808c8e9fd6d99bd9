"""The second core only makes answers come sooner: with it, without it, or when it dies, they are the same."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from world import Market, key

from pile_coordinator.chain.transactions import Deposit
from pile_coordinator.engines import verifier
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.engines.verifier import Claim, SecondCoreVerifier, claim_of_proof, claim_of_transaction
from pile_shared import cose
from pile_shared.platform import es256_verify
from pile_shared.proof import HEARTBEAT


def claim(number: int, *, good: bool = True) -> Claim:
    message = f"message {number}".encode()
    return key("signer").public, message if good else b"another", key("signer").sign(message)


@pytest.fixture
def second() -> Iterator[SecondCoreVerifier]:
    second = SecondCoreVerifier()
    yield second
    second.close()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, second: SecondCoreVerifier) -> list[Claim]:
    """What was verified in this process."""
    seen: list[Claim] = []

    def verify(*claim: bytes) -> bool:
        seen.append(claim)  # type: ignore[arg-type]
        return es256_verify(*claim)

    tell = second._tell

    def tell_the_function(batch: list[Claim]) -> None:
        second._here = es256_verify  # what the process can import
        tell(batch)
        second._here = verify

    monkeypatch.setattr(second, "_here", verify)
    monkeypatch.setattr(second, "_tell", tell_the_function)
    return seen


def test_what_it_was_told_of_is_verified_elsewhere(second: SecondCoreVerifier, here: list[Claim]) -> None:
    claims = [claim(i, good=i % 3 != 0) for i in range(300)]
    second.tell_ahead(claims)
    assert [second(*c) for c in claims] == [i % 3 != 0 for i in range(300)]
    assert here == []
    assert second(*claims[1])
    assert here == []  # remembered


def test_a_false_answer_is_not_remembered(second: SecondCoreVerifier, here: list[Claim]) -> None:
    second.tell_ahead([claim(1, good=False)])
    assert not second(*claim(1, good=False))
    assert not second(*claim(1, good=False))
    assert here == [claim(1, good=False)]


def test_what_it_was_not_told_of_is_verified_here(second: SecondCoreVerifier, here: list[Claim]) -> None:
    second.tell_ahead([claim(1)])
    assert second(*claim(2))
    assert here == [claim(2)]


def test_when_the_process_is_killed_everything_is_verified_here(second: SecondCoreVerifier, here: list[Claim]) -> None:
    second.tell_ahead([claim(0)])
    assert second(*claim(0))
    assert second._pool is not None
    (process,) = second._pool._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    claims = [claim(i, good=i % 3 != 0) for i in range(1, 400)]
    for _ in range(2):
        second.tell_ahead(claims)
        assert [second(*c) for c in claims] == [i % 3 != 0 for i in range(1, 400)]
    assert here[:399] == claims


def test_a_process_that_is_stopped_is_not_waited_for_long(
    second: SecondCoreVerifier, here: list[Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "MAX_WAIT_S", 0.1)
    second.tell_ahead([claim(0)])
    assert second._under_way[claim(0)][0]._future.result(30) == [True]
    assert second._pool is not None
    (process,) = second._pool._processes.values()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        second.tell_ahead([claim(1)])
        assert second(*claim(1))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert here == [claim(1)]


def test_what_nobody_asks_for_makes_room(second: SecondCoreVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_UNDER_WAY", 10)
    second.tell_ahead([claim(i) for i in range(8)])
    second.tell_ahead([claim(i) for i in range(4, 16)])
    assert list(second._under_way) == [claim(i) for i in range(6, 16)]


def test_it_starts_no_process_before_it_is_told_of_something(second: SecondCoreVerifier) -> None:
    assert second(*claim(1))
    assert second._pool is not None
    assert not second._pool._processes


ORPHAN = """
import sys
from pile_coordinator.engines.verifier import SecondCoreVerifier
second = SecondCoreVerifier()
second.tell_ahead([(bytes(65), b"", bytes(64))])
second(bytes(65), b"", bytes(64))
print(*second._pool._processes, flush=True)
sys.stdin.read()
"""


def test_the_process_does_not_outlive_a_killed_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        waiting = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
        parent.kill()
        parent.wait()
        if waiting is None:
            pytest.skip("no way to wait for a grandchild on this platform")
        import select

        assert select.select([waiting], [], [], 30)[0]
        os.close(waiting)


def test_the_claims_of_transactions_and_proofs_are_what_the_chain_asks_for() -> None:
    """Every signature that a block asks for was among the claims read off its bytes before."""
    market = Market(2, 1)
    asked: list[Claim] = []
    truth = CachingVerifier(es256_verify)

    def verify(*claim: bytes) -> bool:
        asked.append(claim)  # type: ignore[arg-type]
        return truth(*claim)  # type: ignore[arg-type]

    proof = market.prove("pile-1", HEARTBEAT, [(market.time_ms, 5)])
    market.send("operator", market.batch(proof))
    market.send("grid", Deposit("user-1", 5, "five"))
    txs = list(market.queue)
    claims = [claim_of_transaction(market.state, market.chain_id, tx) for tx in txs]
    claims.insert(1, claim_of_proof(market.state, market.chain_id, proof))
    env = market.env
    market.env = lambda: type(env())(*[verify if n == "verify" else getattr(env(), n) for n in env().__slots__])  # type: ignore[method-assign]
    market.ok()
    assert asked == claims


@pytest.mark.parametrize("claim_of", [claim_of_transaction, claim_of_proof])
def test_there_is_no_claim_by_nobody(claim_of) -> None:
    market = Market()
    stranger = cose.sign1(b"payload", key("stranger"), b"")
    assert claim_of(market.state, market.chain_id, stranger) is None
    assert claim_of(market.state, market.chain_id, b"garbage") is None
