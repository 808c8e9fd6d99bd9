"""The HTTP API as its clients meet it: a real server in a process of its own, over a real ledger."""

import asyncio
import json
import socket
import sqlite3
import stat
import time
from pathlib import Path

import httpx
import pytest
import schemathesis
from fastapi import Depends
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from web_world import NASTY, ROLES, WebWorld

from pile_coordinator.cli import main as pilechain
from pile_coordinator.verify import verify_order
from pile_coordinator.web.access import RULES, authorised
from pile_coordinator.web.app import make_app
from pile_coordinator.web.config import load_web_config

HEADERS = ("x-content-type-options", "content-security-policy", "x-frame-options", "cache-control")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = WebWorld(tmp_path_factory.mktemp("web"))
    yield world
    world.close()


def ids(world: WebWorld, path: str, party: str, name: str = "id") -> list[str] | int:
    answer = world.get(path, party)
    if answer.status_code != 200:
        return answer.status_code
    return [row[name] for row in answer.json()["items"]]


# --- who sees what -------------------------------------------------------------------------------------------------------

SETTLED, DISPUTED, NOBODYS = "settled", "disputed", "00" * 32
BOTH = (200, 200, 404)
# For each role: the settled contract, the disputed one, one that is not there.
CONTRACT = {
    "operator": BOTH,
    "grid": (200, 200, 404),  # the user caused a deviation in both, so the grid is a side of both
    "olga": BOTH,
    "dan": BOTH,
    "judge-1": (404, 200, 404),
    "other-owner": (404, 404, 404),
    "other-user": (404, 404, 404),
}


@pytest.mark.parametrize("party", ROLES)
@pytest.mark.parametrize("part", ["", "/proofs", "/trace", "/records", "/certificate"])
def test_contracts_are_shown_to_whom_they_concern(world, party, part):
    names = (world.settled.hex(), world.disputed.hex(), NOBODYS)
    found = tuple(world.get(f"/v1/contracts/{name}{part}", party).status_code for name in names)
    settled, disputed, missing = CONTRACT[party]
    if part == "/certificate" and disputed == 200:
        disputed = 409  # not closed yet
    assert found == (settled, disputed, missing)


LISTS = {
    # path: how many rows by party, in order of ROLES; 403 where the role has no part
    "/v1/orders": (4, 403, 2, 2, 2, 0, 0),
    "/v1/contracts": (2, 2, 2, 2, 1, 0, 0),
    "/v1/piles": (2, 2, 1, 1, 1, 1, 0),
    "/v1/parties": (7, 7, 1, 1, 3, 1, 1),
    "/v1/postings": (5, 5, 5, 5, 0, 0, 0),
    "/v1/piles/pile-1/proofs": (5, 403, 5, 403, 403, 404, 403),
    "/v1/piles/pile-2/proofs": (0, 403, 404, 403, 403, 0, 403),
    "/v1/piles/pile-1": (200, 200, 200, 200, 200, 404, 404),
    "/v1/piles/pile-2": (200, 200, 404, 404, 404, 200, 404),
    "/v1/parties/dan": (200, 200, 404, 200, 200, 404, 404),
    "/v1/parties/other-user": (200, 200, 404, 404, 404, 404, 200),
    "/v1/orders/BID": (200, 403, 404, 200, 404, 404, 404),
    "/v1/whoami": (200,) * 7,
    "/v1/blocks?limit=200": (10,) * 7,
    "/v1/blocks/1": (200,) * 7,
    "/v1/prices": (2,) * 7,
    "/metrics": (200, 403, 403, 403, 403, 403, 403),
}


@pytest.mark.parametrize("path", LISTS)
def test_lists_hold_what_the_caller_may_see(world, path):
    bid = world.get(f"/v1/contracts/{world.settled.hex()}").json()["bid"]
    found = []
    for party in ROLES:
        answer = world.get(path.replace("BID", bid), party)
        is_list = answer.status_code == 200 and path != "/metrics" and "items" in answer.json()
        found.append(len(answer.json()["items"]) if is_list else answer.status_code)
    assert tuple(found) == LISTS[path]


