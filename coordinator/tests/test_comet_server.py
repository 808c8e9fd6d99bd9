"""ABCI's socket: whole messages however they are cut, garbage costs its own connection only, an error of ours stops all."""

import random
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import bounded

from pile_coordinator.engines.comet.framing import Deframer, FramingError, frame
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.comet.server import MAX_CONNECTIONS, MAX_TURN, Server
from pile_shared.errors import ConfigError

MESSAGES = [b"", b"\x01", bytes(127), bytes(128), bytes(16_384), b"last"]


def test_messages_come_whole_at_every_cut():
    stream = b"".join(map(frame, MESSAGES))
    for cut in range(len(stream) + 1):
        deframer = Deframer()
        assert deframer.feed(stream[:cut]) + deframer.feed(stream[cut:]) == MESSAGES
    deframer = Deframer()
    assert [m for i in range(len(stream)) for m in deframer.feed(stream[i : i + 1])] == MESSAGES


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 2400), max_size=6))
@bounded(200)
def test_messages_come_whole_at_any_cuts(messages, cuts):
    stream = b"".join(map(frame, messages))
    places = sorted({0, len(stream), *(min(c, len(stream)) for c in cuts)})
    deframer = Deframer()
    found = [m for a, b in pairwise(places) for m in deframer.feed(stream[a:b])]
    assert found == messages


def test_gos_varints_are_ours():
    assert [frame(bytes(n))[: len(frame(bytes(n))) - n] for n in (0, 1, 127, 128, 300, 1 << 20)] == [
        b"\x00", b"\x01", b"\x7f", b"\x80\x01", b"\xac\x02", b"\x80\x80\x40",
    ]  # fmt: skip


@pytest.mark.parametrize("head", [b"\xff\xff\xff\xff\x01", b"\xff\xff\xff\x7f", b"\x80\x00", b"\x80\x80\x80\x00"])
def test_a_length_that_cannot_be_is_refused_at_once(head):
    with pytest.raises(FramingError):
        Deframer().feed(head)


def test_a_message_beyond_the_bound_is_refused_before_it_is_kept():
    assert Deframer(100).feed(frame(bytes(100))) == [bytes(100)]
    with pytest.raises(FramingError, match="101"):
        Deframer(100).feed(frame(bytes(101))[:1])


# --- the server ----------------------------------------------------------------------------------------------------------


class Serving:
    """A server in a thread that echoes, and counts what it was asked."""

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        self.logged: list[str] = []
        self.error: Exception | None = None
        self.gate = threading.Event()  # what "hold" waits for
        self.server = Server(address, self.handle, self.logged.append)
        self.address = self.server.address
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def handle(self, request: abci.Request) -> abci.Response:
        if request.WhichOneof("value") == "flush":
            return abci.Response(flush=abci.ResponseFlush())
        self.asked.append(request.echo.message)
        if request.echo.message == "hold":
            assert self.gate.wait(10)
        if request.echo.message == "raise":
            raise OSError("the disk is full")
        return abci.Response(echo=abci.ResponseEcho(message=request.echo.message))

    def run(self) -> None:
        try:
            self.server.serve()
        except OSError as error:
            self.error = error

    def connect(self) -> socket.socket:
        kind, _, where = self.address.partition("://")
        if kind == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(where)
        else:
            connection = socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])))
        connection.settimeout(10)
        return connection

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(params=["unix", "tcp"])
def serving(request, tmp_path) -> Iterator[Serving]:
    served = Serving(f"unix://{tmp_path}/app.sock" if request.param == "unix" else "tcp://127.0.0.1:0")
    yield served
    served.close()


def echo(text: str) -> bytes:
    return frame(abci.Request(echo=abci.RequestEcho(message=text)).SerializeToString())


