"""docs/wire-format.cddl is the wire format: every vector and every object we make fits it, and what is altered does not.

Judged by cddl-verifier, an independent implementation of RFC 8610 with a CBOR decoder of its own; pycddl reads the file too
but passes over most of what stands in nested arrays. The golden vectors are held to the code as well: see
firmware_tests/run_wire_vectors.py.
"""

import importlib.util
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cbor2
import pycddl
import pytest

import pile_shared
from pile_coordinator.chain import notes
from pile_coordinator.chain.genesis import genesis_from_json
from pile_coordinator.chain.records import Contract, NoteBin
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.chain.settlement import BASES, CAUSES, decode_statement
from pile_coordinator.chain.transactions import (
    BODIES,
    AnonymousBid,
    Answer,
    BuyNotes,
    CancelBid,
    CancelContract,
    CollectFees,
    Confirm,
    Delegate,
    Deposit,
    DoubleAttestation,
    List,
    Object,
    PayOut,
    PlaceBid,
    RedeemNotes,
    RefuseWithdrawal,
    RegisterCandidate,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    RotateKey,
    Rule,
    SetCommission,
    SetTariff,
    Sign,
    SubmitProofs,
    Undelegate,
    Unjail,
    Unlist,
    VoteUpgrade,
    Withdraw,
    pseudonym,
    ring_sign_transaction,
    sign_transaction,
)
from pile_coordinator.desk import QueryDesk
from pile_coordinator.engines.attesting import Attestations
from pile_coordinator.engines.comet.bundle import MAX_BUNDLED, pack, unpack
from pile_coordinator.engines.history import Shelf, encode_wanted
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.ring.keys import base_public, base_secret, note_secret
from pile_coordinator.ring.signature import key_image, sign
from pile_coordinator.service import Coordinator
from pile_coordinator.serving import Servers
from pile_coordinator.troubles import Troubles
from pile_coordinator.verify import verify_order
from pile_hil.peer import Chain
from pile_hil.requirements import require
from pile_hil.site import PARAMS, TARIFF
from pile_shared import cose
from pile_shared.certificate import Header, attest, validators_hash
from pile_shared.codec import decode, encode
from pile_shared.errors import CodecError
from pile_shared.platform import sha256
from pile_shared.proof import ALARM, BEGIN, END, HEARTBEAT, NO_PREVIOUS, PERIODIC, Origin, Proof, proof_hash
from pile_shared.reading import Reading
from pile_shared.record import MAX_RECORD_BYTES, STORED, encode_record, open_answer, sign_answer
from pile_shared.terms import FIELDS
from pile_shared.units import MAX_SEQUENCE

ROOT = Path(__file__).parent.parent.parent
CDDL = ROOT / "docs/wire-format.cddl"
GUIDE = ROOT / "docs/wire-format.md"
VECTORS = Path(pile_shared.__file__).parent / "vectors"
FILES = ("codec", "cose", "proof", "terms", "merkle", "certificate")
# Rules a test needs a name for.
EXTRA = """
cose-shape = #6.18([bstr .cbor protected-header, {}, bstr, signature])
"""
MOST = 1 << 24
OUTCOMES = {
    *("confirmed", "settled", "resolved", "defaulted", "no-show", "cancelled", "unsigned"),
    *("expired", "unfilled", "spent"),
}
NOW, HOUR = 1_700_000_000_000, 3_600_000


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_vectors = load(ROOT / "tools/make_vectors.py")
runner = load(ROOT / "firmware_tests/run_wire_vectors.py")


