"""What `pilechain init site` writes, at a real mosquitto: each reaches what is his and nothing else, and who is revoked is out.

What is allowed is written down here once more, topic by topic, and not taken from the code that writes the access list.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from listening import listening

from pile_coordinator.chain.transactions import AT_MARKET, List, PlaceBid
from pile_coordinator.cli import main as pilechain
from pile_coordinator.config import load_config
from pile_coordinator.mqtt import Broker, Connection, Tls
from pile_coordinator.site.access import Name
from pile_coordinator.site.authority import Authority
from pile_coordinator.site.folder import SiteFolder
from pile_coordinator.verify import verify_order
from pile_coordinator.wallet import START
from pile_coordinator.wallet_cli.profile import load_profile
from pile_hil.broker import find_mosquitto, free_port, is_open
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, PileSpec, Site, wait_for

LONG_S = 30
DOCS = Path(__file__).parents[1] / "docs"
COORDINATOR, WORKER, FLEET, WATCHER = (
    Name(kind, "main" if kind == "coordinator" else "1") for kind in ("coordinator", "worker", "fleet", "watcher")
)
PILE_A, PILE_B, ALICE, BOB = Name("pile", "pile-a"), Name("pile", "pile-b"), Name("user", "alice"), Name("user", "bob")
GUEST = Name("guest", "all")


class Running:
    """A site as an operator makes it, and its mosquitto."""

    def __init__(self, folder: Path) -> None:
        require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
        self.folder, self.port = folder, free_port()
        options = ["--port", str(self.port), "--pile", "pile-a", "--pile", "pile-b", "--user", "alice", "--user", "bob"]
        assert pilechain(["init", "site", str(folder), "--name", "north", *options]) == 0
        for name in (WORKER, FLEET, WATCHER):
            self.site("add", name)
        self.access = SiteFolder.open(folder)
        self.chain = self.access.genesis.chain_id
        self.start()

    def start(self) -> None:
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [find_mosquitto(), "-c", self.folder / "broker/mosquitto.conf"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: is_open("127.0.0.1", self.port))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(LONG_S)

    def site(self, action: str, name: Name, *, status: int = 0) -> None:
        words = ["site", name.kind, action, *([] if name.kind == "guest" else [name.id])]
        assert pilechain([*words, "--site", str(self.folder)]) == status

    def broker(self, name: Name | None, tls: Tls | None = None) -> Broker:
        return Broker("localhost", self.port, tls=tls or self.access.tls(name))

    @contextmanager
    def connected(
        self, name: Name, *topics: str, tls: Tls | None = None, persistent: bool = False, client_id: str = ""
    ):
        connection = Connection(
            self.broker(name, tls),
            client_id or f"test-{time.monotonic_ns()}",
            [*topics, "nothing"],
            persistent=persistent,
        )
        try:
            connection.wait_connected(LONG_S)
            yield connection
        finally:
            connection.close()

    def topic(self, tail: str) -> str:
        return f"pilechain/1/{self.chain}/{tail}"


def until(condition, seconds: float = LONG_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    site = Running(tmp_path_factory.mktemp("access") / "north")
    yield site
    site.close()


# --- who may say and hear what -------------------------------------------------------------------------------------------

UP, DOWN = ("proof", "status", "want", "record"), ("receipt", "contract", "session", "validators", "update", "recorded")
TAILS = [
    *(f"{pile}/{kind}" for pile in ("pile-a", "pile-b") for kind in (*UP, *DOWN)),
    *(f"party/{who}/{kind}" for who in ("alice", "bob", "anon-1") for kind in ("tx", "query", "result", "answer")),
    *(
        "party/coordinator/serving",
        "party/coordinator/verified",
        "party/coordinator/keys/0a1",
        "party/node/attestation",
    ),
]
SESSIONS = {"pile-a/session", "pile-b/session"}
SAYS = {
    PILE_A: {f"pile-a/{kind}" for kind in UP},
    PILE_B: {f"pile-b/{kind}" for kind in UP},
    ALICE: {"party/alice/tx", "party/alice/query"} | SESSIONS,
    BOB: {"party/bob/tx", "party/bob/query"} | SESSIONS,
    GUEST: {f"party/{who}/{kind}" for who in ("alice", "bob", "anon-1") for kind in ("tx", "query")} | SESSIONS,
    WORKER: {"party/coordinator/verified"},
    FLEET: {"pile-a/update", "pile-b/update"},
    WATCHER: set(),
}
HEARS = {
    PILE_A: {f"pile-a/{kind}" for kind in (*UP, *DOWN)},
    PILE_B: {f"pile-b/{kind}" for kind in (*UP, *DOWN)},
    ALICE: {"party/alice/result", "party/alice/answer"},
    BOB: {"party/bob/result", "party/bob/answer"},
    GUEST: {f"party/{who}/{kind}" for who in ("alice", "bob", "anon-1") for kind in ("result", "answer")},
    WORKER: {"pile-a/proof", "pile-b/proof", "party/coordinator/keys/0a1"},
    FLEET: {f"{pile}/{kind}" for pile in ("pile-a", "pile-b") for kind in ("proof", "status", "want", "receipt")},
    WATCHER: set(TAILS),
}


@pytest.mark.parametrize("who", SAYS, ids=str)
def test_who_says_what_is_heard_and_nothing_else(running, who):
    """Each tries every topic; a coordinator hears all that passes."""
    with running.connected(COORDINATOR, running.topic("#")) as ear, running.connected(who) as mouth:
        for tail in TAILS:
            mouth.publish(running.topic(tail), str(who).encode())
        mouth.publish("$SYS/broker/uptime", b"x")
        mouth.publish("pilechain/1/other-chain/pile-a/proof", b"x")
        mouth.drain(LONG_S)  # the broker has dealt with each of them
        ear.publish(running.topic("end"), b"")
        heard = set()
        while (message := ear.get(LONG_S)) != (running.topic("end"), b""):
            assert message is not None
            assert message[1] == str(who).encode()
            heard.add(message[0])
    assert heard == {running.topic(tail) for tail in SAYS[who]}


@pytest.mark.parametrize("who", HEARS, ids=str)
def test_who_hears_what_however_he_asks_for_it(running, who):
    """By wildcards, by another's name, by a shared subscription; what is retained and what comes while he is there."""
    chain, last = running.chain, running.topic(min(HEARS[who]))
    asked = ["#", "pilechain/#", "+/+/+/+/+", f"pilechain/1/{chain}/pile-b/+", f"$share/g/pilechain/1/{chain}/#"]
    with running.connected(COORDINATOR) as mouth:
        for retained in (True, False):
            heard = set()
            if retained:
                say_all(running, mouth, b"kept", retained=True)
            with running.connected(who, *asked) as ear:
                if not retained:
                    say_all(running, mouth, b"live", retained=False)
                mouth.publish(last, b"end")
                while (message := ear.get(LONG_S)) is None or message[1] != b"end":
                    assert message is not None
                    heard.add(message[0])
            if retained:
                say_all(running, mouth, b"", retained=True)
            assert heard == {running.topic(tail) for tail in HEARS[who]}, retained


