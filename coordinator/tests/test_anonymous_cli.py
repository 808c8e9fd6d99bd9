"""Paying with notes through `pilechain wallet`, against a coordinator on a real broker: from quote to receipt, and what goes wrong."""

import contextlib
import io
import json
import shutil
import time
from dataclasses import replace

import pytest
from served import Served
from world import HOUR, key

from pile_coordinator.chain.notes import bin_id
from pile_coordinator.chain.records import NoteRules
from pile_coordinator.chain.transactions import (
    BuyNotes,
    Deposit,
    RegisterParty,
    RegisterPile,
    pseudonym,
    sign_transaction,
)
from pile_coordinator.cli import main
from pile_coordinator.disclosure import DisclosureError, check
from pile_coordinator.guest import Guest, throwaway_key
from pile_coordinator.keys import load_key
from pile_coordinator.note_choice import choose, spendable
from pile_coordinator.paying import Payer
from pile_coordinator.purse import GAP, Bin, Market, Purse, PurseError
from pile_coordinator.ring.keys import base_public, base_secret, note_public
from pile_coordinator.verify import verify_order
from pile_coordinator.wallet import WalletError
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared import topics
from pile_shared.codec import decode
from pile_shared.errors import LinkError
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, NO_PREVIOUS, Origin, Proof, proof_hash
from pile_shared.reading import Reading

AGE_MS = 1000
NOTES = {"unit_micro": 100_000, "denominations": 8, "bin_age_ms": AGE_MS}
USER_STOPPED = 1
NEIGHBOURS = tuple(f"neighbour-{i}" for i in range(1, 16))
PAID = [0, 0, 0, 0, 0, 0, 1]  # a note of 6.40: an order of 1 kWh at up to 1.00, and an objection's bond


class Street(Served):
    """A served chain with notes: dan pays with his, fifteen neighbours fill the bins."""

    def __init__(self, folder, port) -> None:
        super().__init__(folder, port, notes=NOTES)
        self.proved = 0, NO_PREVIOUS
        self.numbers: dict[str, int] = {}
        for party in ("olga", "dan"):
            self.publish("operator", RegisterParty(party, _role(party), load_key(self.site.key_file(party)).public))
        for party in NEIGHBOURS:
            self.publish("operator", RegisterParty(party, _role(party), key(party).public))
        for party in ("olga", "dan", *NEIGHBOURS):
            self.publish("grid", Deposit(party, 90_000_000, party))
        self.publish("operator", RegisterPile("pile-1", "olga", key("pile-1").public, "M", "1", "north", 7000))
        self.heard(2 * 17 + 1)

    def publish(self, party: str, body) -> None:
        """Send a transaction without waiting for its block."""
        sequence = self.numbers[party] = self.numbers.get(party, 0) + 1
        signer = key(party) if party in NEIGHBOURS else load_key(self.site.key_file(party))
        message = sign_transaction(signer, self.chain_id, party, sequence, 10_000, body)
        self.raw.publish(topics.party_topic(self.chain_id, party, "tx"), message)

    def heard(self, count: int) -> None:
        """Until so many transactions were answered, all taken."""
        deadline = time.monotonic() + 20
        while count:
            topic, payload = self.raw.get(1) or ("", b"")
            assert time.monotonic() < deadline
            if topic.endswith("/result"):
                envelope, _ = decode(payload, 1 << 16)
                assert b"bok" in envelope, envelope  # the text "ok" in CBOR
                count -= 1

    def neighbours_buy(self, counts=PAID) -> None:
        """So that dan's notes have company."""
        for party in NEIGHBOURS:
            number = self.numbers.get(party, 0)
            base = base_public(base_secret(sha256(party.encode()), self.chain_id, number))
            self.publish(party, BuyNotes(base, counts))
        self.heard(len(NEIGHBOURS))

    def call(self, party: str, *words: str, as_json: bool = True) -> tuple[int, str, str]:
        options = ["--key", str(self.site.key_file(party)), "--timeout", "8", "--broker", f"127.0.0.1:{self.site.port}"]
        options += ["--genesis", str(self.site.folder / "genesis.json"), *(["--json"] if as_json else [])]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["wallet", *options, *words])
        return status, out.getvalue(), err.getvalue()

    def ask(self, party: str, *words: str):
        status, out, err = self.call(party, *words)
        assert status == 0, (words, out, err)
        return json.loads(out)

    def refused(self, party: str, *words: str) -> dict[str, str]:
        status, out, _ = self.call(party, *words)
        assert status
        return json.loads(out)

    def order(self, *more: str, start: int | None = None) -> list[str]:
        begins = self.site.clock.now_ms() if start is None else start
        words = ["--zone", "north", "--energy", "1000", "--start", str(begins), "--end", str(begins + 2 * HOUR)]
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

    def purse(self) -> Purse:
        return Purse(self.site.key_file("dan").parent, "dan", self.chain_id)

    def payer(self) -> Payer:
        return Payer(self.purse().open(), self.guest)

    def guest(self, signer=None, sign=None) -> Guest:
        return Guest(self.site.genesis, signer or throwaway_key(), self.site.broker_spec, sign=sign)


