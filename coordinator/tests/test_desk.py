"""The desk's bounds and the stop commands it hands out; what it says of orders and contracts is tested through the wallet."""

from types import SimpleNamespace

import pytest
from world import END, HOUR, START, Market, key

from pile_coordinator.chain.records import Contract
from pile_coordinator.chain.transactions import MAX_STOP_BYTES, Withdraw
from pile_coordinator.desk import MAX_LISTED, QueryDesk
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.mqtt import MAX_MESSAGE_BYTES
from pile_coordinator.stops import KEPT, KNOWN, PASSED_BY, KeptStops
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.errors import ConfigError

START_COMMAND, STOP_COMMAND = 1, 2


def command(
    market: Market, contract: bytes, action: int = STOP_COMMAND, *, signer: str = "user-1", **over: object
) -> bytes:
    payload = encode([contract, action, START, 0])
    chain_id = str(over.get("chain_id", market.chain_id))
    return cose.sign1(payload, key(signer), cose.purpose(str(over.get("purpose", cose.SESSION)), chain_id))


# --- bounds ----------------------------------------------------------------------------------------------------------


def asked(market: Market, evidence: Exporter, party: str, question: str, arguments: object = None) -> list:
    engine = SimpleNamespace(
        state=market.state, genesis=market.genesis, height=market.height, time_ms=market.time_ms, env=market.env
    )
    query = cose.sign1(
        encode([party, bytes(16), question, arguments]), key(party), cose.purpose(cose.QUERY, market.chain_id)
    )
    answer = QueryDesk(engine, evidence).answer(party, query)
    assert isinstance(answer, list)
    return answer


@pytest.fixture
def evidence(tmp_path):
    exporter = Exporter(tmp_path / "evidence.sqlite")
    yield exporter
    exporter.close()


def test_lists_are_bounded(evidence):
    market = Market(1, 2)
    for i in range(MAX_LISTED + 3):
        market.offer(energy=1000 + i)
        market.bid(limit=1, energy=100)
        market.send("user-2", Withdraw(1 + i, "bank"))
    market.ok()
    owner, user = (asked(market, evidence, party, "orders")[2] for party in ("owner-1", "user-1"))
    assert (len(owner), len(user)) == (MAX_LISTED, MAX_LISTED)
    for party in ("user-2", "grid"):
        answer = asked(market, evidence, party, "withdrawals")
        assert len(answer[2]) == MAX_LISTED
    assert len(encode(owner)) < MAX_MESSAGE_BYTES // 10
    assert asked(market, evidence, "owner-1", "withdrawals")[2] == []


@pytest.mark.parametrize(
    ("question", "arguments", "code"),
    [
        ("nothing", None, "query"),
        (7, None, "query"),
        (["account"], None, "query"),
        ("contract", [], "codec"),
        ("contract", [b"short"], "bounds"),
        ("contract", [bytes(32)], "no_evidence"),
        ("stop", [bytes(32)], "no_evidence"),
        ("quote", ["north"], "codec"),
        ("quote", ["north", "", 1000, START, END, -1, True, 0, False, False], "bounds"),
        ("quote", ["north", "", 1 << 60, START, END, 1, True, 0, False, False], "bounds"),
        ("quote", ["north", "", 1000, START, END, 1, "yes", 0, False, False], "bounds"),
        ("quote", ["south", "", 1000, START, END, 1, True, 0, False, False], "unknown_zone"),
        ("quote", [[], {}, None, b"", 1, 1, True, 0, False, False], "bounds"),
        ("quote", ["north", "", 1000, START, END, None, True, 0, False, False], "bounds"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_a_code(evidence, question, arguments, code):
    market = Market()
    nonce, given, text = asked(market, evidence, "user-1", question, arguments)
    assert (nonce, given) == (bytes(16), code)
    assert text


# --- stop commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def market():
    market = Market(users=2)
    market.signed()
    return market


@pytest.fixture
def stops(tmp_path, market):
    stops = KeptStops(tmp_path / "stops.sqlite", market.state)
    yield stops
    stops.close()


def offer(stops: KeptStops, market: Market, message: bytes, pile: str = "pile-1") -> str:
    return stops.offer(market.state, market.env(), pile, message)


def test_the_first_stop_of_an_open_contract_is_kept_to_the_byte(stops, market):
    contract = market.contract().id
    assert stops.find(contract) is None
    first = command(market, contract)
    second = cose.sign1(
        encode([contract, STOP_COMMAND, END, 7]), key("user-1"), cose.purpose(cose.SESSION, market.chain_id)
    )
    assert offer(stops, market, first) == KEPT
    assert offer(stops, market, second) == KNOWN
    assert offer(stops, market, first) == KNOWN
    assert stops.find(contract) == first


def test_what_is_not_the_users_stop_is_not_kept(stops, market):
    contract = market.contract().id
    good = command(market, contract)
    flipped = bytearray(good)
    flipped[-1] ^= 1
    wrong = {
        command(market, contract, START_COMMAND): PASSED_BY,
        command(market, contract, signer="user-2"): "bad_signature",
        command(market, contract, signer="owner-1"): "bad_signature",
        command(market, contract, chain_id="another"): "bad_signature",
        command(market, contract, purpose=cose.QUERY): "bad_signature",
        bytes(flipped): "bad_signature",
        command(market, b"\x00" * 32): "unknown_contract",
        cose.sign1(
            encode([7, 2, 0, 0]), key("user-1"), cose.purpose(cose.SESSION, market.chain_id)
        ): "unknown_contract",
        cose.sign1(encode([contract, 2]), key("user-1"), cose.purpose(cose.SESSION, market.chain_id)): "codec",
        b"": "malformed",
        good + bytes(MAX_STOP_BYTES): "oversized",
    }
    for message, outcome in wrong.items():
        assert offer(stops, market, message) == outcome
    assert offer(stops, market, good, pile="pile-2") == "unknown_contract"  # that pile never heard it
    assert stops.find(contract) is None


def test_nothing_is_kept_for_a_proposal(tmp_path):
    market = Market()
    market.offer(explicit=True)
    market.bid()
    market.ok()
    stops = KeptStops(tmp_path / "stops.sqlite", market.state)
    assert offer(stops, market, command(market, market.contract().id)) == "unknown_contract"
    stops.close()


def test_stops_survive_a_restart_while_their_contract_is_open(tmp_path, market):
    path, contract = tmp_path / "stops.sqlite", market.contract().id
    message = command(market, contract)
    before = KeptStops(path, market.state)
    offer(before, market, message)
    before.close()
    again = KeptStops(path, market.state)
    assert again.find(contract) == message
    again.close()
    market.ok(time_ms=START + 10 * HOUR)  # the contract defaulted while the coordinator was away
    assert market.state.count(Contract) == 0
    later = KeptStops(path, market.state)
    assert later.find(contract) is None
    later.close()


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path, market):
    path = tmp_path / "stops.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="move it away"):
        KeptStops(path, market.state)
