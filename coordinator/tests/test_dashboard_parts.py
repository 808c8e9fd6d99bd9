"""Words, amounts and the board's states, without a browser."""

import asyncio
import contextlib
import gzip
import re
import string
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import words_used

from pile_coordinator.chain.records import ROLES
from pile_coordinator.dashboard import board, pages, shell, words, written
from pile_coordinator.dashboard.board import STATES, OpenContract, Order, Pile
from pile_coordinator.dashboard.files import Files
from pile_coordinator.dashboard.pages import book
from pile_coordinator.dashboard.pages.piles import SIGNS
from pile_coordinator.web.access import RULES, Grant, also
from pile_coordinator.web.config import load_web_config
from pile_coordinator.web.tokens import Token
from pile_shared.errors import ConfigError
from pile_shared.proof import EVENT_NAMES, REASON_NAMES

DASH = written.DASH
DOCS = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text()


def _placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_have_the_same_keys_and_placeholders():
    english, chinese = words.table("en"), words.table("zh")
    assert english.keys() == chinese.keys()
    assert {key: _placeholders(text) for key, text in english.items()} == {
        key: _placeholders(text) for key, text in chinese.items()
    }


def test_every_key_is_used():
    assert [key for key in words.table("en") if not words_used.is_used(key)] == []


def test_no_text_is_empty_or_left_in_english():
    for key, text in words.table("zh").items():
        assert text.strip(), key
        if text not in {"Pilechain", DASH}:
            assert any("\u4e00" <= letter <= "\u9fff" for letter in text), f"{key} is not Chinese: {text}"


@pytest.mark.parametrize(
    ("family", "names"), [("state", STATES), ("event", EVENT_NAMES), ("reason", REASON_NAMES), ("role", ROLES)]
)
def test_every_word_of_the_chain_has_a_word(family, names):
    for name in names:
        assert f"{family}.{name}" in words.table("en")


def test_a_word_that_nobody_knows_is_shown_as_it_is():
    assert words.word("zh", "state", "levitating") == "levitating"
    assert words.word("zh", "state", None) == DASH


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("de,en;q=0.5,zh;q=0.7", "zh"),
        ("en-GB", "en"),
        ("fr", "en"),
        ("zh;q=0", "en"),
        ("zh;q=huge,,;;", "zh"),
        ("*" * 5000, "en"),
    ],
)
def test_the_first_language_is_the_browser_s(header, language):
    assert words.preferred(header) == language


def test_amounts_are_exact_and_rounded_only_where_fewer_digits_are_shown():
    assert written.money(1_234_567_890_123, "CNY") == "1\u202f234\u202f567.89 CNY"
    assert written.money_exact(-1, "CNY") == "\N{MINUS SIGN}0.000001 CNY"
    assert written.money(-4_999) == "0.00"
    assert written.money(5_000) == "0.01"
    assert written.price(701_600, "CNY") == "0.7016 CNY/kWh"
    assert written.energy((1 << 62) + 1) == "4\u202f611\u202f686\u202f018\u202f427\u202f387.905 kWh"
    assert written.energy_short(12_345_678) == "12.35 MWh"
    assert written.power(7360) == "7.4 kW"
    assert written.permille(1000) == "100.0 %"
    assert written.energy(None) == written.money(None) == written.time(None, ZoneInfo("UTC")) == DASH


def test_times_are_those_of_the_operator_s_clocks():
    assert written.time(1_700_000_000_000, ZoneInfo("Asia/Shanghai")) == "2023-11-15 06:13:20"
    assert written.clock(1_700_000_000_000, ZoneInfo("America/New_York")) == "17:13:20"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (200_000_000, "2 d"),
    ],
)
def test_spans_are_told_in_their_largest_unit(ms, text):
    assert written.span(ms) == text


@pytest.fixture(scope="module")
def entries():
    import importlib

    for name in pages.MODULES:
        importlib.import_module(f"{pages.__name__}.{name}")
    return shell.ENTRIES