def answers(connection: socket.socket, count: int) -> list[str]:
    deframer, found = Deframer(), []
    while len(found) < count:
        data = connection.recv(1 << 16)
        assert data, "closed"
        found += [abci.Response.FromString(m).echo.message for m in deframer.feed(data)]
    return found


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_answers_come_in_order_on_every_connection(serving):
    connections = [serving.connect() for _ in range(4)]
    for number, connection in enumerate(connections):
        connection.sendall(b"".join(echo(f"{number}/{i}") for i in range(200)))
    for number, connection in enumerate(connections):
        assert answers(connection, 200) == [f"{number}/{i}" for i in range(200)]
        connection.close()


def test_a_request_cut_anywhere_is_answered(serving):
    connection, request = serving.connect(), echo("cut me")
    for cut in range(1, len(request)):
        connection.sendall(request[:cut])
        connection.sendall(request[cut:])
        assert answers(connection, 1) == ["cut me"]
    for byte in request:
        connection.sendall(bytes([byte]))
    assert answers(connection, 1) == ["cut me"]
    connection.close()


def test_garbage_costs_its_own_connection(serving):
    good, chance = serving.connect(), random.Random(5)
    broken = [frame(b"\xff\xff\xff"), b"\xff" * 8, frame(b""), b"GET / HTTP/1.1\r\n\r\n" * 9000, frame(b"\x1a\x7f\x00")]
    broken += [chance.randbytes(chance.randrange(5, 4000)) for _ in range(60)]
    for garbage in broken:
        bad = serving.connect()
        try:
            bad.sendall(garbage)
            bad.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed while we were still sending
        while not is_closed(bad):
            pass
        bad.close()
        good.sendall(echo("still here"))
        assert answers(good, 1) == ["still here"]
    good.close()
    assert set(serving.asked) <= {"still here", ""}


def test_a_request_that_nobody_reads_the_answer_of_holds_up_nobody(serving):
    stuck, other = serving.connect(), serving.connect()
    stuck.setblocking(False)
    try:
        while True:
            stuck.send(echo("x" * 60_000))
    except BlockingIOError:
        pass
    other.sendall(echo("me"))
    assert answers(other, 1) == ["me"]
    stuck.close()
    other.close()


def test_who_asks_much_holds_up_nobody(serving):
    """A flood of transactions to check must not delay a block."""
    flood, other = serving.connect(), serving.connect()
    other.sendall(echo("in"))
    assert answers(other, 1) == ["in"]
    flood.sendall(echo("hold") + echo("x") * 1000)
    other.sendall(echo("me"))
    serving.gate.set()
    assert answers(flood, 1001)[0] == "hold"
    assert serving.asked.index("me") < 4 * MAX_TURN
    flood.close()
    other.close()


def test_connections_are_bounded(serving):
    held = [serving.connect() for _ in range(MAX_CONNECTIONS)]
    for connection in held:
        connection.sendall(echo("in"))
        assert answers(connection, 1) == ["in"]
    extra = serving.connect()
    assert is_closed(extra)
    for connection in [*held, extra]:
        connection.close()


def test_what_the_application_raises_ends_the_server_without_an_answer(serving):
    asking, other = serving.connect(), serving.connect()
    asking.sendall(echo("raise"))
    assert is_closed(asking)
    assert is_closed(other)
    serving.thread.join(10)
    assert isinstance(serving.error, OSError)
    asking.close()
    other.close()


def test_stopping_twice_is_no_more_than_stopping_once(serving):
    serving.close()
    serving.server.stop()


def test_a_unix_socket_is_ours_alone_and_gone_afterwards(tmp_path):
    path = tmp_path / "app.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))  # of a run that was killed
    left.close()
    served = Serving(f"unix://{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    served.close()
    assert not path.exists()
    path.write_text("a file that somebody named by mistake")
    with pytest.raises(ConfigError, match="cannot listen"):
        Server(f"unix://{path}", lambda _: abci.Response(), print)
    assert path.read_text() != ""


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:x", "http://127.0.0.1:1", "unix:///nowhere/at/all", "26658"])
def test_an_address_that_is_none_is_named(address):
    with pytest.raises(ConfigError, match=address.partition("://")[2] or address):
        Server(address, lambda _: abci.Response(), print)