def _role(party: str) -> str:
    return "pile-owner" if party == "olga" else "ev-owner"


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Dan has three notes of 6.40 in three bins that are full and aged."""
    require(find_mosquitto() is not None, "mosquitto is not installed")
    folder = tmp_path_factory.mktemp("street")
    with Mosquitto(folder / "broker") as broker:
        street = Street(folder / "site", broker.port)
        try:
            for _ in range(3):
                assert street.ask("dan", "buy-notes", "--amount", "6.40")["bought"] == [
                    {"value_micro": 6_400_000, "notes": 1}
                ]
                street.neighbours_buy()
            yield street
        finally:
            street.close()


def test_an_order_is_paid_with_notes_from_quote_to_receipt(street, tmp_path):
    listing = street.offer()
    words = street.order("--market", "--limit", "1.00")
    placed = street.ask("dan", "bid", *words, "--wait", "20")
    assert (placed["paid"], placed["owners"], placed["warnings"]) == ("anonymous", 16, [])
    assert placed["notes_micro"] == [6_400_000]
    order, contract = placed["transaction"], placed["contract"]
    quoted = street.ask("dan", "quote", *words)
    assert quoted["notes_needed_micro"] == quoted["hold_micro"] + 5_000_000
    (row,) = street.ask("dan", "orders")
    assert (row["id"], row["kind"], row["paid"], row["owners"]) == (contract, "contract", "anonymous", 16)
    (_, row) = street.ask("olga", "orders")
    assert (row["id"], row["paid"]) == (contract, "anonymous")
    assert street.ask("dan", "start", order)["command"] == "start"
    street.prove(BEGIN, contract)
    street.until("dan", contract, "active")  # by the contract's id too
    street.ask("dan", "stop", order)
    street.prove(END, contract, USER_STOPPED)
    shown = street.until("dan", order, "measured")
    assert shown["anonymity"] == "anonymous: one of 16 owners, as the ledger tells it"
    assert street.ask("olga", "show", order)["anonymity"] == "anonymous: paid with notes"
    people_read_it(street, order)
    restored_from_the_seed_alone(street, order)
    street.ask("dan", "confirm", order)
    street.ask("olga", "confirm", order)
    assert street.ask("dan", "show", order)["phase"] == "confirmed"
    assert street.ask("dan", "orders") == []
    file, mine = tmp_path / "order.cbor", tmp_path / "mine.cbor"
    street.ask("dan", "certificate", order, "--out", str(file))
    verified = verify_order(file.read_bytes(), street.site.genesis)
    assert verified.anonymous
    assert b"dan" not in file.read_bytes()
    told = street.ask("dan", "disclose", order, "--to", "the tax office, trips of 2026", "--out", str(mine))
    disclosed(mine.read_bytes(), verified, street, told["fingerprint"])
    shown_to_the_auditor(file, mine, street, told["fingerprint"])
    street.ask("olga", "unlist", listing)


def people_read_it(street, order):
    shown = street.call("dan", "show", order, as_json=False)[1]
    assert "anonymous: one of 16 owners, as the ledger tells it" in shown
    listed = street.call("dan", "orders", as_json=False)[1]
    assert "anonymous" in listed
    notes = street.call("dan", "notes", as_json=False)[1]
    assert "keep a copy of the seed file" in notes
    status, _, poor = street.call("dan", "bid", *street.order("--limit", "20"), as_json=False)
    assert status == 1
    assert "of your notes, 12.80, 12.80 can be spent now" in poor
    assert "`buy-notes`" in poor


def restored_from_the_seed_alone(street, order):
    """Notes, and the order that is open, without the state file."""
    before = street.ask("dan", "notes")
    (state,) = street.purse().seed_file.parent.glob("dan.*.purse")
    state.unlink()
    after = street.ask("dan", "notes")
    assert after["notes"] == before["notes"] != []
    assert [row["id"] for row in after["orders"]] == [order]
    assert street.ask("dan", "show", order)["paid"] == "anonymous"


def disclosed(data, verified, street, fingerprint):
    found = check(data, verified, street.site.genesis)
    public = load_key(street.site.key_file("dan")).public
    assert (found.party, found.public, found.text) == ("dan", public, "the tax office, trips of 2026")
    assert found.fingerprint == fingerprint
    for i in range(len(data)):
        with pytest.raises(DisclosureError):
            check(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :], verified, street.site.genesis)


def shown_to_the_auditor(file, mine, street, fingerprint):
    """`pilechain verify` says whose it was with the disclosure, and not without."""
    words = ["verify", str(file), "--genesis", str(street.site.folder / "genesis.json")]
    assert "dan" not in printed(words)
    told = printed([*words, "--disclosure", str(mine)])
    assert "disclosed by its payer, dan," in told
    assert fingerprint in told
    assert "For: the tax office, trips of 2026" in told
    mine.write_bytes(mine.read_bytes()[:-1])
    assert "REJECTED" in printed([*words, "--disclosure", str(mine)], status=1)


def printed(words: list[str], status: int = 0) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(words) == status
    return out.getvalue()


def test_what_is_sent_after_a_crash_is_what_was_written_before(street, monkeypatch):
    """The wallet dies after it has written an order and before it has sent it: the same words send the same bytes."""
    words = street.order("--limit", "0.10", start=street.site.clock.now_ms() + 10 * HOUR)  # it rests
    sent: list[bytes] = []

    def dies(self, tx):
        sent.append(tx)
        raise LinkError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Guest, "submit", dies)
        assert street.refused("dan", "bid", *words, "--accept-weak")["error"] == "link"
    held = street.payer()
    assert held.purse.spendings[-1].raw == sent[0].hex()
    again = street.ask("dan", "bid", *words)
    assert again["transaction"] == sha256(sent[0]).hex()
    assert "the same bytes" in again["warnings"][0]
    (row,) = street.ask("dan", "orders")
    assert (row["id"], row["kind"], row["paid"]) == (again["transaction"], "bid", "anonymous")
    street.ask("dan", "cancel", again["transaction"])
    assert street.ask("dan", "orders") == []


def test_notes_of_what_never_arrived_are_free_again(street, monkeypatch):
    """Once no block can take it any more; until then they are set aside."""
    words = street.order("--limit", "0.10", start=street.site.clock.now_ms() + 10 * HOUR)
    with monkeypatch.context() as patch:
        patch.setattr(Guest, "submit", lambda *_: (_ for _ in ()).throw(LinkError("the power is gone")))
        street.refused("dan", "bid", *words, "--accept-weak")
    payer = street.payer()
    one = payer.purse.spendings[-1]
    image = bytes.fromhex(one.notes[0][1])
    market, own = payer.look()
    assert image in payer.purse.reserved()
    assert image not in {note.image for note in spendable(market, own, payer.purse.reserved())}
    payer.purse.settle(replace(market, height=one.until + 1))
    assert image not in payer.purse.reserved()
    assert image in {note.image for note in spendable(market, own, payer.purse.reserved())}
    with payer.purse.locked():  # what others see is still the file's
        assert image in payer.purse.reserved()
    payer.purse.change(one.transaction, status="void")


def test_two_wallets_do_not_spend_one_note_twice(street):
    one, other = street.payer(), street.payer()
    choices = []
    for payer in (one, other):
        market, own = payer.look()
        choices.append((market, choose(market, own, payer.purse.reserved(), 100_000, payer.purse.bought_ms)))
    assert choices[0][1].notes == choices[1][1].notes
    redeemed = one.redeem(*choices[0], "dan")
    assert redeemed.status == "over"
    with pytest.raises(PurseError, match="another wallet") as refusal:
        other.redeem(*choices[1], "dan")
    assert refusal.value.code == "busy"


def test_a_choice_that_gives_something_away_needs_a_word(street):
    """Three notes of one purchase in bins that nobody else fills; the whole is refused until it is accepted, then money again."""
    balance = street.ask("dan", "account")["balance_micro"]
    weak = street.refused("dan", "buy-notes", "--notes", "0.10x16")
    assert (weak["error"], "one bin of 16" in weak["message"]) == ("weak", True)
    assert street.ask("dan", "account")["balance_micro"] == balance
    street.ask("dan", "buy-notes", "--notes", "0.10x16", "--accept-weak")
    notes = street.ask("dan", "notes")
    assert [row["owners"] for row in notes["notes"] if row["bin"] == "0/0"] == [1] * 16
    assert street.refused("dan", "buy-notes", "--amount", "0.15")["error"] == "amount"
    poor = street.refused("dan", "bid", *street.order("--limit", "1.20", "--energy", "50000"))
    assert poor["error"] == "funds_notes"
    assert "12 of them at most" in poor["message"]
    both = street.refused("dan", "bid", *street.order("--limit", "0.10", "--divisible"))
    assert "neither" in both["message"]


def test_notes_become_money_again(street):
    before = street.ask("dan", "account")["balance_micro"]
    done = street.ask("dan", "redeem-notes")
    assert street.ask("dan", "account")["balance_micro"] == before + done["redeemed_micro"]
    assert done["anonymity"] == "not anonymous: the ledger names dan"
    assert street.ask("dan", "notes")["spendable_micro"] == 0
    assert street.refused("dan", "redeem-notes")["error"] == "funds_notes"


def test_an_order_paid_by_an_account_says_that_it_is_not_anonymous(street):
    words = [word for word in street.order("--limit", "0.10") if word != "--anonymous"]
    placed = street.ask("dan", "bid", *words)
    assert (placed["paid"], placed["anonymity"]) == ("named", "not anonymous: the ledger names dan")
    assert street.ask("dan", "quote", *words)["anonymity"] == "not anonymous: the ledger names dan"
    (row,) = street.ask("dan", "orders")
    assert row["paid"] == "named"
    street.ask("dan", "cancel", placed["transaction"])


def test_guests_see_what_is_everybodys_and_their_own_only(street):
    named = [word for word in street.order("--limit", "0.10") if word != "--anonymous"]
    order = bytes.fromhex(street.ask("dan", "bid", *named)["transaction"])
    with street.guest() as guest:
        assert guest.ask("account")["sequence"] == 0
        assert guest.ask("orders") == guest.ask("history") == []
        for question, arguments, code in (
            ("order", [order], "not_yours"),
            ("withdrawals", [], "query"),
            ("disputes", [], "query"),
            ("piles", [], "query"),
            ("notes", [0, -1], "bounds"),
            ("nonsense", [], "query"),
        ):
            with pytest.raises(WalletError) as refusal:
                guest.ask(question, *arguments)
            assert refusal.value.code == code, question
    street.ask("dan", "cancel", order.hex())


def test_a_guest_is_who_has_the_key(street):
    """Under another's pseudonym nobody is answered; nor is a party that asks as a guest."""
    with street.guest() as guest:
        guest.party = pseudonym(throwaway_key().public)
        with pytest.raises(LinkError):
            guest.ask("account", timeout_s=1)
    street.counted("unknown_sender", 1)


