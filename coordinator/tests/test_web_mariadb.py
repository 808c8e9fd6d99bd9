"""The HTTP API over a real MariaDB, as a user who may only SELECT: the same answers, nothing written, and back after a crash."""

import threading
import time

import httpx
import pymysql
import pytest
import sqlalchemy as sa
from test_web_boards import everything
from web_world import ROLES, WebWorld

from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.web.reading import Reading, open_database
from pile_hil.mariadb import MariaDb, find_mariadb
from pile_hil.requirements import require

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require(find_mariadb() is not None, "mariadbd is missing: apt install mariadb-server, or tools/servers")
    with MariaDb(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = WebWorld(tmp_path_factory.mktemp("web"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def reader(server, world):
    """The URL of a user who may only SELECT, of a database that holds what the world's has."""
    exporter = Exporter(server.create("web"))
    exporter.catch_up(world.chain.engine)
    exporter.close()
    with pymysql.connect(host="127.0.0.1", port=server.port, user="root", autocommit=True) as root:
        root.cursor().execute("CREATE USER reader@'%' IDENTIFIED BY 'secret'")
        root.cursor().execute("GRANT SELECT ON web.* TO reader@'%'")
    return f"mysql+pymysql://reader:secret@127.0.0.1:{server.port}/web"


def targets(world):
    """Every path of the description, filled with things that are there."""
    bid = world.get(f"/v1/contracts/{world.settled.hex()}").json()["bid"]
    filled = {
        "height": "5",
        "order": bid,
        "pile": "pile-1",
        "party": "dan",
        "zone": "north",
        "contract": world.settled.hex(),
    }
    paths = list(world.get("/openapi.json").json()["paths"])
    found = set()
    for path in paths:
        if path in {"/healthz", "/metrics", "/v1/live"}:
            continue
        for name, value in filled.items():
            path = path.replace(f"{{{name}}}", value)  # noqa: PLW2901 - filled bit by bit
        if "{form}" in path:
            found |= {path.replace("{form}", form) for form in ("certificate", "csv", "postings", "cdr", "xml")}
        elif "{dimension}" in path:
            found |= {path.replace("{dimension}", by) for by in ("all", "zone", "operator", "owner", "pile", "user")}
        else:
            found.add(path)
    found |= {f"/v1/trace/{kind}/{name}" for kind, name in everything(world)}
    found |= {f"{path}?limit=1" for path in ("/v1/orders", "/v1/contracts", "/v1/postings", "/v1/blocks", "/v1/prices")}
    found |= {f"/v1/statistics/all?per={per}&tz=Asia/Kathmandu" for per in ("hour", "day", "month", "quarter", "year")}
    until = world.begin + 10_000_000
    found.add(f"/v1/zones/north/prices?since_ms={world.begin - 100_000}&until_ms={until}")
    return sorted(path for path in found if "{" not in path)


MOVING = {"/v1/network", "/v1/alarms", "/v1/zones/north/prices"}  # they tell the present


SEEING = [party for party in ROLES if not party.startswith("other-")]  # the others' own branches find nothing


def answers(world, paths):
    found = {}
    for party in SEEING:
        for path in paths:
            answer = world.get(path, party)
            is_same = path in MOVING or "zip" in answer.headers.get("content-type", "")  # a ZIP has the time in it
            found[party, path] = answer.status_code, None if is_same else answer.content
    return found


def test_every_route_answers_as_over_sqlite(world, reader):
    paths = targets(world)
    here = answers(world, paths)
    world.restart(reader)
    there = answers(world, paths)
    assert {key: there[key] for key in here if there[key] != here[key]} == {}
    assert {status for status, _ in there.values()} == {200, 403, 404}
    reading = Reading(open_database(reader, world.folder))
    assert reading.closed_between(0, world.chain.engine.height) == (0, 1)  # which is asked when blocks come
    reading.close()


def test_nothing_can_be_written(server, reader, tmp_path):
    """By the user's rights, and by the connection even for one who has them."""
    root = f"mysql+pymysql://root@127.0.0.1:{server.port}/web"
    for url in (reader, root):
        engine = open_database(url, tmp_path)
        for statement in (
            "UPDATE mark SET height = 0",
            "DELETE FROM posting",
            "INSERT INTO handover VALUES (99)",
        ):
            with engine.connect() as db, pytest.raises(sa.exc.DBAPIError) as error:
                db.exec_driver_sql(statement)
            assert error.value.orig.args[0] in {1142, 1792}
        engine.dispose()
    with pymysql.connect(host="127.0.0.1", port=server.port, user="reader", password="secret", database="web") as db:
        for statement in ("DROP TABLE posting", "CREATE TABLE x (a INT)", "CREATE VIEW y AS SELECT 1"):
            with pytest.raises(pymysql.err.MySQLError):
                db.cursor().execute(statement)


def test_a_server_that_is_killed_under_requests_is_told_and_found_again(world, server, reader):
    world.restart(reader)
    seen, ended = [], threading.Event()
    headers = {"authorization": f"Bearer {world.tokens['operator']}"}
    paths = ("/v1/contracts", "/v1/statistics/all", "/v1/alarms", f"/v1/trace/contract/{world.settled.hex()}")

    def ask():
        with httpx.Client(base_url=world.url, headers=headers, timeout=60) as client:
            while not ended.is_set():
                for path in paths:
                    answer = client.get(path)
                    code = answer.json().get("code") if answer.status_code != 200 else None
                    alarms = {row["kind"] for row in answer.json().get("alarms", [])} if path == "/v1/alarms" else set()
                    seen.append((answer.status_code, code, "database_away" in alarms))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()

    def until(found, what):
        give_up_s = time.monotonic() + 60
        while not found(seen):
            assert time.monotonic() < give_up_s, (what, set(seen))
            ended.wait(0.05)

    try:
        until(lambda rows: len(rows) > 20, "answers before")
        server.kill()
        killed = len(seen)
        until(lambda rows: (503, "database", False) in rows[killed:], "a problem")
        until(lambda rows: (200, None, True) in rows[killed:], "an alarm")
        server.start()
        until(
            lambda rows: [row[:2] for row in rows[-8:]] == [(200, None)] * 8 and not any(r[2] for r in rows[-8:]),
            "good",
        )
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
    assert {row[:2] for row in seen} == {(200, None), (503, "database")}
    assert world.get("/healthz", None).json()["height"] == world.chain.engine.height