def say_all(running, mouth, payload: bytes, *, retained: bool) -> None:
    for tail in TAILS:
        mouth.publish(running.topic(tail), payload, retained=retained)
    mouth.drain(LONG_S)


# --- who is let in -------------------------------------------------------------------------------------------------------


def is_refused(broker: Broker) -> bool:
    connection = Connection(broker, "refused", ["nothing"], persistent=False)
    try:
        until(lambda: connection.is_connected or connection.last_error != "not connected yet")
        return not connection.is_connected
    finally:
        connection.close()


def test_nobody_comes_in_without_a_certificate_of_this_authority(running, tmp_path):
    other = Authority.make(tmp_path / "other", "north authority")
    other.issue_client("pile-a").write(tmp_path, "pile")
    ca = running.folder / "broker/ca.crt"
    server = Tls(ca, running.folder / "broker/server.crt", running.folder / "broker/server.key")
    for tls in (Tls(ca), Tls(ca, tmp_path / "pile.crt", tmp_path / "pile.key"), server):
        assert is_refused(running.broker(None, tls))
    assert is_refused(Broker("localhost", running.port))
    assert is_refused(Broker("localhost", running.port, "pile-a", "password"))
    assert not is_refused(running.broker(PILE_A))


def test_nobody_takes_anothers_connection_over(running):
    """mosquitto gives a session to whoever says its client id; what others can guess is not enough."""
    with ExitStack() as stack:
        own = stack.enter_context(
            running.connected(PILE_B, running.topic("pile-b/receipt"), persistent=True, client_id="pile-pile-b")
        )
        stack.enter_context(running.connected(PILE_A, client_id="pile-pile-b"))
        stack.enter_context(running.connected(PILE_A, client_id="pile-pile-b", persistent=True))
        with running.connected(COORDINATOR) as mouth:
            mouth.publish(running.topic("pile-b/receipt"), b"yours")
        assert own.get(LONG_S) == (running.topic("pile-b/receipt"), b"yours")
        assert own.last_error == "not connected yet"  # it never had another


