"""`pilechain demo` as a newcomer runs it: its output is the README's, its certificates verify, and none can be faked."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.transactions import BuyNotes, RegisterParty, decode_transaction
from pile_coordinator.config import load_genesis
from pile_coordinator.engines.store import Store
from pile_coordinator.verify import LINKS, VerifyError, verify_order
from pile_edge.board.bundle import find_micropython
from pile_hil.requirements import require
from pile_shared.cose import key_id

ROOT = Path(__file__).parents[1]
PILECHAIN = Path(sys.executable).with_name("pilechain")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    require(find_micropython() is not None, "the demo's second pile runs MicroPython")
    folder = tmp_path_factory.mktemp("demo")
    with (folder / "told").open("w+") as told:
        process = subprocess.Popen(
            [PILECHAIN, "demo", "--keep", "--out", "demo-out"], cwd=folder, stdout=told, stderr=told
        )
        try:
            yield folder / "demo-out", Kept(process, folder / "told")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


class Kept:
    """A demo that runs, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], told: Path) -> None:
        self.process, self._told = process, told
        self.story, rest = self.until("12. The site lives on").split("12. The site lives on")
        assert rest

    def until(self, line: str) -> str:
        """All it has printed, once a line of it is there."""
        deadline = time.monotonic() + 115  # under the 120 s of a test
        while line not in (text := self._told.read_text()):
            assert self.process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        return text


def shape(text: str) -> list[str]:
    """Lines with every measured number as `#`: what was metered differs by a few Wh from run to run."""
    text = re.sub(r"anon-[0-9a-f]{26}", "anon-#", text)
    return [re.sub(r"-?\d[\d.]*", "#", " ".join(line.split())) for line in text.strip().splitlines()]


def test_the_output_is_the_readmes(demo):
    output = demo[1].story
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```text\n\$ make demo\n(.*?)```", readme, re.DOTALL)
    shown = [line for line in shape(block) if not line.startswith("installing")]
    # A machine that stalls for a second lets the car draw past the tolerance, and the grid provides the rest.
    stalled = shape("   escrow -> grid  1 CNY  what was used beyond the contract, at the catalog price")
    assert [line for line in shape(output) if line not in stalled] == shown


def test_balances_sum_to_zero(demo):
    output = demo[1].story
    rows = dict(re.findall(r"^\s+(\w+)\s+(-?\d+\.\d{6}) CNY$", output, re.MULTILINE))
    total = rows.pop("sum")
    assert set(rows) == {"dan", "eva", "olga", "otto", "grid", "fees", "notes", "outside"}
    assert sum(int(value.replace(".", "")) for value in rows.values()) == int(total.replace(".", "")) == 0


def without_network() -> list[str]:
    """What runs a command in an empty network namespace, where this user may make one."""
    unshare = ["unshare", "--net"]
    allowed = (
        shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0
    )
    return unshare if allowed else []


def test_every_certificate_verifies_offline(demo):
    folder, _ = demo
    files = sorted(folder.glob("*.cbor"))
    assert [file.stem for file in files] == ["anon", "dan", "eva"]
    done = subprocess.run(
        [*without_network(), PILECHAIN, "verify", *files],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("VALID") == 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["dan", "eva"])
def test_flipping_any_byte_is_rejected_with_the_broken_link(demo, who):
    folder, _ = demo
    genesis = load_genesis(folder / "genesis.json")
    chance = random.Random(5)  # one bit of each byte in one certificate, any change of each byte in the other
    data = (folder / f"{who}.cbor").read_bytes()
    verify_order(data, genesis)
    links = set()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= (1 << (at % 8)) if who == "dan" else chance.randrange(1, 256)
        with pytest.raises(VerifyError) as caught:
            verify_order(bytes(flipped), genesis)
        links.add(caught.value.link)
        assert str(caught.value).startswith(f"{caught.value.link}: ")
    assert links <= set(LINKS)
    assert {"format", "signature", "inclusion", "chain"} <= links


