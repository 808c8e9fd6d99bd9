"""`pilechain wallet`, action by action, against a coordinator on a real broker; every refusal says what to do next."""

import contextlib
import io
import json
import re
import stat
import time
from pathlib import Path

import pytest
from every_phase import twice_attested
from served import Served
from world import HOUR, STAKE_RULES, consensus, key

from pile_coordinator.advice import NEXT, next_step
from pile_coordinator.amounts import money, parse_money
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.cli import main
from pile_coordinator.config import load_genesis
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.verify import verify_order
from pile_coordinator.wallet_cli import staking
from pile_coordinator.wallet_cli.command import GROUPS
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared import cose, topics
from pile_shared.certificate import attest
from pile_shared.codec import decode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, NO_PREVIOUS, Origin, Proof, proof_hash
from pile_shared.reading import Reading

PILES = ("pile-1", "pile-2", "pile-3", "pile-4")
OPENING = 50_000_000
USER_STOPPED = 1  # the stop reason a pile signs


class Town(Served):
    """A served chain whose parties act through the command line only."""

    def __init__(self, folder, port, **site) -> None:
        super().__init__(folder, port, **site)
        self.proofs = dict.fromkeys(PILES, (0, NO_PREVIOUS))
        for party, role in (("olga", "pile-owner"), ("dan", "ev-owner"), ("eva", "ev-owner")):
            self.admit_party(party, role)
        for pile in PILES:
            words = ["--owner", "olga", "--model", "SDM630", "--serial", pile, "--zone", "north"]
            self.ask(
                "operator",
                "register-pile",
                "--id",
                pile,
                "--public",
                key(pile).public.hex(),
                *words,
                "--rated-power",
                "7000",
            )

    def admit_party(self, party: str, role: str) -> None:
        if not self.site.key_file(party).exists():
            assert self.call(party, "new")[0] == 0
        public = load_key(self.site.key_file(party)).public.hex()
        self.ask("operator", "register-party", "--id", party, "--role", role, "--public", public)
        self.ask("grid", "deposit", "--to", party, "--amount", "50", "--reference", f"opening-{party}")

    def call(
        self, party: str, *words: str, key_file: Path | None = None, as_json: bool = True, timeout: str = "20"
    ) -> tuple[int, str, str]:
        """(exit status, what it printed, what it complained about)."""
        options = ["--key", str(key_file or self.site.key_file(party)), "--party", party, "--timeout", timeout]
        options += ["--genesis", str(self.site.folder / "genesis.json"), "--broker", f"127.0.0.1:{self.site.port}"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(["wallet", *options, *(["--json"] if as_json else []), *words])
            except SystemExit as leaving:
                status = leaving.code
        return status, out.getvalue(), err.getvalue()

    def ask(self, party: str, *words: str, **how: object):
        status, out, err = self.call(party, *words, **how)
        assert status == 0, (words, out, err)
        return json.loads(out)

    def refused(self, party: str, *words: str, **how: object) -> dict[str, str]:
        status, out, _ = self.call(party, *words, **how)
        answer = json.loads(out)
        assert status == (2 if answer["error"] in {"config", "usage"} else 1)
        assert answer["next"] == NEXT[answer["error"]]
        assert answer["message"]
        return answer

    # --- what happens ---

    def window(self, hours: float = 0, length: int = 2) -> list[str]:
        start = self.site.clock.now_ms() + int(hours * HOUR)
        return ["--start", str(start), "--end", str(start + length * HOUR)]

    def offer(self, pile: str, *more: str, energy: int = 9000) -> str:
        now = self.site.clock.now_ms()
        times = ["--start", str(now - HOUR), "--end", str(now + 40 * HOUR)]
        return self.ask("olga", "list", "--pile", pile, *times, "--energy", str(energy), *more)["transaction"]

    def bid(self, *more: str, hours: float = 0, limit: str = "1.00") -> str:
        words = ["--zone", "north", "--energy", "1000", "--limit", limit, *self.window(hours), *more]
        return self.ask("dan", "bid", *words)["transaction"]

    def prove(self, pile: str, event: int, contract: str, reason: int = 0) -> None:
        sequence, previous = self.proofs[pile]
        now = self.site.clock.now_ms() + 1000
        reading = Reading(now, 2, bytes(8), 0, 0, 1)
        origin = Origin("SDM630", pile, "eastron-sdm630", b"\x01" * 8) if event == BEGIN else None
        proof = Proof(sequence + 1, previous, bytes.fromhex(contract), event, [reading], reason, origin)
        message = proof.sign(key(pile), self.chain_id)
        self.proofs[pile] = sequence + 1, proof_hash(message)
        self.proof(message, pile)

    def until_logged(self, pattern: str) -> None:
        deadline = time.monotonic() + 10
        while not any(re.search(pattern, line) for line in list(self.logged)):
            assert time.monotonic() < deadline, self.logged
            time.sleep(0.02)

    def until(self, party: str, order: str, phase: str) -> dict[str, object]:
        deadline = time.monotonic() + 15
        while (found := self.ask(party, "show", order))["phase"] != phase:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    def measured(self, pile: str) -> str:
        """A contract of dan's that was begun and ended by him at 0 Wh; its bid."""
        listing = self.offer(pile)
        order = self.bid("--market", "--pile", pile)
        self.ask("olga", "unlist", listing)
        contract = self.ask("dan", "show", order)["id"]
        self.prove(pile, BEGIN, contract)
        self.until("dan", order, "active")
        self.prove(pile, END, contract, USER_STOPPED)
        self.until("dan", order, "measured")
        return order


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    folder = tmp_path_factory.mktemp("town")
    with Mosquitto(folder / "broker") as broker, pytest.MonkeyPatch.context() as patch:
        logged: list[str] = []
        patch.setattr("pile_coordinator.service.log", logged.append)
        town = Town(folder / "site", broker.port)
        town.logged = logged
        yield town
        town.close()


@pytest.fixture
def voters(tmp_path):
    """A town whose accounting nodes are elected; `third` is a party that may stand."""
    require(find_mosquitto() is not None, "mosquitto is not installed")
    with Mosquitto(tmp_path / "broker") as broker, pytest.MonkeyPatch.context() as patch:
        logged: list[str] = []
        patch.setattr("pile_coordinator.service.log", logged.append)
        town = Town(tmp_path / "site", broker.port, stake_rules=STAKE_RULES)
        town.logged = logged
        town.admit_party("third", "third-party")
        yield town
        town.close()


# --- accounting nodes ------------------------------------------------------------------------------------------------


def test_the_stake_guides_commands_do_what_it_says(voters, monkeypatch, tmp_path):
    """Line by line; what a line is refused for is what the guide says, where nothing has happened that it could be for."""
    monkeypatch.chdir(tmp_path)
    signer = load_key(voters.site.key_file("grid-attest"))
    headers = twice_attested(voters, "grid", 1)[::2]
    for name, header in zip(("a.bin", "b.bin"), headers, strict=True):
        Path(name).write_bytes(header + attest(header, signer, voters.chain_id))
    keys = {"CONSENSUS": consensus("third").hex(), "HEX": key("third/attest").public.hex()}
    guide = Path(__file__).parents[2] / "docs" / "stake.md"
    lines = guide.read_text().split("## Wallet")[1].split("```text\n")[1].split("```")[0].splitlines()
    answers = {}
    for line in lines:
        _, _, _, key_file, action, *words = line.split()
        words = [keys.get(word, "25" if word == "1000" else word) for word in words]  # everybody here has 50
        status, out, _ = voters.call(key_file.removesuffix(".key"), action, *words)
        answers[action] = json.loads(out) | {"status": status}
    assert {a: found.get("error") for a, found in answers.items() if found["status"]} == {"unjail": "phase"}
    assert {action.name for group in (staking.EVERYBODY, staking.NODES) for action in group} == set(answers)
    shown = voters.ask("dan", "stake")
    assert shown["own"] == [
        {
            "amount_micro": 15_000_000,
            "candidate": "third",
            "phase": "entering",
            "since_height": 0,
            "until_height": 0,
        }
    ]
    voters.until_logged(r"grid is punished for double-attestation at block 1: 0\.500000 CNY of stake")
    voters.until_logged(r"accounting nodes from block \d+ on, with their power: auditor 10, operator 10$")
    names = ("own_micro", "stake_micro", "power", "tombstoned")
    nodes = {row["party"]: tuple(row[name] for name in names) for row in shown["candidates"]}
    assert nodes["third"] == (25_000_000, 40_000_000, 0, False)
    assert nodes["grid"][3] is True
    assert shown["votes"] == [["reporter-part", "grid", 250000]]
    _, printed, _ = voters.call("dan", "stake", as_json=False)
    assert re.search(r"^jail \(s\) +1$", printed, re.MULTILINE)
    assert re.search(r"^reporter-part +grid +250000$", printed, re.MULTILINE)
    assert re.search(r"^third +.* 25\.000000 ", printed, re.MULTILINE), printed


def test_refusals_about_stake_say_what_to_do_next(voters, tmp_path):
    assert voters.refused("dan", "delegate", "--candidate", "nobody", "--amount", "1")["error"] == "unknown_candidate"
    assert voters.refused("dan", "delegate", "--candidate", "grid", "--amount", "51")["error"] == "funds"
    assert voters.refused("dan", "undelegate", "--candidate", "grid", "--amount", "1")["error"] == "funds"
    assert voters.refused("dan", "set-commission", "--commission", "5")["error"] == "wrong_role"
    assert voters.refused("third", "vote-upgrade", "--name", "x", "--height", "500")["error"] == "not_yours"
    assert voters.refused("grid", "vote-upgrade", "--name", "x", "--never")["error"] == "phase"
    assert voters.call("grid", "vote-upgrade", "--name", "x", "--height", "500", "--never")[0] == 2
    assert voters.call("grid", "vote-upgrade", "--name", "x")[0] == 2
    short = tmp_path / "short.bin"
    short.write_bytes(bytes(64))
    words = ["double-attestation", "--candidate", "grid", "--first", str(short), "--second"]
    assert "not a header followed by" in voters.refused("dan", *words, str(short))["message"]
    assert "No such file" in voters.refused("dan", *words[:-2], str(tmp_path / "none"), "--second", "x")["message"]
    for wrong in (["--commission", "1001"], ["--commission", "x"]):
        assert voters.call("grid", "set-commission", *wrong)[0] == 2
    for wrong in ("0", "-1", "soon"):
        assert voters.call("grid", "vote-upgrade", "--name", "x", "--height", wrong)[0] == 2
    keys = ["--consensus", "00", "--attestation", key("x").public.hex(), "--commission", "1", "--amount", "1"]
    assert voters.call("third", "register-candidate", *keys)[0] == 2


# --- what everybody can rely on --------------------------------------------------------------------------------------


def test_every_refusal_has_one_line_of_advice():
    assert set(NEXT) >= set(CODES)
    for code, line in NEXT.items():
        assert re.fullmatch(r"[A-Z].{10,118}[.]", line), code
    assert len(set(NEXT.values())) == len(NEXT)
    assert next_step("something new").endswith(".")


def test_piles_that_need_somebody_are_shown_to_people_and_to_programs(town):
    assert town.call("dan", "piles", as_json=False)[1] == "nothing\n"
    junk = b"\xd2\x84 this is no proof"
    town.proof(junk, PILES[0])
    town.until_logged(f"proof from {PILES[0]}, {len(junk)} bytes, 1 of this pile")
    (row,) = town.ask("olga", "piles")
    assert (row["pile"], row["refused"], row["times"]) == (PILES[0], "malformed", 1)
    assert town.ask("operator", "piles") == [row]
    assert "malformed" in town.call("grid", "piles", as_json=False)[1]


def test_every_action_in_the_advice_and_in_these_tests_exists():
    names = {action.name for _, group in GROUPS for action in group} | {"new"}
    assert set(re.findall(r"`([a-z][a-z-]*)`", " ".join(NEXT.values()))) <= names
    tests = (Path(__file__), Path(__file__).with_name("test_anonymous_cli.py"))
    called = {word for path in tests for word in re.findall(r'"([a-z-]+)"', path.read_text())}
    assert names <= called, names - called


def test_every_action_explains_itself(capsys):
    for _, group in GROUPS:
        for action in group:
            with pytest.raises(SystemExit) as leaving:
                main(["wallet", action.name, "--help"])
            assert leaving.value.code == 0
            shown = " ".join(capsys.readouterr().out.split())
            assert action.text in shown
            assert not action.example or f"wallet --key me.key {action.example}" in shown


def test_the_example_of_every_action_parses(tmp_path, monkeypatch):
    """Up to the point where the key file is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "winter.json").write_text("{}")
    ids = {"ORDER": "ab" * 32, "LISTING": "ab" * 32, "WITHDRAWAL": "ab" * 32, "HEX": "04" * 65, "CONSENSUS": "04" * 32}
    import shlex

    for _, group in GROUPS:
        for action in group:
            words = [ids.get(word, word) for word in shlex.split(action.example or action.name)]
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                assert main(["wallet", "--json", *words]) == 2, action.name
            assert json.loads(out.getvalue())["message"].startswith("this needs --key FILE")


@pytest.mark.parametrize(
    ("text", "micro"),
    [("0.65", 650_000), ("20", 20_000_000), ("0.000001", 1), ("0", 0), ("1000000000000", 10**18)],
)
def test_amounts_are_exact(text, micro):
    assert parse_money(text) == micro
    assert parse_money(money(micro)) == micro


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "0.6500001", "1e3", ".5", "5.", "1,5", "٣", "1000000000001", "nan", "0.-5"]
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError):
        parse_money(text)


def test_a_wrong_call_is_told_as_json_to_whom_asked_for_it(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["wallet", "--key", "k", "bid", "--zone", "Not A Zone", "--json"])
    assert leaving.value.code == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == "usage"
    assert "--zone" in answer["message"]
    with pytest.raises(SystemExit):
        main(["wallet", "--key", "k", "bid", "--zone", "Not A Zone"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--zone" in captured.err


def test_a_key_that_others_can_read_is_refused(tmp_path, capsys):
    path = tmp_path / "dan.key"
    assert main(["wallet", "--key", str(path), "--json", "new"]) == 0
    public = json.loads(capsys.readouterr().out)["public"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).public.hex() == public
    for mode in (0o604, 0o640, 0o601, 0o620):
        path.chmod(mode)
        genesis = Path(__file__).parents[2] / "README.md"
        assert main(["wallet", "--key", str(path), "--genesis", str(genesis), "--json", "account"]) == 2
        capsys.readouterr()
        with pytest.raises(Exception, match="chmod 600"):
            load_key(path)
    assert main(["wallet", "--key", str(path), "new"]) == 2  # never overwritten
    assert "never overwritten" in capsys.readouterr().err


# --- money and admission ---------------------------------------------------------------------------------------------


def test_money_goes_in_and_out_through_the_treasury(town):
    assert town.ask("eva", "account")["balance_micro"] == OPENING
    again = town.refused("grid", "deposit", "--to", "eva", "--amount", "1", "--reference", "opening-eva")
    assert again["error"] == "exists"
    paid = town.ask("eva", "withdraw", "--amount", "0.000001", "--destination", "IBAN 1")["transaction"]
    back = town.ask("eva", "withdraw", "--amount", "12.50", "--destination", "IBAN 2")["transaction"]
    rows = [
        {"id": paid, "party": "eva", "amount_micro": 1, "destination": "IBAN 1"},
        {"id": back, "party": "eva", "amount_micro": 12_500_000, "destination": "IBAN 2"},
    ]
    rows.sort(key=lambda row: row["id"])
    assert town.ask("grid", "withdrawals") == town.ask("eva", "withdrawals") == rows
    assert town.ask("dan", "withdrawals") == []
    assert town.refused("operator", "pay-out", paid, "--reference", "r")["error"] == "wrong_role"
    town.ask("grid", "pay-out", paid, "--reference", "bank-1")
    town.ask("grid", "refuse-withdrawal", back, "--reason", "no such account")
    assert town.refused("grid", "pay-out", paid, "--reference", "bank-2")["error"] == "unknown_withdrawal"
    assert town.ask("eva", "withdrawals") == []
    assert town.ask("eva", "account")["balance_micro"] == OPENING - 1
    assert town.refused("eva", "withdraw", "--amount", "51", "--destination", "x")["error"] == "funds"


def test_a_pile_is_retired_once_nothing_is_open_on_it(town):
    public = key("pile-old").public.hex()
    words = ["--owner", "olga", "--model", "M", "--serial", "9", "--zone", "north", "--rated-power", "1"]
    town.ask("operator", "register-pile", "--id", "pile-old", "--public", public, *words)
    town.ask("olga", "retire-pile", "--pile", "pile-old")
    assert town.refused("olga", "retire-pile", "--pile", "pile-old")["error"] == "unknown_pile"


def test_a_tariff_is_shown_as_a_table_before_it_is_sent(town):
    document = json.loads((town.site.folder / "genesis.json").read_text())["tariff"]
    document["periods"].append(
        {"from_minute": 480, "name": "day", "sell_micro_per_kwh": 900_000, "buy_micro_per_kwh": 500_000}
    )
    path = town.site.folder / "tariff.json"
    path.write_text(json.dumps(document))
    begins = str(town.site.clock.now_ms() + 30 * HOUR)
    status, out, _ = town.call("grid", "set-tariff", str(path), "--from", begins, "--check", as_json=False)
    assert status == 0
    assert town.ask("grid", "tariff")["next"] is None
    status, out, _ = town.call("grid", "set-tariff", str(path), "--from", begins, as_json=False)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["08:00", "day", "0.900000", "0.500000"] in rows
    assert rows.index(["08:00", "day", "0.900000", "0.500000"]) < next(
        i for i, r in enumerate(rows) if "transaction" in r
    )
    shown = town.ask("dan", "tariff")
    assert shown["next"]["from_ms"] == int(begins)
    assert shown["next"]["periods"][1] == [480, "day", 900_000, 500_000]
    assert shown["now"]["periods"] == load_genesis(town.site.folder / "genesis.json").tariff.periods
    assert shown["next_edge_ms"] > shown["time_ms"]
    assert town.refused("grid", "set-tariff", str(path), "--from", "1000")["error"] == "window"
    path.write_text("{}")
    assert town.refused("grid", "set-tariff", str(path), "--from", begins)["error"] == "config"


# --- orders ----------------------------------------------------------------------------------------------------------


def test_orders_rest_are_shown_and_are_withdrawn(town):
    listing = town.offer("pile-4", "--ask", "0.90")
    order = town.bid("--pile", "pile-4", limit="0.80")
    (row,) = town.ask("dan", "orders")
    assert (row["id"], row["kind"], row["limit_micro_per_kwh"]) == (order, "bid", 800_000)
    (row,) = town.ask("olga", "orders")
    assert (row["id"], row["kind"], row["ask_micro_per_kwh"]) == (listing, "listing", 900_000)
    assert town.refused("dan", "show", order)["error"] == "no_evidence"
    assert town.refused("dan", "cancel", listing)["error"] == "unknown_order"
    assert town.refused("eva", "cancel", order)["error"] == "not_yours"
    town.ask("dan", "cancel", order)
    town.ask("olga", "unlist", listing)
    assert town.ask("dan", "orders") == town.ask("olga", "orders") == []


def test_a_quote_names_price_hold_and_what_stands_in_the_way(town):
    words = ["--zone", "north", "--pile", "pile-4", "--energy", "1000", *town.window()]
    assert town.ask("dan", "quote", *words, "--market")["reason"] == "supply"
    listing = town.offer("pile-4", "--ask", "0.90")
    free = town.ask("dan", "quote", *words)
    assert (free["outcome"], free["limit_micro_per_kwh"], free["ask_micro_per_kwh"]) == ("fills", 900_000, 900_000)
    assert free["fills"] == [["pile-4", 1000, 900_000, False]]
    capped = town.ask("dan", "quote", *words, "--limit", "0.89", "--market")
    assert (capped["outcome"], capped["reason"]) == ("refunded", "limit")
    poor = town.ask("dan", "quote", *words, "--limit", "900")
    assert (poor["outcome"], poor["reason"]) == ("refused", "funds")
    order = town.ask("dan", "bid", *words, "--limit", "0.90", "--market")["transaction"]
    assert town.ask("dan", "show", order)["price_micro_per_kwh"] == 900_000
    assert town.refused("dan", "quote", "--zone", "south", *words[2:])["error"] == "unknown_zone"
    status, out, _ = town.call("dan", "quote", *words, as_json=False)
    assert status == 0
    assert re.search(r"^outcome +rests$", out, re.MULTILINE)
    assert re.search(r"^ask per kWh +-$", out, re.MULTILINE)  # no ask could serve it: the pile is taken
    town.ask("olga", "unlist", listing)


def test_a_contract_is_signed_explicitly_and_called_off(town):
    listing = town.offer("pile-1", "--explicit", "--at-market")
    order = town.bid("--pile", "pile-1", "--market", hours=5)
    proposed = town.ask("dan", "show", order)
    assert (proposed["phase"], proposed["awaits"]) == ("proposed", ["olga"])
    town.until_logged(r"block \d+: dan and olga are to sign 1000 Wh on pile-1")
    assert town.refused("dan", "sign", order)["error"] == "phase"
    assert town.refused("eva", "show", order)["error"] == "not_yours"
    town.ask("olga", "sign", order)
    assert town.ask("dan", "show", order)["phase"] == "signed"
    town.ask("dan", "cancel-contract", order)
    assert town.ask("dan", "show", order)["phase"] == "cancelled"
    assert town.refused("dan", "cancel-contract", order)["error"] == "unknown_contract"
    late = town.bid("--pile", "pile-1", "--market", hours=0.5)
    town.ask("olga", "sign", late)
    assert town.refused("dan", "cancel-contract", late)["error"] == "late"
    town.ask("olga", "cancel-contract", late)
    town.ask("olga", "unlist", listing)
    fees = town.ask("grid", "account")["fees_micro"]
    town.ask("grid", "collect-fees", "--to", "operator", "--amount", money(fees))
    assert town.ask("operator", "account")["balance_micro"] >= fees > 0
    assert town.refused("grid", "collect-fees", "--to", "dan", "--amount", "0.01")["error"] == "unknown_party"


def test_a_divisible_bid_is_shown_with_all_its_contracts(town):
    listings = [town.offer(pile, "--ask", "0.70", energy=1000) for pile in ("pile-2", "pile-3")]
    words = ["--zone", "north", "--energy", "2000", "--limit", "0.70", *town.window(9), "--divisible", "--market"]
    order = town.ask("dan", "bid", *words)["transaction"]
    both = town.ask("dan", "show", order)
    assert sorted(row["pile"] for row in both) == ["pile-2", "pile-3"]
    refusal = town.refused("dan", "cancel-contract", order)
    assert refusal["error"] == "ambiguous"
    assert all(row["id"] in refusal["message"] for row in both)
    for row in both:
        town.ask("dan", "cancel-contract", row["id"])
    assert [row["phase"] for row in town.ask("dan", "show", order)] == ["cancelled", "cancelled"]
    del listings  # spent


# --- sessions, settlements, disputes ---------------------------------------------------------------------------------


def test_a_settlement_is_confirmed_and_certified(town, tmp_path):
    order = town.measured("pile-1")
    assert town.refused("dan", "certificate", order, "--out", str(tmp_path / "c"))["error"] == "no_evidence"
    for party in ("dan", "olga"):
        assert party in town.ask("dan", "show", order)["awaits"]
        town.ask(party, "confirm", order)
    assert town.ask("dan", "show", order)["phase"] == "confirmed"
    path = tmp_path / "order.cbor"
    assert town.ask("olga", "certificate", order, "--out", str(path))["bytes"] == path.stat().st_size
    assert verify_order(path.read_bytes(), town.site.genesis).confirmed_by == ("dan", "olga")


def test_an_owner_answers_a_dispute_with_the_stop_command_that_passed(town, tmp_path):
    listing = town.offer("pile-2")
    order = town.bid("--market", "--pile", "pile-2")
    town.ask("olga", "unlist", listing)
    contract = town.ask("dan", "show", order)["id"]
    assert town.refused("olga", "answer", order)["error"] == "no_stop"
    assert town.ask("dan", "start", order)["command"] == "start"
    town.prove("pile-2", BEGIN, contract)
    town.until("dan", order, "active")
    assert town.ask("dan", "stop", order) == {"pile": "pile-2", "contract": contract, "command": "stop"}
    town.counted("stop_kept", 1)
    town.prove("pile-2", END, contract, USER_STOPPED)
    town.until("dan", order, "measured")
    town.ask("dan", "object", order, "--ground", "cause", "--text", "it switched off by itself")
    shown = town.ask("olga", "show", order)
    assert shown["phase"] == "disputed"
    assert shown["dispute"]["objector"] == "dan"
    forged = tmp_path / "stop"
    forged.write_bytes(b"\x00")
    assert town.refused("olga", "answer", order, "--stop", str(forged))["error"] == "evidence"
    assert town.refused("olga", "answer", order, "--stop", str(tmp_path / "no"))["error"] == "config"
    town.ask("olga", "answer", order)
    closed = town.ask("dan", "show", order)
    assert (closed["phase"], closed["cause"]) == ("resolved", "user")
    assert (
        town.refused("olga", "answer", order)["error"] == "no_stop"
    )  # none is kept for longer than its contract is open


def test_arbiters_see_disputes_and_rule_them(town):
    order = town.measured("pile-3")
    text = "my meter says 700"
    assert town.refused("olga", "rule", order, "--energy", "1", "--cause", "user")["error"] == "wrong_role"
    town.ask("olga", "object", order, "--ground", "energy", "--claimed", "700", "--text", text)
    (row,) = town.ask("auditor", "disputes")
    assert town.ask("olga", "disputes") == [row]
    assert town.ask("eva", "disputes") == []
    expected = {
        "text": text,
        "claimed_wh": 700,
        "measured_wh": 0,
        "ground": "energy",
        "objector": "olga",
        "cause": "user",
    }
    assert {name: row[name] for name in expected} == expected
    town.ask("auditor", "rule", row["id"], "--energy", "1000", "--cause", "user")
    closed = town.ask("dan", "show", order)
    assert (closed["phase"], closed["measured_wh"]) == ("resolved", 1000)
    town.until_logged(rf"{row['id'][:16]} disputed by the owner: energy, claims 700 Wh")
    town.until_logged(rf"{row['id'][:16]} resolved")
    assert town.ask("auditor", "disputes") == []


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_changed_and_the_old_one_still_serves_its_contracts(town):
    town.admit_party("ed", "ev-owner")
    listing = town.offer("pile-3")
    words = ["--zone", "north", "--pile", "pile-3", "--energy", "1000", *town.window(12), "--limit", "1", "--market"]
    order = town.ask("ed", "bid", *words)["transaction"]
    old = town.site.key_file("ed")
    done = town.ask("ed", "rotate-key")
    new = Path(done["new_key"])
    assert new == old.with_name("ed.2.key")
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert load_key(new).public.hex() == done["public"]
    assert done["contracts_of_old_key"] == [town.ask("ed", "show", order, key_file=new)["id"]]
    assert str(new) in done["next"]
    assert str(old) in done["next"]
    assert town.refused("ed", "start", order, key_file=new)["error"] == "other_key"
    while town.raw.get(0) is not None:
        pass
    town.ask("ed", "start", order, "--old-key", str(old), key_file=new)
    deadline = time.monotonic() + 10
    while True:
        topic, payload = town.raw.get(1) or ("", b"")
        if topic == topics.pile_topic(town.chain_id, "pile-3", "session"):
            break
        assert time.monotonic() < deadline
    signed = cose.parse1(payload, 1024)
    signed.verify(load_key(old).public, cose.purpose(cose.SESSION, town.chain_id))
    assert decode(signed.payload, 1024)[:2] == [bytes.fromhex(done["contracts_of_old_key"][0]), 1]
    assert town.refused("ed", "account", key_file=old, timeout="1")["error"] == "link"
    town.ask("ed", "cancel-contract", order, key_file=new)
    town.ask("olga", "unlist", listing)


def test_a_refused_rotation_leaves_no_new_key(town, monkeypatch):
    """The draw of a key that somebody has: as likely as never, but the file must go."""
    town.admit_party("fay", "ev-owner")
    taken = town.site.key_file("dan").read_text()

    def make_taken_key(path):
        make_key(path)
        path.write_text(taken)
        return load_key(path)

    monkeypatch.setattr("pile_coordinator.wallet_cli.everybody.make_key", make_taken_key)
    assert town.refused("fay", "rotate-key")["error"] == "exists"
    assert not town.site.key_file("fay").with_name("fay.2.key").exists()


def test_a_stolen_key_is_revoked_and_two_others_restore_the_party(town):
    town.admit_party("gil", "ev-owner")
    town.ask("gil", "revoke-key")
    new = town.site.key_file("gil").with_name("gil.new.key")
    public = make_key(new).public.hex()
    town.ask("operator", "restore-key", "--id", "gil", "--public", public)
    town.ask("grid", "restore-key", "--id", "gil", "--public", public)
    assert town.ask("gil", "account", key_file=new)["balance_micro"] == OPENING
    town.ask("operator", "revoke-key", "--of", "gil")
    assert town.refused("dan", "revoke-key", "--of", "gil")["error"] in CODES


def test_where_to_charge_and_what_has_been(town):
    listing = town.offer("pile-4", "--ask", "0.70")
    (zone,) = town.ask("dan", "zones")
    (row,) = [row for row in town.ask("dan", "offers", "--zone", "north") if row["pile"] == "pile-4"]
    assert (row["ask_micro_per_kwh"], row["energy_wh"], row["rated_power_w"]) == (700_000, 9000, 7000)
    town.ask("olga", "unlist", listing)
    assert town.ask("dan", "zones") == [zone | {"offers": zone["offers"] - 1}]
    order = town.bid("--pile", "pile-4", limit="0.01")
    town.ask("dan", "cancel", order)
    newest = town.ask("dan", "history")[0]
    assert (newest["id"], newest["kind"], newest["outcome"]) == (order, "bid", "cancelled")
    assert order not in str(town.ask("eva", "history"))


def test_a_page_is_not_served_where_it_must_not_be(town):
    """What it serves is tested in a browser (tests/test_driver_page.py)."""
    assert "one address" in town.refused("dan", "page", "--listen", "0.0.0.0")["message"]


def test_what_no_coordinator_answers_says_where_to_look(town):
    answer = town.refused("nobody", "account", key_file=town.site.key_file("dan"), timeout="1")
    assert answer["error"] == "link"
    assert "--party" in answer["next"]


def test_people_get_tables_and_advice(town):
    status, out, _ = town.call("dan", "account", as_json=False)
    assert status == 0
    assert re.search(r"^balance +\d+\.\d{6}$", out, re.MULTILINE)
    status, out, err = town.call("dan", "cancel", sha256(b"none").hex(), as_json=False)
    assert (status, out) == (1, "")
    assert err == f"pilechain: unknown_order: no such resting bid\n  {NEXT['unknown_order']}\n"