def test_a_revoked_pile_is_out_at_once_and_others_notice_nothing(running, capsys):
    """Its own connection ends; one that a thief made with its certificate is mute; neither comes back."""
    receipts = running.topic("pile-b/receipt")
    with (
        running.connected(COORDINATOR, running.topic("#"), persistent=True, client_id="coordinator") as coordinator,
        running.connected(PILE_B, receipts, persistent=True, client_id="pile-pile-b") as pile,
        running.connected(PILE_B, receipts) as thief,
    ):
        running.site("revoke", PILE_B)
        assert "its connection was ended" in capsys.readouterr().out
        until(lambda: not pile.is_connected)
        assert is_refused(running.broker(PILE_B))
        thief.publish(running.topic("pile-b/proof"), b"of a thief")
        thief.drain(LONG_S)
        coordinator.publish(receipts, b"for a thief")
        coordinator.publish(running.topic("end"), b"")
        assert [coordinator.get(LONG_S)[1] for _ in range(2)] == [b"for a thief", b""]
        assert thief.get(0) is None
        running.site("add", PILE_B, status=1)
        assert "start the broker again" in capsys.readouterr().err
        assert thief.is_connected
        assert not pile.is_connected
        assert coordinator.last_error == "not connected yet"


def test_a_revoked_name_comes_back_with_a_new_certificate_only(running):
    """Once the broker was started again: what stood with the old one is gone."""
    stolen = keep(running, PILE_B)
    revoked_s = max(
        entry.revoked.timestamp() for entry in Authority.open(running.access.authority).issued() if entry.revoked
    )
    running.close()
    until(lambda: time.time() > revoked_s + 1)  # times in certificates are whole seconds
    running.start()
    running.site("add", PILE_B)
    assert is_refused(running.broker(None, stolen))
    with (
        running.connected(COORDINATOR, running.topic("pile-b/proof")) as coordinator,
        running.connected(PILE_B) as back,
    ):
        back.publish(running.topic("pile-b/proof"), b"new")
        assert coordinator.get(LONG_S) == (running.topic("pile-b/proof"), b"new")


def test_a_revoked_partys_connection_hears_and_says_nothing_more(running):
    with (
        running.connected(COORDINATOR, running.topic("party/+/tx")) as coordinator,
        running.connected(BOB, running.topic("party/bob/answer")) as bob,
    ):
        running.site("revoke", BOB)
        until(lambda: is_refused(running.broker(BOB)))
        coordinator.publish(running.topic("party/bob/answer"), b"for bob")
        coordinator.drain(LONG_S)
        bob.publish(running.topic("party/bob/tx"), b"of bob")
        bob.drain(LONG_S)
        coordinator.publish(running.topic("party/alice/tx"), b"end")
        assert coordinator.get(LONG_S) == (running.topic("party/alice/tx"), b"end")
        assert bob.is_connected
        assert bob.get(0) is None


def keep(running, name: Name) -> Tls:
    """A copy of somebody's files, as a thief has them."""
    tls, folder = running.access.tls(name), running.folder / "thief"
    folder.mkdir()
    for path in (tls.ca, tls.certificate, tls.key):
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o600)
    return Tls(folder / tls.ca.name, folder / tls.certificate.name, folder / tls.key.name)


def test_the_broker_shows_its_new_certificate_and_nobody_loses_his_connection(running):
    with running.connected(PILE_A) as standing:
        before = shown(running)
        assert pilechain(["site", "broker", "renew", "--days", "7", "--site", str(running.folder)]) == 0
        until(lambda: shown(running) != before)
        assert standing.is_connected