def test_a_truncated_or_extended_certificate_is_rejected(demo):
    folder, _ = demo
    genesis = load_genesis(folder / "genesis.json")
    data = (folder / "eva.cbor").read_bytes()
    for wrong in (b"", data[:-1], data[:100], data + b"\x00", data * 2):
        with pytest.raises(VerifyError, match=r"^format: "):
            verify_order(wrong, genesis)


def verify_under(genesis: Path, certificate: Path) -> subprocess.CompletedProcess[str]:
    command = [PILECHAIN, "verify", "--genesis", genesis, certificate]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_another_genesis_rejects_it(demo, tmp_path):
    folder, _ = demo
    document = json.loads((folder / "genesis.json").read_text())
    document["params"]["fee_micro"] += 1
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    done = verify_under(other, folder / "eva.cbor")
    assert done.returncode == 1
    assert "REJECTED" in done.stdout
    assert ": chain: " in done.stdout


def test_a_missing_genesis_is_a_wrong_call(demo):
    folder, _ = demo
    done = verify_under(folder / "missing.json", folder / "eva.cbor")
    assert done.returncode == 2
    assert "missing.json" in done.stderr


def test_kept_it_lives_on_with_its_dashboard_until_it_is_told_to_end(demo):
    folder, kept = demo
    (url, token) = re.findall(r"dashboard: (http://\S+)/ with the token (\S+)", kept.until("Ctrl-C ends it"))[0]
    kept.until(" charged ")  # a driver came again
    with urlopen(Request(f"{url}/v1/contracts", headers={"Authorization": f"Bearer {token}"}), timeout=10) as answer:
        outcomes = [row["outcome"] for row in json.load(answer)["items"]]
    assert outcomes.count("confirmed") >= 3
    kept.process.send_signal(signal.SIGINT)
    assert kept.process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{url}/healthz", timeout=5)
    assert {"ledger.sqlite", "web.log"} <= {path.name for path in folder.iterdir()}


def test_its_blocks_give_the_same_roots_again_whatever_the_hash_seed(demo):
    """The ledger it leaves behind, computed again by `pilechain replay` in processes that iterate sets differently."""
    folder, _ = demo
    told = set()
    for seed in ("0", "1", "random"):
        done = subprocess.run(
            [PILECHAIN, "replay", "--json", folder / "ledger.sqlite"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        told.add(done.stdout)
    (answer,) = map(json.loads, told)
    assert answer["height"] > 20


def test_the_certificate_of_the_order_that_a_note_paid_for_does_not_say_who_paid(demo):
    folder, kept = demo
    genesis = load_genesis(folder / "genesis.json")
    data = (folder / "anon.cbor").read_bytes()
    verified = verify_order(data, genesis)
    assert verified.anonymous
    assert verified.set_size == 16
    assert verified.confirmed_by[0].startswith("anon-")
    done = verify_under(folder / "genesis.json", folder / "anon.cbor")
    assert done.returncode == 0, done.stderr
    assert "paid anonymously by one of 16 owners" in " ".join(done.stdout.split())
    assert " anon and olga confirm" in kept.story
    named = (folder / "dan.cbor").read_bytes()
    assert not verify_order(named, genesis).anonymous
    public, base, purchase = traces_of(folder / "ledger.sqlite", genesis, "dan")
    for trace in (b"dan", key_id(public)):  # the one he is called by, the other stands in what he signs
        assert trace in named
        assert trace not in data
    for trace in (public[1:33], base, purchase):
        assert trace not in data


def traces_of(ledger: Path, genesis: Genesis, party: str) -> tuple[bytes, bytes, bytes]:
    """What the ledger has of a party that buys notes: its key, the base key of the notes, the purchase's transaction."""
    store, found = Store(ledger, genesis.hash(), read_only=True), {}
    for height in range(store.first_height(), store.height() + 1):
        for data in store.block(height).txs:
            tx = decode_transaction(data)
            if isinstance(tx.body, RegisterParty) and tx.body.id == party:
                found["public"] = tx.body.public
            elif isinstance(tx.body, BuyNotes) and tx.sender == party:
                found |= {"base": tx.body.base, "purchase": tx.id}
    store.close()
    return found["public"], found["base"], found["purchase"]