def test_every_route_is_in_the_table_and_asks(world):
    """Denied by default: without a token every path says 401, but for the two that say nothing of anybody."""
    schema = world.get("/openapi.json").json()
    assert schema["openapi"] == "3.1.0"
    paths = set(schema["paths"]) - {"/healthz"}
    assert len(paths) == len(RULES)
    for path in paths:
        filled = path.replace("{height}", "1").replace("{order}", "00" * 32).replace("{contract}", "00" * 32)
        answer = world.get(filled.replace("{pile}", "pile-1").replace("{party}", "dan"), None)
        assert (answer.status_code, answer.json()["code"]) == (401, "token"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")


def secret() -> dict[str, str]:
    return {}


def test_a_route_that_is_not_in_the_table_answers_nobody(world):
    app = make_app(load_web_config(world.config))
    ran = app.state.web
    app.add_api_route("/v1/secret", secret, name="secret", dependencies=[Depends(authorised)])
    headers = {"authorization": f"Bearer {world.tokens['operator']}"}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as here:
            return await here.get("/v1/secret", headers=headers)

    answer = asyncio.run(ask())
    ran.close()
    assert (answer.status_code, answer.json()["code"]) == (403, "role")


def test_senders_are_told_to_operators_only(world):
    assert {row["sender"] for row in world.get("/v1/blocks/5").json()["transactions"]} == {"dan", "olga"}
    assert {row["sender"] for row in world.get("/v1/blocks/5", "dan").json()["transactions"]} == {"dan", ""}


def test_a_trace_leads_from_order_to_money_and_shows_no_others_orders(world):
    path = f"/v1/contracts/{world.settled.hex()}/trace"
    whole = world.get(path).json()
    assert whole["bid"]["party"] == "dan"
    assert whole["listing"]["party"] == "olga"
    assert [proof["event"] for proof in whole["proofs"]] == ["begin", "periodic", "end"]
    assert whole["statements"][0]["measured_wh"] == 2000
    assert len(whole["confirmations"]) == 2
    assert {block["height"] for block in whole["blocks"]} >= {2, 3, 4, 5}
    assert sum(posting["amount_micro"] for posting in whole["postings"]) > 0
    dans = world.get(path, "dan").json()
    assert dans["bid"] == whole["bid"]
    assert dans["listing"] is None
    assert world.get(path, "grid").json()["bid"] is None


def test_a_downloaded_certificate_verifies_offline(world):
    answer = world.get(f"/v1/contracts/{world.settled.hex()}/certificate", "dan")
    assert answer.headers["content-type"] == "application/cbor"
    assert verify_order(answer.content, world.chain.genesis).terms.contract_id() == world.settled


def test_the_records_of_a_contract_are_those_that_its_pile_sent(world):
    told = world.get(f"/v1/contracts/{world.settled.hex()}/records", "dan").json()
    assert (told["contract"], told["pile"]) == (world.settled.hex(), "pile-1")
    assert [(row["kind"], row["ocmf"]) for row in told["records"]] == list(
        zip(("begin", "end"), world.records, strict=True)
    )
    assert world.get(f"/v1/contracts/{world.disputed.hex()}/records", "dan").json()["records"] == []
    path = world.folder / "records.sqlite"
    whole = path.read_bytes()
    try:
        for content, status, code in ((None, 409, "no_records"), (b"no database" * 400, 503, "database")):
            path.unlink(missing_ok=True)
            if content:
                path.write_bytes(content)
            answer = world.get(f"/v1/contracts/{world.settled.hex()}/records", "dan")
            assert (answer.status_code, answer.json()["code"]) == (status, code)
    finally:
        path.write_bytes(whole)


# --- tokens --------------------------------------------------------------------------------------------------------------


def test_forged_expired_and_revoked_tokens_are_refused_alike(world):
    now_ms = time.time_ns() // 1_000_000
    good = world.store.add("dan", "ev-owner", now_ms=now_ms, days=1)
    assert world.get("/v1/whoami", good).json()["party"] == "dan"
    name = good.split("_")[1]
    forged = f"pct_{name}_{'A' * 43}"
    unknown = f"pct_{'0' * 12}_{good.split('_', 2)[2]}"
    expired = world.store.add("dan", "operator", now_ms=now_ms - 2 * 86_400_000, days=1)
    answers = [world.get("/v1/whoami", token) for token in (forged, unknown, expired, "x", "' OR 1=1 --", good + "x")]
    world.store.revoke(name, now_ms)
    answers.append(world.get("/v1/whoami", good))
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert world.get("/v1/whoami", None, authorization=f"Basic {good}").status_code == 401


def test_tokens_are_made_listed_and_revoked_by_command(world, capsys):
    config = ["--config", str(world.config)]
    assert pilechain(["web", "token", "add", "olga", "--role", "pile-owner", "--note", NASTY, "--json", *config]) == 0
    text = json.loads(capsys.readouterr().out)["token"]
    assert ids(world, "/v1/piles", text) == ["pile-1"]
    assert pilechain(["web", "token", "list", "--json", *config]) == 0
    listed = capsys.readouterr().out
    (row,) = [row for row in json.loads(listed) if row["note"] == NASTY]
    assert text.split("_", 2)[2] not in listed
    assert pilechain(["web", "token", "list", *config]) == 0
    assert row["id"] in capsys.readouterr().out
    assert pilechain(["web", "token", "revoke", row["id"], *config]) == 0
    assert world.get("/v1/piles", text).status_code == 401
    assert pilechain(["web", "token", "revoke", row["id"], *config]) == 1
    assert pilechain(["web", "token", "add", "Olga!", "--role", "grid", *config]) == 1
    assert "pilechain web token list" in capsys.readouterr().err


def test_only_hashes_are_stored_for_the_owner_of_the_file_alone(world):
    path = world.folder / "tokens.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert not any(token.split("_", 2)[2].encode() in content for token in world.tokens.values())


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [NASTY, "' OR '1'='1", "%00", "../../etc/passwd", "\u202e", "x" * 3000, "{{7*7}}"])
def test_sql_and_html_in_every_text_field(world, text):
    quoted = str(httpx.QueryParams({"x": text}))[2:]
    before = world.get("/v1/blocks").json()
    for path, methods in world.get("/openapi.json").json()["paths"].items():
        for parameter in methods["get"].get("parameters", []):
            if parameter["in"] == "query":
                target = path.replace("{", "").replace("}", "") if "{" in path else path
                answer = world.get(f"{target}?{parameter['name']}={quoted}")
            elif parameter["in"] == "path":
                answer = world.get(path.replace(f"{{{parameter['name']}}}", quoted))
            else:
                continue
            assert answer.status_code in {404, 422}, (path, parameter["name"], answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert all(name in answer.headers for name in HEADERS)
            assert "<script>" not in answer.text
    assert world.get("/v1/blocks").json() == before


def test_what_people_wrote_comes_back_as_text_and_nothing_else(world):
    answer = world.get(f"/v1/contracts/{world.disputed.hex()}/trace", "judge-1")
    assert answer.json()["dispute"]["text"] == NASTY
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_problems_have_one_shape(world):
    for path, status in (("/nothing", 404), ("/v1/blocks?limit=0", 422), ("/v1/blocks?cursor=AAAA", 422)):
        problem = world.get(path).json()
        assert (problem["status"], problem["type"]) == (status, "about:blank")
        assert problem["detail"]
        assert problem["code"]
    assert world.get("/v1/blocks?limit=201").json()["mistakes"][0]["where"] == "query.limit"
    answer = httpx.post(world.url + "/v1/blocks", headers={"authorization": f"Bearer {world.tokens['dan']}"})
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method", "GET")


def test_what_is_too_large_is_refused(world):
    assert world.get("/v1/blocks?cursor=" + "A" * 5000).status_code == 414
    assert httpx.post(world.url + "/v1/blocks", content=b"x" * 70_000).status_code == 413
    assert httpx.get(world.url + "/healthz", headers={"x-long": "x" * 20_000}).json()["code"] == "head_too_large"


def test_pages_follow_each_other_and_end(world):
    seen, cursor = [], ""
    while cursor is not None:
        page = world.get(f"/v1/postings?limit=1{cursor and '&cursor=' + cursor}").json()
        seen += [(row["contract"], row["item"]) for row in page["items"]]
        cursor = page["next"]
    assert len(seen) == len(set(seen)) == LISTS["/v1/postings"][0]
    cursor = world.get("/v1/blocks?limit=1").json()["next"]
    assert world.get(f"/v1/orders?cursor={cursor}").json()["code"] == "cursor"


def test_the_api_is_what_its_description_says(world):
    """Fuzzed from its own OpenAPI: no server error, and every answer as it is described."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(world.url + "/openapi.json")
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    headers = {"authorization": f"Bearer {world.tokens['operator']}"}
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/live":
            continue  # an answer that does not end
        modes = (
            list(schemathesis.GenerationMode)
            if operation.path not in {"/healthz", "/v1/whoami", "/metrics"}
            else [None]
        )
        for mode in modes:  # what can be, and what cannot
            strategy = operation.as_strategy(**({} if mode is None else {"generation_mode": mode}))

            @settings(
                max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=strategy)
            def fuzz(case):
                nonlocal asked
                asked += 1
                case.call_and_validate(headers=headers, checks=checks)

            fuzz()
    assert asked > 200


# --- rate ----------------------------------------------------------------------------------------------------------------


def test_who_asks_too_often_waits_and_others_do_not(tmp_path):
    world = WebWorld(tmp_path, per_minute=6, burst=40)
    try:
        statuses = [world.get("/v1/whoami", "dan").status_code for _ in range(42)]
        answer = world.get("/v1/whoami", "dan")
        assert statuses[:20] == [200] * 20
        assert statuses[-1] == 429
        assert answer.json()["code"] == "rate"
        assert 1 <= int(answer.headers["retry-after"]) <= 20
    finally:
        world.close()


# --- live ----------------------------------------------------------------------------------------------------------------


class Client:
    """A reader of server-sent events."""

    def __init__(self, world: WebWorld, party: str = "dan", query: str = "", **headers: str) -> None:
        headers["authorization"] = f"Bearer {world.tokens.get(party, party)}"
        self._http = httpx.Client(timeout=20)
        self._stream = self._http.stream("GET", f"{world.url}/v1/live{query}", headers=headers)
        self.answer = self._stream.__enter__()
        self.lines = self.answer.iter_lines()

    def block(self) -> tuple[str, dict[str, object]]:
        """Id and data of the next block."""
        name = kind = ""
        for line in self.lines:
            if line.startswith("id: "):
                name = line[4:]
            elif line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: ") and kind == "block":
                return name, json.loads(line[6:])
        raise EOFError

    def close(self) -> None:
        self._stream.__exit__(None, None, None)
        self._http.close()


@pytest.fixture
def client(world):
    opened: list[Client] = []

    def make(*args, **kwargs) -> Client:
        opened.append(Client(world, *args, **kwargs))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_streams_tell_of_blocks_and_resume_where_they_were(world, client):
    first = client(query="?after=7")
    assert first.answer.headers["content-type"].startswith("text/event-stream")
    lines = []
    for line in first.lines:
        lines.append(line)
        if line.startswith("id: 8"):
            break
    assert "event: price" in lines  # before the block of its clearing
    resumed = client(**{"last-event-id": "8"})
    heights = [resumed.block()[0] for _ in range(world.chain.engine.height - 8)]
    assert heights == [str(height) for height in range(9, world.chain.engine.height + 1)]
    live = client(**{"last-event-id": "<script>"})
    next(line for line in live.lines if line == ": pilechain")
    height = world.block()
    name, data = live.block()
    assert (name, data["height"], data["txs"]) == (str(height), height, 1)
    assert resumed.block()[0] == str(height)


def test_a_quiet_stream_shows_that_it_lives_and_ends_with_its_token(world, client):
    text = world.store.add("dan", "ev-owner", now_ms=time.time_ns() // 1_000_000, days=1)
    quiet = client(text)
    assert next(line for line in quiet.lines if line == ": beat")
    world.store.revoke(text.split("_")[1], time.time_ns() // 1_000_000)
    with pytest.raises(EOFError):
        quiet.block()


def test_streams_of_one_token_are_counted(world, client):
    for _ in range(8):
        assert client("olga").answer.status_code == 200
    with_one_more = client("olga").answer
    assert with_one_more.status_code == 429
    assert client("dan").answer.status_code == 200


def rss_kb(world: WebWorld) -> int:
    status = Path(f"/proc/{world.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def counted(world: WebWorld, name: str) -> float:
    lines = world.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name + " "))


def test_a_client_that_does_not_read_costs_no_memory_and_is_let_go(tmp_path):
    """40,000 blocks come while it sleeps; another client hears all of them."""
    world = WebWorld(tmp_path)
    slow = socket.socket()
    try:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", world.port))
        slow.sendall(
            f"GET /v1/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.tokens['dan']}\r\n\r\n".encode()
        )
        assert slow.recv(12) == b"HTTP/1.1 200"
        reader = Client(world)
        next(line for line in reader.lines if line == ": pilechain")
        before_kb, first, many = rss_kb(world), world.chain.engine.height + 1, 40_000
        with sqlite3.connect(tmp_path / "evidence.sqlite") as db:  # blocks alone, faster than an engine makes them
            rows = [(h, h, bytes(32), "x" * 32, 0, 0) for h in range(first, first + many)]
            db.executemany("INSERT INTO block VALUES (?, ?, ?, ?, ?, ?)", rows)
            db.execute("UPDATE mark SET height = ?", (first + many - 1,))
        heard = [reader.block()[1]["height"] for _ in range(many)]
        assert heard == list(range(first, first + many))
        deadline = time.monotonic() + 20
        while counted(world, "pilechain_web_streams_stalled_total") < 1:
            assert time.monotonic() < deadline
        assert rss_kb(world) - before_kb < 40_000
        reader.close()
    finally:
        slow.close()
        world.close()