def cases(name):
    return [json.loads(line) for line in (VECTORS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def fits():
    """fits(rule, bytes): whether the bytes are what the rule says."""
    require(
        importlib.util.find_spec("cddl_verifier") is not None,
        "cddl-verifier is missing: install the `dev` dependency group",
    )
    from cddl_verifier import Validator

    logging.getLogger("cddl_verifier").setLevel(logging.CRITICAL)  # thousands of refusals are what is asked for
    validator = Validator(CDDL.read_text() + EXTRA)
    assert not validator.warnings

    def check(rule, data):
        return validator.validate(data, rule).valid

    return check


# --- golden vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_vectors_hold(name):
    for case in cases(name):
        assert runner.holds(name, dict(case)), case


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_verdict_is_noticed(name):
    """The runner itself: a bad case taken for good, and the other way round."""
    for case in cases(name):
        if case["kind"] == "bad":
            assert not runner.holds(name, case | {"code": "other"})
        else:
            assert not runner.holds(name, case | {"code": "codec"})


def test_regeneration_gives_the_same_files(tmp_path, capsys):
    make_vectors.main(tmp_path)
    for name in FILES:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (VECTORS / f"{name}.jsonl").read_bytes()
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_board_reads_a_line():
    """The longest line, which a board holds whole with what it says."""
    for name in FILES:
        for line in (VECTORS / f"{name}.jsonl").read_bytes().splitlines():
            assert len(line) <= 4500


# --- the CDDL beside the vectors -----------------------------------------------------------------------------------------

# What a grammar cannot say: values that must agree with each other, with other bytes, or with a key.
BEYOND_CDDL = {
    "proof": {
        "full where a difference would do",
        "register difference leaves the register",
        "energy falls",
        "time falls",
        "a difference that leaves the range of power",
        "of another chain",
        "a session message",
    },
    "certificate": {
        "two of four",
        "nobody",
        "one attestation twice",
        "out of order",
        "validator 4 of four",
        "five attestations",
        "signed by another key",
        "signed for another purpose",
        "n - s for s",
        "another leaf",
        "another index",
        "path cut short",
        "another chain",
        "another validator set",
    },
    "terms": set(),
}


@pytest.mark.parametrize(
    ("name", "rule", "field"),
    [("proof", "proof-message", "message"), ("certificate", "inclusion", "inclusion"), ("terms", "terms", "bytes")],
)
def test_good_vectors_fit_and_bad_ones_do_not(fits, name, rule, field):
    fitting = set()
    for case in cases(name):
        if case["kind"] == "good":
            assert fits(rule, bytes.fromhex(case[field])), case["source"]
        elif fits(rule, bytes.fromhex(case[field])):
            fitting.add(case["source"])
    assert fitting == BEYOND_CDDL[name]


def test_cose_vectors(fits):
    for case in cases("cose"):
        if case["kind"] == "good":
            assert fits("cose-shape", bytes.fromhex(case["message"])), case["source"]
    fitting = {
        case["source"]
        for case in cases("cose")
        if case["kind"] == "bad" and fits("cose-shape", bytes.fromhex(case["message"]))
    }
    beyond_grammar = {source for source in fitting if source.startswith(("r is", "s is", "r and s", "key "))}
    assert len(beyond_grammar) == 16  # numbers out of range, keys that are no point
    assert fitting - beyond_grammar == {
        "payload altered",
        "signed for another purpose",
        "signed for another chain",
        "signed by another key",
        "another key's signature under our name",
        "n - s for s: as valid for ES256, but other bytes",
        "long head of the payload",  # a matter of encoding, not of the grammar
        "longer than 400 bytes",
    }


def test_validator_sets(fits):
    for case in cases("certificate"):
        assert fits("validators", bytes.fromhex(case["validators"]))
    assert not fits("validators", encode([]))


def test_messages_of_an_update(fits):
    """What the tool and a pile make, by their own code; and neither takes the other's for its own."""
    from pile_edge.board.software import Software, piece, sign_update

    signer = cose.SoftwareSigner((1).to_bytes(32, "big"))
    update = sign_update(Software(bytes(3000), 2, bytes(32), "mpy6"), signer, "test-chain", 1)
    assert fits("update-offer", update.message)
    assert fits("update-piece", piece(update, 0))
    assert fits("update-piece", piece(update, 2048))
    assert not fits("update-piece", piece(update, 3000))
    for offset, note in ((0, ""), (3000, ""), (0, "what came is not what was signed")):
        assert fits("update-want", encode([2, offset, note]))
    assert not fits("update-want", piece(update, 0))
    assert fits("pile-status", encode([1, "pile-1", 7, bytes(32), bytes(32), ""]))
    assert fits("pile-status", encode([0, "pile-1", 0]))
    assert not fits("pile-status", encode([1, "pile-1", 7]))


def test_pycddl_reads_the_file_too():
    pycddl.Schema(CDDL.read_text())


# --- everything we make --------------------------------------------------------------------------------------------------


def key(name):
    return cose.SoftwareSigner(sha256(name.encode()))


STAKE_RULES = {
    "max_validators": 4,
    "min_self_bond_micro": 1_000_000,
    "reward_permille": 500,
    "evidence_age_blocks": 100,
    "evidence_age_ms": HOUR,
    "double_sign_ppm": 50_000,
    "downtime_ppm": 100,
    "downtime_window_blocks": 2,
    "jail_ms": 1000,
}


def genesis():
    founders = [("grid", "grid"), ("judge", "third-party"), ("operator", "operator")]
    candidates = [
        {
            "party": party,
            "consensus": key(party + "/consensus").public[1:33].hex(),
            "attestation": key(party + "/attest").public.hex(),
            "commission_permille": 100,
            "bond_micro": 5_000_000,
        }
        for party, _ in founders
    ]
    return genesis_from_json(
        {
            "stake": {"rules": STAKE_RULES, "candidates": candidates},
            "upgrades": [{"name": "later", "height": 1_000_000}],
            "notes": {"unit_micro": 100_000, "denominations": 8, "bin_age_ms": 60_000},
            "name": "wire",
            "time_ms": NOW,
            "params": PARAMS,
            "tariff": TARIFF,
            "parties": [{"id": p, "role": r, "public": key(p).public.hex()} for p, r in founders],
            "validators": [{"party": p, "public": key(p + "/attest").public.hex(), "power": 5} for p, _ in founders],
        }
    )


class Day:
    """A chain that sees each kind of transaction, leaf and answer once; what was said is kept as (rule, bytes)."""

    def __init__(self, folder):
        self.said = []
        self.genesis = genesis()
        self.chain = self.genesis.chain_id
        signers = {v.party: key(v.party + "/attest") for v in self.genesis.validators}
        self.engine = SoloEngine(folder / "ledger.sqlite", self.genesis, signers)
        self.evidence = Exporter(folder / "evidence.sqlite")
        self.engine.on_block(self.evidence.write)
        self.stops = {}
        self.troubles = Troubles()
        self.desk = QueryDesk(
            self.engine, self.evidence, stops=SimpleNamespace(find=self.stops.get), troubles=self.troubles
        )
        self.sequences = {}
        self.keys = {}
        self.time_ms = NOW
        self.proofs = (0, NO_PREVIOUS)

    def close(self):
        self.engine.close()
        self.evidence.close()

    def block(self, *sent, at=None, of_nobody=()):
        """The ids of what was sent; a second after the last block unless `at` says when. `of_nobody` is signed by notes."""
        self.time_ms = self.time_ms + 1000 if at is None else at
        ids = []
        for sender, body in sent:
            self.sequences[sender] = self.sequences.get(sender, 0) + 1
            signer = key(self.keys.get(sender, sender))
            tx = sign_transaction(signer, self.chain, sender, self.sequences[sender], 1000, body)
            self.engine.submit(tx)
            self.said.append(("transaction-message", tx))
            ids.append(sha256(tx))
        for tx in of_nobody:
            self.engine.submit(tx)
            self.said.append(("transaction-message", tx))
        block = self.engine.make_block(self.time_ms)
        assert all(result.code == "ok" for result in block.results), block.results
        self.said += [("leaf", leaf) for leaf in block.leaves]
        self.said += [("inclusion", block.inclusion(i).encoded()) for i in range(len(block.leaves))]
        self.said += [("header", block.certificate.header_bytes)]
        self.said += [("statement", row[1]) for row in (decode(leaf, MOST) for leaf in block.leaves) if row[0] == 4]
        return ids

    def prove(self, event, readings, contract, reason=0):
        origin = Origin("SDM630", "22110347", "eastron-sdm630", bytes(8)) if event == BEGIN else None
        proof = Proof(self.proofs[0] + 1, self.proofs[1], contract, event, readings, reason, origin)
        message = proof.sign(key("pile-1"), self.chain)
        self.proofs = (proof.sequence, proof_hash(message))
        self.said += [("proof-message", message), ("message", message)]
        return message

    def ask(self, question, arguments, party="dan"):
        """As a party, or as a guest under the name of a key."""
        row, signer = [party, bytes(16), question, arguments], key(self.keys.get(party, party))
        guest = [*row, signer.public] if party.startswith("anon-") else row
        query = cose.sign1(encode(guest), signer, cose.purpose(cose.QUERY, self.chain))
        self.said.append(("query-message", query))
        answer = self.desk.answer(party, query)
        assert isinstance(answer, list)
        self.reply("answer", answer)
        return answer

    def reply(self, kind, value):
        """As the coordinator sends it."""
        sent = []
        connection = SimpleNamespace(publish=lambda _, message: sent.append(message))
        coordinator = SimpleNamespace(signer=key("operator"), chain_id=self.chain, connection=connection)
        Coordinator._reply(coordinator, "dan", kind, value)
        self.said += [("reply-message", sent[0]), ("reply", encode(value))]

    def certify(self, contract, outcome, party="dan"):
        """The certificate of a closed contract, which holds."""
        certificate = self.ask("certificate", [contract], party)[2]
        assert verify_order(certificate, self.genesis).outcome == outcome
        self.said.append(("order-certificate", certificate))
        self.ask("contract", [contract], party)

    def match(self, *, hours=0, explicit=False, asks=False, divisible=False):
        """A contract or proposal over 5 kWh, in a window that starts so many hours from now; its id."""
        start, end = self.time_ms + hours * HOUR, self.time_ms + (hours + 4) * HOUR
        self.block(("olga", List("pile-1", start, end, 5000, -1, asks)))
        self.block(("dan", PlaceBid("north", "", 5000, start, end, 1_300_000, True, 0, divisible, explicit)))
        (contract,) = self.engine.state.each(Contract)
        self.said.append(("terms", contract.terms))
        self.ask("orders", None)
        return contract.id

    def measure(self, energy_wh, reason=1):
        """A contract whose session is over, an hour after it was matched."""
        contract, start = self.match(), self.time_ms
        begin = self.prove(BEGIN, [reading(start, self.register)], contract)
        self.register += energy_wh
        end = self.prove(END, [reading(start + HOUR, self.register)], contract, reason)
        self.block(("operator", SubmitProofs([begin, end])), at=start + HOUR)
        return contract

    register = 105_000


def reading(time_ms, energy_wh, power_w=7000):
    return Reading(time_ms, 2, energy_wh.to_bytes(8, "big"), energy_wh, power_w, 1)


def live(day):
    """Everything that can be said on this wire, once."""
    enrol(day)
    trade_nothing(day)
    deliver(day)
    call_off(day)
    dispute(day)
    set_tariff(day)
    move_money(day)
    elect(day)
    pay_with_notes(day)
    day.reply("result", [bytes(32), 7, "ok", ""])
    day.reply("result", [bytes(32), 0, "replayed", "dan is at sequence 3"])
    contract = bytes(32)
    command = encode([contract, 1, NOW, 0])
    day.said += [
        ("session-command", command),
        ("session-message", cose.sign1(command, key("dan"), cose.purpose(cose.SESSION, day.chain))),
        ("session-command", encode([contract, 2, NOW, 1000])),
        ("pile-status", encode([1, "pile-1", 7, bytes(32), validators_hash(day.genesis.validators), ""])),
        ("pile-status", encode([1, "pile-1", 7, bytes(32), validators_hash(day.genesis.validators), "quorum"])),
        ("handover", Chain().hand_over(Chain(powers=(1, 2), first_key=2000))),
        ("pile-status", encode([0, "pile-1", 0])),
        *node_messages(day),
        *records(day),
        long_frame(day),
        ("serving-message", Servers(day.chain, "operator").presence(key("operator"))),
        ("validators", encode([v.fields() for v in day.genesis.validators])),
        *bundles(day),
    ]


def records(day):
    """The longest record there may be, and what is said to it."""
    message = encode_record(MAX_SEQUENCE, "x" * MAX_RECORD_BYTES)
    node = key("grid/attest")
    answers = [sign_answer(day.chain, "p" * 32, message, outcome, node) for outcome in (STORED, "x" * 32)]
    assert all(open_answer(answer, day.chain, "p" * 32, [node.public]) for answer in answers)
    return [("record-message", message), *(("record-answer", answer) for answer in answers)]


def long_frame(day):
    """A short reply in the frame of the long ones, which are too long to be altered one thing at a time."""
    reply = encode([bytes(32), 7, "ok", ""])
    return "reply-message", in_long_frame(reply, sha256(reply), day.chain)


def in_long_frame(reply, signed, chain):
    return encode([cose.sign1(signed, key("operator"), cose.purpose(cose.REPLY, chain)), reply])


def bundles(day):
    """What CometBFT would carry of the day: transactions alone, a few together, and as many as fit."""
    txs = [data for rule, data in day.said if rule == "transaction-message"]
    few, most = pack(txs[:2]), pack(sorted(txs, key=len)[:1] * (MAX_BUNDLED + 1))
    assert [len(unpack(entry)) for entry in (*few, *most)] == [2, MAX_BUNDLED, 1]
    return [("bundle", few[0]), ("bundle", most[0]), *(("comet-transaction", entry) for entry in (*few, *most))]


def node_messages(day):
    """What accounting nodes tell each other about the first block."""
    block = day.engine.block(1)
    validators = list(day.genesis.validators)
    told = []
    for one in validators:
        desk = Attestations(day.chain, (one.party, key(one.party + "/attest")))
        desk.publish = lambda topic, payload, _retained: told.append((topic.rpartition("/")[2], payload))
        desk.sign(block, validators)
        desk.ask(7)
        desk.publish_certificate(block.certificate)
    said = [("certificate" if kind == "certificate" else f"node-{kind}", payload) for kind, payload in told]
    return said + history(day)


def history(day):
    """A late node's questions, and answers: whole blocks, a part of one, and none."""
    store = day.engine._store
    founders = encode([v.fields() for v in day.genesis.validators])
    shelf = Shelf(store.row, lambda header: founders if sha256(founders) == header.validators_hash else None)
    answers = [shelf.answer(height, offset) for height, offset in ((2, 0), (1, 1), (1, 1 << 20))]
    whole = decode(answers[0], 1 << 20)[3]
    return [
        ("node-wanted", encode_wanted("grid", 7, 0)),
        *[("node-history", answer) for answer in answers],
        *[("stored-block", part) for part in whole],
    ]


def enrol(day):
    """Parties, piles, keys and money."""
    day.block(
        ("operator", RegisterParty("olga", "pile-owner", key("olga").public)),
        ("operator", RegisterParty("dan", "ev-owner", key("dan").public)),
        ("operator", RegisterParty("eva", "ev-owner", key("eva").public)),
        ("operator", RegisterPile("pile-1", "olga", key("pile-1").public, "SDM630", "22110347", "north", 7000)),
        ("operator", RegisterPile("pile-2", "olga", key("pile-2").public, "SDM630", "22110348", "north", 7000)),
        ("grid", Deposit("olga", 50_000_000, "bank 1")),
        ("grid", Deposit("dan", 90_000_000, "bank 2")),
    )
    day.block(("olga", RetirePile("pile-2")), ("operator", RevokeKey("eva")))
    restored = RestoreKey("eva", key("eva/1").public)
    day.block(("operator", restored), ("grid", restored))
    day.keys["eva"] = "eva/1"
    day.block(("eva", RotateKey(key("eva/2").public)))


def trade_nothing(day):
    """Orders that come to nothing, and prices asked for."""
    (spare,) = day.block(("olga", List("pile-1", NOW, NOW + 9 * HOUR, 900, 900_000, True)))
    resting = PlaceBid("north", "pile-1", 500, NOW, NOW + HOUR, 1, False, NOW + HOUR, False, False)
    (bid,) = day.block(("dan", resting))
    day.ask("orders", None)
    day.reply("answer", [bytes(16), "ok", day.ask("orders", [], "olga")[2] * 500])  # too long for a COSE payload here
    day.ask("quote", ["north", "", 7000, NOW, NOW + 4 * HOUR, 0, True, 0, True, False])
    day.ask("quote", ["north", "pile-1", 500, NOW, NOW + 4 * HOUR, 950_000, False, NOW + HOUR, False, True])
    day.ask("quote", ["nowhere", "", 7000, NOW, NOW + 4 * HOUR, 0, True, 0, False, False])
    day.block(("dan", CancelBid(bid)), ("olga", Unlist(spare)))
    day.block(
        ("olga", List("pile-1", NOW, NOW + 9 * HOUR, 900, 900_000, False)), ("dan", replace(resting, market=True))
    )
    day.block(at=NOW + 10 * HOUR)  # expired, and unfilled


def deliver(day):
    """One contract, a piece of a divisible bid, from match to confirmation."""
    contract, start = day.match(divisible=True), day.time_ms
    heartbeat = day.prove(HEARTBEAT, [], None)
    begin = day.prove(BEGIN, [reading(start, 100_000)], contract)
    more = [reading(start + 60_000 * (1 + i), 100_100 + 117 * i, 7000 + i) for i in range(6)]
    periodic = day.prove(PERIODIC, more, contract)
    day.block(("operator", SubmitProofs([heartbeat, begin, periodic])), at=start + 8 * 60_000)
    day.ask("contract", [contract])
    end = day.prove(END, [reading(start + 44 * 60_000, 105_000)], contract, 1)
    alarm = day.prove(ALARM, [], None, 5)
    day.block(("operator", SubmitProofs([end, alarm])), at=start + 45 * 60_000)
    day.ask("contract", [contract])
    digest = decode_statement(day.engine.state.get(Contract, contract).statement).digest()
    day.block(("dan", Confirm(contract, digest)), ("olga", Confirm(contract, digest)))
    day.certify(contract, "confirmed")


def call_off(day):
    """A proposal that is signed and then called off; one that is not signed; a contract that nobody comes to."""
    contract = day.match(hours=3, explicit=True)
    day.ask("contract", [contract])
    day.block(("dan", Sign(contract)))
    day.block(("dan", CancelContract(contract)))
    day.certify(contract, "cancelled")
    contract = day.match(hours=3, explicit=True)
    day.block(("olga", CancelContract(contract)))
    day.certify(contract, "cancelled")
    contract = day.match(hours=3, explicit=True)
    day.block(at=day.time_ms + 2 * HOUR)
    day.ask("certificate", [contract])
    contract = day.match(hours=3, asks=True)
    day.block(("olga", CancelContract(contract)))
    contract = day.match()
    day.block(at=day.time_ms + 13 * HOUR)
    day.certify(contract, "defaulted")


def dispute(day):
    """One dispute for each way to end; the objector has a new key."""
    contract = day.measure(2000)
    day.block(("olga", Object(contract, "energy", 3000, "the meter stood still")))
    day.ask("disputes", None, "judge")
    day.ask("contract", [contract])
    day.block(("judge", Rule(contract, 5700, "user")))
    day.certify(contract, "resolved")
    contract = day.measure(2000)
    day.stops[contract] = stop(day, contract)
    day.block(("dan", Object(contract, "cause", 2000, "it stopped by itself")))
    day.ask("stop", [contract], "olga")
    day.ask("stop", [contract])
    day.block(("olga", Answer(contract, day.stops[contract])))
    day.certify(contract, "resolved")
    contract = day.measure(2000)
    day.block(("olga", RotateKey(key("olga/1").public)))
    day.keys["olga"] = "olga/1"
    day.block(("olga", Object(contract, "cause", 2000, "he stopped it")))
    day.block(at=day.time_ms + 48 * HOUR)
    day.certify(contract, "resolved")
    contract = day.measure(2000, reason=8)
    day.block(at=day.time_ms + 7 * HOUR)
    day.certify(contract, "settled")


def stop(day, contract):
    """The user's stop command."""
    return cose.sign1(encode([contract, 2, NOW, 0]), key("dan"), cose.purpose(cose.SESSION, day.chain))


def set_tariff(day):
    """The grid announces other prices; a contract under them."""
    periods = [[0, "valley", 350_000, 200_000], [420, "peak", 900_000, 500_000]]
    day.block(("grid", SetTariff(day.time_ms + 2000, 480, periods)))
    day.ask("tariff", None)
    day.block(at=day.time_ms + 25 * HOUR)
    day.ask("tariff", None)
    contract = day.match()
    ready = day.prove(HEARTBEAT, [reading(day.time_ms + HOUR, day.register)], None)
    day.block(("operator", SubmitProofs([ready])), at=day.time_ms + HOUR)
    day.block(at=day.time_ms + 13 * HOUR)
    day.ask("contracts", [contract], "grid")


def move_money(day):
    """Withdrawals, paid and refused and waiting, and fees."""
    withdrawals = [("dan", Withdraw(1000 + i, f"bank {i}")) for i in range(3)]
    paid, refused, _ = day.block(*withdrawals)
    day.ask("withdrawals", None)
    day.troubles.refused("pile-1", "malformed", day.time_ms)
    day.ask("piles", None, "grid")
    day.block(("grid", PayOut(paid, "paid 1")), ("grid", RefuseWithdrawal(refused, "no such bank")))
    day.block(("grid", CollectFees("operator", 1)))
    day.ask("account", None)
    day.ask("account", None, "grid")


def elect(day):
    """A node that nobody here runs stands, is elected, misses blocks, comes back, and attests two headers of one height."""
    day.ask("stake", None)
    day.block(
        ("operator", RegisterParty("watch", "third-party", key("watch").public)),
        ("grid", Deposit("watch", 50_000_000, "watch")),
    )
    day.block(
        ("watch", RegisterCandidate(key("watch/c").public[1:33], key("watch/attest").public, 50, 9_000_000)),
        ("dan", Delegate("watch", 3_000_000)),
        ("judge", SetCommission(200)),
        ("grid", VoteUpgrade("reporter-part", day.engine.height + 500)),
    )
    day.ask("stake", None)
    day.block(at=day.time_ms + 24 * HOUR)
    for _ in range(6):
        day.block()
    day.block(("watch", Unjail()), ("dan", Undelegate("watch", 1_000_000)))
    day.block(at=day.time_ms + 24 * HOUR)
    day.block()
    day.block()
    day.ask("stake", None)
    shown = []
    for name in ("watch", "judge"):
        header = replace_header(day.engine.block(day.engine.height).header, proposer=name)
        shown += [header, attest(header, key("watch/attest"), day.chain)]
    day.block(("dan", DoubleAttestation("watch", *shown)))


def pay_with_notes(day):
    """A bin of notes: one is redeemed, three pay for an order from bid to certificate, and it ends in smaller notes."""
    secret = base_secret(bytes(32), day.chain, 0)
    base, full = base_public(secret), notes.bin_id(5, 0)
    day.block(("grid", Deposit("dan", 100_000_000, "bank 3")))
    (source,) = day.block(("dan", BuyNotes(base, [0] * 5 + [16])))
    day.block(at=day.time_ms + 60_000)
    context = notes.context(day.chain, full)
    secrets = [note_secret(secret, source, place) for place in range(16)]
    rows = [[full, key_image(one, context)] for one in secrets]
    ring = notes.ring_of(day.engine.state.get(NoteBin, full))

    def of_nobody(body, who, places, sequence=1):
        def by_notes(message):
            return [sign(secrets[place], ring, place, context, message) for place in places]

        return ring_sign_transaction(by_notes, day.chain, who, sequence, 1000, body)

    public = key("guest 1").public
    day.block(of_nobody=[of_nobody(RedeemNotes(rows[3:4], public, "dan"), pseudonym(public), [3])])
    public, start = key("guest 2").public, day.time_ms
    who, wish = pseudonym(public), ["north", "", 5000, start, start + 4 * HOUR, 0, True, 0, False, False]
    day.keys[who] = "guest 2"
    for question, given in (("notes", [0, 0]), ("account", None), ("quote", wish), ("zones", None)):
        day.ask(question, given, who)
    bid = AnonymousBid(rows[:3], public, base, "north", "", 5000, start, start + 4 * HOUR, 1_300_000, True, 0)
    listed = ("olga", List("pile-1", start, start + 4 * HOUR, 5000, -1, False))
    day.block(listed, of_nobody=[of_nobody(bid, who, [0, 1, 2])])
    (found,) = day.engine.state.each(Contract)
    day.ask("orders", None, who)
    day.ask("open-notes", ["anon-"], who)
    begin = day.prove(BEGIN, [reading(start + 2000, day.register)], found.id)
    day.register += 5000
    end = day.prove(END, [reading(start + HOUR, day.register)], found.id, 3)
    day.block(("operator", SubmitProofs([begin, end])), at=start + HOUR)
    digest = decode_statement(day.engine.state.get(Contract, found.id).statement).digest()
    confirmed = of_nobody(Confirm(found.id, digest), who, [0], 2)
    day.block(("olga", Confirm(found.id, digest)), of_nobody=[confirmed])
    day.certify(found.id, "confirmed", who)
    day.ask("history", None, who)
    day.ask("notes", [0, 0], who)


def replace_header(header, **other):
    """The bytes of a header that differs."""
    names = Header.__init__.__code__.co_varnames[1:13]
    return Header(**{name: getattr(header, name) for name in names} | other).encoded()


@pytest.fixture(scope="session")
def said(tmp_path_factory):
    day = Day(tmp_path_factory.mktemp("day"))
    live(day)
    day.close()
    return day.said


def test_everything_said_fits(fits, said):
    for rule, data in said:
        assert fits(rule, data), (rule, data.hex())


def test_nothing_was_left_unsaid(said):
    """Every type of transaction, leaf, event and answer is among what was made."""
    payloads = [payload_of(data) for rule, data in said if rule.endswith("n-message")]
    assert {row[1] for row in payloads if isinstance(row[1], str)} == set(BODIES)
    leaves = [decode(data, MOST) for rule, data in said if rule == "leaf"]
    assert {leaf[0] for leaf in leaves} == set(range(15))
    assert {leaf[2] for leaf in leaves if leaf[0] == 5} == OUTCOMES
    statements = [decode_statement(data) for rule, data in said if rule == "statement"]
    assert {s.verdict.basis for s in statements if s.verdict} == set(BASES)
    assert {s.cause for s in statements} == set(CAUSES)
    proofs = [decode(cose.parse1(data, MOST).payload, MOST) for rule, data in said if rule == "proof-message"]
    assert {fields[4] for fields in proofs} == {BEGIN, PERIODIC, END, HEARTBEAT, ALARM}
    rules = {rule for rule, _ in said}
    assert rules >= {"terms", "statement", "header", "inclusion", "session-message", "pile-status", "order-certificate"}
    assert {
        "handover",
        "node-attestation",
        "node-missing",
        "serving-message",
        "bundle",
        "comet-transaction",
        "record-message",
        "record-answer",
    } <= rules
    lengths = {len(decode(data, MOST)) for rule, data in said if rule == "reply"}
    assert lengths == {3, 4}


def payload_of(data):
    """What was signed, by a key or by notes."""
    return decode(cose.parse1(data, MOST).payload if data[:1] == b"\xd2" else decode(data, MOST)[0], MOST)


def test_the_cddl_names_every_rejection_and_field():
    text = CDDL.read_text()
    assert all(re.fullmatch(r"[ -~]{1,32}", code) for code in CODES)
    body = text[text.index("\nterms = [") : text.index("\nstatement = [")]
    assert re.findall(r"^  ([a-z-]+):", body, re.MULTILINE) == [name.replace("_", "-") for name, _ in FIELDS]
    assert set(re.findall(r'tx<"([a-z-]+)"', text)) == set(BODIES)


def test_a_bundle_is_what_is_unpacked_as_one(fits, said):
    """What the file refuses is taken as one transaction, which nobody can decode."""
    txs = [data for rule, data in said if rule == "transaction-message"][:3]
    for value in (
        [],
        txs[:1],
        [txs],
        [*txs, 1],
        [*txs, txs],
        [*txs, b"\xd2"],
        {0: txs[0], 1: txs[1]},
        txs[:1] * (MAX_BUNDLED + 1),
    ):
        assert not fits("bundle", dump(value)), value
    for value in ([], txs[:1], [txs], [*txs, 1], [*txs, txs], {0: txs[0], 1: txs[1]}, txs[:1] * (MAX_BUNDLED + 1)):
        assert unpack(dump(value)) == [dump(value)]


def test_the_long_frame_signs_a_hash(fits):
    """Which is no CBOR, so nothing within it is altered below."""
    reply = encode([bytes(32), 7, "ok", ""])
    assert fits("reply-message", in_long_frame(reply, sha256(reply), "wire"))
    for signed in (reply, bytes(31), bytes(33)):
        assert not fits("reply-message", in_long_frame(reply, signed, "wire")), signed


# --- altered -------------------------------------------------------------------------------------------------------------

FLOAT = 1.5  # fits nowhere: there are no floats on this wire


def embedded(value):
    """What a byte string holds, if that is a message, a list or a map."""
    try:
        if value[:1] == b"\xd2":
            signed = cose.parse1(value, MOST)
            return decode(signed.payload, MOST)
        inner = decode(value, MOST)
    except (CodecError, cose.SignatureError):
        return None
    return inner if isinstance(inner, list | dict) else None


def wrapped(value, inner):
    """The same byte string around another content."""
    if value[:1] == b"\xd2":
        signed = cose.parse1(value, MOST)
        payload = dump(inner)
        return b"".join((value[:16], b"\xa0", dump(payload), dump(signed.signature)))
    return dump(inner)


def dump(value):
    return cbor2.dumps(value, canonical=True)


def variants(value):
    """`value` with one thing about it changed, at every depth, each so that no type allows it."""
    if isinstance(value, list):
        yield [*value, FLOAT]
        for i, item in enumerate(value):
            for other in variants(item):
                yield [*value[:i], other, *value[i + 1 :]]
    elif isinstance(value, dict):
        yield value | {(99 if 0 in value else "more"): 0}
        for name, item in value.items():
            yield {k: v for k, v in value.items() if k != name}
            for other in variants(item):
                yield value | {name: other}
    elif isinstance(value, bytes) and embedded(value) is not None:
        yield FLOAT
        for other in variants(embedded(value)):
            yield wrapped(value, other)
    else:
        yield FLOAT
        if isinstance(value, bytes) and len(value) in {16, 32, 64, 65}:
            yield value + b"\x00"
            yield value[:-1]


@pytest.mark.parametrize(
    "rule",
    [
        "handover",
        "header",
        "inclusion",
        "leaf",
        "order-certificate",
        "pile-status",
        "proof-message",
        "query-message",
        "reply",
        "reply-message",
        "session-command",
        "session-message",
        "statement",
        "terms",
        "transaction-message",
        "validators",
    ],
)
def test_what_is_altered_does_not_fit(fits, said, rule):
    seen = set()
    count = 0
    for name, data in said:
        if name != rule:
            continue
        whole = data if data[:1] == b"\xd2" else decode(data, MOST)
        large = len(data) > 2000  # an order certificate, which is made of the others: a sample of it will do
        if large and rule != "order-certificate":
            continue
        for number, other in enumerate(untried(whole, rule, seen)):
            if large and number % 61:
                continue
            changed = other if isinstance(other, bytes) else dump(other)
            if excused(rule, whole, other):
                continue
            count += 1
            assert not fits(rule, changed), (rule, whole, changed.hex())
    assert count > 5


# Lists whose items the grammar judges each for itself: what one item is says nothing about what another may be. Of these
# it is each item in each of its shapes that is altered, not each combination of them: else a leaf is altered again for each
# length of its path and each small number in its header. An item that is named here is such a list too.
PRODUCTS = {"header": {}, "inclusion": {0: {0: {}}}}  # of an inclusion: its certificate, and of that the header


def untried(whole, rule, seen):
    """The variants of `whole` but for those that `seen` has from another object of this rule."""
    if rule == "transaction-message":  # one frame around all of them: what is in it may be hangs on the type alone
        payload = embedded(whole if isinstance(whole, bytes) else whole[0])
        around = () if isinstance(whole, bytes) else shape_of(whole[1])
        return once((around, payload[1], shape_of(payload[5])), seen, lambda: variants(whole))
    if rule == "reply-message":  # two frames, around any reply: what a reply may be is asked under its own name
        frame, reply = ("short", embedded(whole[0])) if whole[1] is None else ("long", embedded(whole[1]))
        return once((frame, len(reply)), seen, lambda: variants(whole))
    return apart(whole, PRODUCTS.get(rule), seen, ())


def once(key, seen, generate):
    """What `generate` gives; nothing if the key was seen."""
    if key in seen:
        return []
    seen.add(key)
    return generate()


def apart(value, product, seen, place):
    """The variants of each item of a product, at its place in the whole, that have not been seen; of other values, all."""
    if product is None:
        yield from once((place, shape_of(value)), seen, lambda: variants(value))
    elif isinstance(value, bytes):
        yield from once((place, "bytes"), seen, lambda: [FLOAT])
        for other in apart(embedded(value), product, seen, place):
            yield wrapped(value, other)
    else:
        yield from once((place, "longer"), seen, lambda: [[*value, FLOAT]])
        for i, item in enumerate(value):
            for other in apart(item, product.get(i), seen, (*place, i)):
                yield [*value[:i], other, *value[i + 1 :]]


def test_a_product_is_one_in_the_grammar():
    """One list of so many named items, without another choice, a repetition or an item that may be absent."""
    grammar = re.sub(r";.*", "", CDDL.read_text())
    for name, items in (("inclusion", 4), ("certificate", 2), ("header", 13)):
        (body,) = re.findall(rf"^{name} = \[(.*?)\]\n(?=\n|[a-z])", grammar, re.MULTILINE | re.DOTALL)
        body = re.sub(r"\[.*?\]", "", body)  # a list within
        assert not re.search(r"[/?*+]|\n\[", body)
        assert len(re.findall(r"[a-z-]+:", body)) == items
    (frames,) = re.findall(r"^reply-message = (.*)", grammar, re.MULTILINE)
    assert re.findall(r"[a-z1-]+", frames.replace("bstr .cbor", "")) == [
        "sign1",
        "reply",
        "null",
        "signed-hash",
        "reply",
    ]
    frame = grammar[grammar.index("\ntransaction = ") : grammar.index("\nregister-party = ")]
    assert re.search(r"\ntx<type, body> = \[[^/?*+\]]*\]", frame)
    of_nobody = re.search(r"^of-nobody = (.*)", grammar, re.MULTILINE).group(1)
    kinds = frame.partition("\ntx<")[0].partition("=")[2] + of_nobody.join("//")
    for name in re.findall(r"[a-z-]+", kinds):
        (body,) = re.findall(rf"^{name} = tx<(.*?>)\s*(?=\n\n|\n[a-z]|\Z)", grammar, re.MULTILINE | re.DOTALL)
        assert not re.search(r"tx<|>\s*/", body), name


def shape_of(value):
    """One object of each shape is enough: types and structure, with small numbers as they tell kinds apart."""
    if isinstance(value, list):
        return ("list", *map(shape_of, value))
    if isinstance(value, dict):
        return ("dict", *((k, shape_of(v)) for k, v in value.items()))
    if isinstance(value, bytes) and embedded(value) is not None:
        return ("bytes", shape_of(embedded(value)))
    return value if isinstance(value, int) and 0 <= value < 6 else type(value).__name__


# Questions without arguments.
BARE = {"account", "orders", "tariff", "withdrawals", "disputes", "piles", "stake", "history", "zones"}


def excused(rule, whole, other):
    """Arguments of the questions that have none may be anything, and a batch may hold proofs that are none."""
    if rule not in {"query-message", "transaction-message"} or not isinstance(other, bytes):
        return False
    before, after = embedded(whole), cbor2.loads(cbor2.loads(other[1:])[2])
    if rule == "query-message":
        return (
            before[2] in BARE and len(after) == len(before) and [*after[:3], *after[4:]] == [*before[:3], *before[4:]]
        )
    return before[1] == "proofs" and before[:5] == after[:5] and is_batch(after[5:])


def is_batch(body):
    return len(body) == 1 == len(body[0]) and all(isinstance(proof, bytes) for proof in body[0][0])


# --- the guide -----------------------------------------------------------------------------------------------------------


def test_the_worked_bytes_are_the_vector():
    block = GUIDE.read_text().partition("```hex\n")[2].partition("```")[0]
    worked = "".join(re.match(r" *((?:[0-9a-f]{2} ?)*)", line).group(1) for line in block.splitlines())
    (case,) = [case for case in cases("proof") if case["source"] == "periodic, six readings"]
    assert worked.replace(" ", "") == case["message"]
    assert f"{len(case['message']) // 2} bytes" in GUIDE.read_text()