def test_the_docs_have_every_page_with_what_allows_it(entries):
    told = set(re.findall(r"^\| [^|]+ \| `(/[^`]*)` \| .* \| `(\w+)` \|$", DOCS, re.MULTILINE))
    assert told == {(entry.path, entry.route) for entry in entries}


def test_every_page_asks_a_route_of_the_access_table_and_names_its_title(entries):
    for entry in entries:
        assert entry.route in RULES
        assert entry.title in words.table("en")


def test_the_docs_have_every_state_with_its_sign():
    told = dict(re.findall(r"^\| ([a-z ]+) \| (\S?) ?\| ", DOCS.split("### States of a pile")[1], re.MULTILINE))
    told.pop("state", None)
    assert told == {words.text("en", f"state.{state}"): SIGNS.get(state, "") for state in STATES}


def test_the_docs_configuration_is_one(tmp_path):
    sample = re.search(r"```toml\n(\[dashboard\].*?)```", DOCS, re.DOTALL)[1]
    path = tmp_path / "web.toml"
    path.write_text('database = "evidence.sqlite"\n' + sample)
    found = load_web_config(path).dashboard
    path.write_text('database = "evidence.sqlite"\n')
    default = load_web_config(path).dashboard
    assert (default.serve, default.still_after_s) == (True, found.still_after_s)


@pytest.mark.parametrize(
    "line", ['time_zone = "UTC"', "serve = 1", "still_after_s = 0", "still_after_s = true", "colour = 1"]
)
def test_a_wrong_configuration_is_refused(tmp_path, line):
    path = tmp_path / "web.toml"
    path.write_text(f'database = "evidence.sqlite"\n[dashboard]\n{line}\n')
    with pytest.raises(ConfigError):
        load_web_config(path)


# --- states --------------------------------------------------------------------------------------------------------------


def _contract(**more):
    given = {"id": b"c", "pile": "p", "user": "dan", "owner": "olga", "energy_wh": 1, "state": "signed"}
    return OpenContract(**given | {"window_start_ms": 1000, "window_end_ms": 2000, "is_charging": False} | more)


def _pile(*contracts, **more):
    pile = Pile("p", b"k", "olga", "north", 7000, is_retired=False, contracts=contracts, state="charging")
    return replace(pile, **more)


@pytest.mark.parametrize(
    ("pile", "is_listed", "now_ms", "state"),
    [
        (_pile(), False, 0, "idle"),
        (_pile(), True, 0, "listed"),
        (_pile(_contract()), True, 0, "reserved"),
        (_pile(_contract(state="proposed")), False, 0, "reserved"),
        (_pile(_contract(state="measured")), False, 0, "idle"),
        (_pile(_contract(is_charging=True)), True, 0, "charging"),
        (_pile(_contract(is_charging=True), _contract(state="disputed")), True, 0, "disputed"),
        (_pile(event="alarm", proof_ms=0), True, 0, "alarm"),
        (_pile(_contract(is_charging=True), proof_ms=0), False, 10_001, "silent"),
        (_pile(_contract(is_charging=True), proof_ms=0), False, 10_000, "charging"),
        (_pile(proof_ms=0), False, 99_999, "idle"),
        (_pile(), True, 99_999, "listed"),
        (_pile(_contract(state="disputed"), is_retired=True), True, 0, "retired"),
    ],
)
def test_a_pile_s_state_follows_from_the_evidence(pile, is_listed, now_ms, state):
    assert board.state_of(pile, is_listed, now_ms, 10_000) == state


def _grant(role, party, route="contracts"):
    return also(Grant(Token("0" * 12, party, role, 0, 1, None, ""), "all"), route)