def test_the_sites_guide_is_typed(tmp_path, monkeypatch):
    """Every line of docs/site.md as it stands, but for the port, and the coordinator, which other tests run."""
    require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"```sh\n(.*?)```", (DOCS / "site.md").read_text(), re.DOTALL)
    try:
        for words in map(shlex.split, "".join(lines).splitlines()):
            if words[0] == "pilechain" and words[1] == "run":
                assert load_config(Path(words[3])).broker.tls is not None
            elif words[0] == "pilechain":
                more = ["--port", str(free_port())] if words[1] == "init" else []
                assert pilechain([*words[1:], *more]) == 0, words
            else:
                subprocess.run([find_mosquitto() if words[0] == "mosquitto" else words[0], *words[1:]], check=True)
                until(lambda: Path("north/broker/mosquitto.pid").exists())
    finally:
        os.kill(int(Path("north/broker/mosquitto.pid").read_text()), signal.SIGTERM)
    assert {path.name for path in Path("north").rglob("*") if path.stat().st_mode & 0o77} == {
        "mosquitto.pid"
    }  # its own
    for name in re.findall(
        r"^\| `([a-z]+/|[a-z.]+\.(?:toml|json))[`A-Z]", (DOCS / "site.md").read_text(), re.MULTILINE
    ):
        if name not in {"authority/", "fleets/", "watchers/"}:
            assert (Path("north") / name).exists(), name
    for user in ("alice", "bob", "carol"):
        assert load_profile(Path(f"north/users/{user}/wallet.toml")).guest is not None


def test_what_is_wrong_is_told_before_anything_is_written(tmp_path, capsys):
    """Keys are never overwritten, and half a site is not left behind."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    for words, told in (
        (["used"], "is not empty"),
        (["new", "--authority", "used"], "is not empty"),
        (["new", "--pile", "party"], "cannot be called party"),
        (["new", "--pile", "user:alice"], "a-z, 0-9 and '-'"),
        (["new", "--host", "no host"], "neither a host name nor an address"),
        (["new", "--param", "speed=1"], "no such parameter"),
        (["new", "--param", "crr_numerator=9"], "CRR"),
        (["new", "--port", "0"], "expected a port"),
        (["new", "--days", "0"], "expected 1 to"),
    ):
        paths = [str(tmp_path / word) if word in {"used", "new"} else word for word in words]
        assert pilechain(["init", "site", *paths]) in {1, 2}
        assert told in capsys.readouterr().err
        assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())
    assert pilechain(["site", "list", "--site", str(tmp_path / "none")]) == 2
    assert "site.toml" in capsys.readouterr().err


def shown(running) -> bytes:
    """The certificate that the broker shows."""
    context = running.access.tls(PILE_A).context()
    with (
        socket.create_connection(("localhost", running.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True)


# --- the whole site ------------------------------------------------------------------------------------------------------

RATE, ENERGY_WH = 240, 1000
PILE = PileSpec(
    *("pile-1", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117),
    battery_wh=50_000,
    timing={"resend_ms": 1000 * RATE},
)


@pytest.mark.timeout(240)
def test_an_order_settles_over_tls_and_nothing_listens_where_it_was_not_told_to(tmp_path):
    """The real agent, coordinator, wallets and dashboard behind the broker of `init site`."""
    require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
    with Site(tmp_path, [PILE], rate=RATE, tls=True) as site:
        site.start_broker()
        site.start_rig()
        site.start_coordinator()
        site.admit({"olga": ("pile-owner", 10_000_000), "dan": ("ev-owner", 20_000_000)})
        site.start_pile("pile-1")
        certificate = settle(site)
        web = site.start_web("operator", "operator")
        places = {name: listening(process.pid) for name, process in site.processes.items()}
    assert verify_order(certificate, site.genesis).outcome == "confirmed"
    port = int(web.url.rpartition(":")[2])
    assert places == {
        "broker": {("127.0.0.1", site.port)},
        "coordinator": set(),
        "pile-1": set(),
        "web": {("127.0.0.1", port)},
    }


def settle(site: Site) -> bytes:
    """The certificate of an order from bid to settlement."""
    with site.wallet("dan") as dan, site.wallet("olga") as olga:
        now_ms = site.clock.now_ms()
        olga.send(List("pile-1", now_ms, now_ms + 48 * HOUR_MS, 50_000, AT_MARKET, False))
        bid, _ = dan.send(
            PlaceBid("north", "", ENERGY_WH, now_ms, now_ms + 24 * HOUR_MS, 800_000, True, 0, False, False)
        )
        contract = dan.contract_id(bid)
        site.rig.command(do="plug", pile="pile-1")

        def has_begun() -> bool:
            dan.command("pile-1", contract, START, site.clock.now_ms(), ENERGY_WH)
            return dan.contract(bid)["phase"] != "signed"

        wait_for(has_begun, 60, "the session to begin", *site.processes.values())
        wait_for(lambda: dan.contract(bid)["phase"] == "measured", 60, "its end", *site.processes.values())
        dan.confirm(contract)
        olga.confirm(contract)
        return dan.ask("certificate", contract)