def test_guests_wait_when_they_ask_too_much(street, monkeypatch):
    bucket = street.coordinator.queries._guests
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "_left", -1000.0)
        with street.guest() as guest, pytest.raises(LinkError):
            guest.ask("zones", timeout_s=1)
        assert street.coordinator.counts["busy"]
        assert street.ask("dan", "account")["role"] == "ev-owner"  # parties are answered all the same
    bucket._left = 100.0
    with street.guest() as guest:
        assert guest.ask("zones")


def test_nothing_anonymous_names_the_party_on_the_wire(street, monkeypatch):
    """Client ids, topics and messages of an anonymous quote, bid and cancel."""
    seen: list[str] = []
    real = Guest.__init__

    def watched(self, *args, **how):
        real(self, *args, **how)
        client, publish = self._connection._client, self._connection.publish
        seen.append(client._client_id.decode())

        def say(topic, payload, retained=False):
            seen.extend([topic, payload.hex()])
            publish(topic, payload, retained)

        monkeypatch.setattr(self._connection, "publish", say)

    street.ask(
        "dan", "buy-notes", "--amount", "6.40", "--accept-weak"
    )  # beside one that came back from a cancelled order
    street.neighbours_buy()
    monkeypatch.setattr(Guest, "__init__", watched)
    words = street.order("--limit", "0.10", start=street.site.clock.now_ms() + 10 * HOUR)
    placed = street.ask("dan", "bid", *words, "--wait", "10", "--accept-weak")
    street.ask("dan", "cancel", placed["transaction"])
    assert len(seen) > 10
    needles = ["dan", b"dan".hex(), load_key(street.site.key_file("dan")).public.hex()]
    assert not [(needle, one) for one in seen for needle in needles if needle in one]


