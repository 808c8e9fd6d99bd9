"""Paying with notes through `pilechain wallet`, against a coordinator on a real broker."""

import contextlib
import io
import json
import time
from pathlib import Path

import pytest
from served import Served
from world import HOUR, key

from pile_coordinator.cli import main
from pile_coordinator.keys import load_key
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared.proof import BEGIN, END, NO_PREVIOUS, Origin, Proof, proof_hash
from pile_shared.reading import Reading

AGE_MS = 1000
NOTES = {"unit_micro": 100_000, "denominations": 8, "bin_age_ms": AGE_MS}
USER_STOPPED = 1
FIFTEEN = tuple(f"user-{i}" for i in range(1, 16))


class Street(Served):
    """A served chain with notes: dan pays with his, fifteen neighbours fill the bins."""

    def __init__(self, folder, port) -> None:
        super().__init__(folder, port, notes=NOTES)
        self.proved = 0, NO_PREVIOUS
        for party, role in (("olga", "pile-owner"), ("dan", "ev-owner"), *((user, "ev-owner") for user in FIFTEEN)):
            self.admit_party(party, role)
        words = ["--owner", "olga", "--model", "M", "--serial", "1", "--zone", "north", "--rated-power", "7000"]
        self.ask("operator", "register-pile", "--id", "pile-1", "--public", key("pile-1").public.hex(), *words)

    def admit_party(self, party: str, role: str) -> None:
        if not self.site.key_file(party).exists():
            assert self.call(party, "new")[0] == 0
        public = load_key(self.site.key_file(party)).public.hex()
        self.ask("operator", "register-party", "--id", party, "--role", role, "--public", public)
        self.ask("grid", "deposit", "--to", party, "--amount", "50", "--reference", f"opening-{party}")

    def call(self, party: str, *words: str, as_json: bool = True, timeout: str = "20") -> tuple[int, str, str]:
        options = ["--key", str(self.site.key_file(party)), "--timeout", timeout]
        options += ["--genesis", str(self.site.folder / "genesis.json"), "--broker", f"127.0.0.1:{self.site.port}"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["wallet", *options, *(["--json"] if as_json else []), *words])
        return status, out.getvalue(), err.getvalue()

    def ask(self, party: str, *words: str, **how: object):
        status, out, err = self.call(party, *words, **how)
        assert status == 0, (words, out, err)
        return json.loads(out)

    def refused(self, party: str, *words: str, **how: object) -> dict[str, str]:
        status, out, _ = self.call(party, *words, **how)
        assert status
        return json.loads(out)

    def order(self, *more: str) -> list[str]:
        now = self.site.clock.now_ms()
        words = ["--zone", "north", "--energy", "1000", "--start", str(now), "--end", str(now + 2 * HOUR)]
        return [*words, "--anonymous", *more]

    def offer(self) -> str:
        now = self.site.clock.now_ms()
        times = ["--start", str(now - HOUR), "--end", str(now + 40 * HOUR)]
        return self.ask("olga", "list", "--pile", "pile-1", *times, "--energy", "9000")["transaction"]

    def prove(self, event: int, contract: str, reason: int = 0) -> None:
        sequence, previous = self.proved
        reading = Reading(self.site.clock.now_ms() + 1000, 2, bytes(8), 0, 0, 1)
        origin = Origin("M", "1", "eastron-sdm630", b"\x01" * 8) if event == BEGIN else None
        proof = Proof(sequence + 1, previous, bytes.fromhex(contract), event, [reading], reason, origin)
        message = proof.sign(key("pile-1"), self.chain_id)
        self.proved = sequence + 1, proof_hash(message)
        self.proof(message, "pile-1")

    def until(self, party: str, order: str, phase: str) -> dict[str, object]:
        deadline = time.monotonic() + 15
        while (found := self.ask(party, "show", order))["phase"] != phase:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    folder = tmp_path_factory.mktemp("street")
    with Mosquitto(folder / "broker") as broker:
        street = Street(folder / "site", broker.port)
        yield street
        street.close()


def test_an_order_is_paid_with_notes_from_quote_to_receipt(street, tmp_path):
    for user in ("dan", *FIFTEEN):
        street.ask(user, "buy-notes", "--amount", "12.70")
    listing = street.offer()
    words = street.order("--market", "--limit", "1.00")
    quoted = street.ask("dan", "quote", *words)
    print(quoted)
    placed = street.ask("dan", "bid", *words, "--wait", "10")
    print(placed)
    assert placed["owners"] == 16
    order = placed["transaction"]
    shown = street.ask("dan", "show", order)
    contract = shown["id"]
    assert street.ask("dan", "start", order)["command"] == "start"
    street.prove(BEGIN, contract)
    street.until("dan", order, "active")
    street.ask("dan", "stop", order)
    street.prove(END, contract, USER_STOPPED)
    street.until("dan", order, "measured")
    print(street.call("dan", "orders", as_json=False)[1])
    street.ask("dan", "confirm", order)
    street.ask("olga", "confirm", order)
    print(street.ask("olga", "show", order))
    assert street.ask("dan", "show", order)["phase"] == "confirmed"
    print(street.call("dan", "notes", as_json=False)[1])
    street.ask("olga", "unlist", listing)