@pytest.mark.parametrize(
    ("role", "party", "state"),
    [
        ("operator", "operator", "charging"),
        ("pile-owner", "olga", "charging"),
        ("ev-owner", "dan", "charging"),
        ("ev-owner", "eve", "hidden"),
        ("pile-owner", "other", "hidden"),
        ("grid", "grid", "hidden"),
        ("third-party", "judge-1", "hidden"),
    ],
)
def test_a_state_is_shown_to_who_may_see_what_it_follows_from(role, party, state):
    pile = _pile(_contract(is_charging=True))
    assert board.state_seen(pile, _grant(role, party)) == state
    assert board.state_seen(replace(pile, is_retired=True, state="retired"), _grant(role, party)) == "retired"


def test_an_arbiter_sees_that_a_contract_is_disputed_and_no_other():
    pile = _pile(_contract(state="disputed"), _contract(id=b"d"), state="disputed")
    grant = _grant("third-party", "judge-1")
    assert board.state_seen(pile, grant) == "disputed"
    assert [contract.id for contract in board.contracts_seen(grant, [pile])] == [b"c"]


@pytest.mark.parametrize(
    ("role", "party", "seen"), [("operator", "x", 2), ("ev-owner", "dan", 1), ("third-party", "j", 0)]
)
def test_open_orders_are_shown_as_the_access_table_says(role, party, seen):
    orders = [
        Order(name, 1, who, "limited bid", 5, 0, 7, None, None, None) for name, who in ((b"a", "dan"), (b"b", "eve"))
    ]
    assert len(board.orders_seen(_grant(role, party, "orders"), orders)) == seen


def test_depth_adds_up_from_the_best_price_on():
    orders = [
        Order(b"", 1, "a", "limited bid", wh, 1000, price, None, None, None) for wh, price in ((3000, 2), (2000, 1))
    ]
    assert book.depth(orders) == [[0.000002, 2.0], [0.000001, 3.0]]


# --- the program's files -------------------------------------------------------------------------------------------------


def _get(files, path, *, gone=False, **headers):
    """What a browser gets that asks for a file, and is `gone` at once if so."""
    from starlette.requests import ClientDisconnect

    sent = []

    async def receive():
        return {"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        if gone:
            raise ClientDisconnect
        sent.append(message)

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": pairs}
    with contextlib.suppress(ClientDisconnect):
        asyncio.run(files(scope, receive, send))
    return sent


def _server_of_files():
    """Serves one file in two parts, as NiceGUI's layers do: not to its end if the browser goes away."""
    asked = []

    async def serve(scope, receive, send):
        asked.append(scope["path"])
        found = scope["path"] == "/file.js"
        body = [b"x" * 2000, b"y" * 2000] if found else [b"none"]
        length = str(sum(map(len, body))).encode()
        headers = [(b"content-type", b"text/javascript"), (b"content-length", length)]
        await receive()
        leaving = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        for part in body:
            await asyncio.sleep(0)
            if leaving.done() and leaving.result()["type"] == "http.disconnect":
                return
            await send({"type": "http.response.body", "body": part, "more_body": part is not body[-1]})
        leaving.cancel()

    return Files(serve), asked


def test_a_file_is_asked_for_once_and_compressed_for_who_takes_it():
    files, asked = _server_of_files()
    plain = _get(files, "/file.js")
    packed = _get(files, "/file.js", accept_encoding="gzip, br")
    assert plain[1]["body"] == gzip.decompress(packed[1]["body"]) == b"x" * 2000 + b"y" * 2000
    assert dict(packed[0]["headers"])[b"content-length"] == str(len(packed[1]["body"])).encode()
    assert _get(files, "/file.js", accept_encoding="gzip") == packed
    assert len(asked) == 2


def test_a_file_that_a_browser_did_not_wait_for_is_whole_for_the_next():
    files, _ = _server_of_files()
    assert _get(files, "/file.js", gone=True) == []
    assert len(_get(files, "/file.js")[1]["body"]) == 4000


def test_what_is_no_file_is_not_kept():
    files, asked = _server_of_files()
    assert [_get(files, "/none")[0]["status"] for _ in range(2)] == [404, 404]
    assert len(asked) == 2