def test_a_purse_whose_file_is_lost_goes_on_beyond_what_it_sees(tmp_path):
    """Base keys are found far apart, as bins of which all is spent are gone; none that may have been given is given again."""
    maker = Purse(tmp_path, "dan", "demo-1").open()
    with maker.locked():
        assert (maker.take_base(), maker.take_base()) == (0, 1)
    (state,) = tmp_path.glob("dan.*.purse")
    state.unlink()
    base, source = maker.base(3000), bytes(32)
    shown = Bin(bin_id(0, 0), 0, (note_public(base, source, 7),), (base,), (source,), frozenset())
    rules = NoteRules("note-rules", 100_000, 8, AGE_MS)
    market = Market(rules, 0, 1, 0, [], {shown.id: shown}, {})
    again = Purse(tmp_path, "dan", "demo-1").open()
    with again.locked():
        (note,) = again.recognise(market)
        assert (note.base, note.number, note.spent) == (3000, 7, False)
        assert again.take_base() == 3001 + GAP
    third = Purse(tmp_path, "dan", "demo-1").open()
    with third.locked():
        assert third.recognise(market) == [note]
        assert third.take_base() == 3002 + GAP
    assert third.order_signer(b"one").public != third.order_signer(b"two").public


def test_a_seed_is_never_written_over_and_is_ones_own(street, tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    shutil.copy(street.site.key_file("dan"), folder / "dan.key")
    purse = Purse(folder, "dan", street.chain_id).open()
    seed = purse.seed_file.read_text()
    assert purse.seed_file.stat().st_mode & 0o777 == 0o600
    Purse(folder, "dan", street.chain_id).open()
    assert purse.seed_file.read_text() == seed
    purse.seed_file.chmod(0o644)
    with pytest.raises(Exception, match="chmod 600"):
        Purse(folder, "dan", street.chain_id).open()
    purse.seed_file.chmod(0o600)
    purse.seed_file.write_text(seed[:10])
    with pytest.raises(Exception, match="backup"):
        Purse(folder, "dan", street.chain_id).open()
