"""Serves ABCI to one CometBFT node: four connections, one executor, answers in order.

CometBFT opens a connection each for consensus, mempool, queries and snapshots. One thread reads all of them and carries out
one request after the other, so nothing below needs to think of two at a time. A connection that does not speak ABCI is
closed and costs the others nothing; an application that raises ends everything, before it could answer wrongly.
"""

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import DecodeError

from pile_coordinator.engines.comet.framing import Deframer, FramingError, frame
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_shared.errors import ConfigError

MAX_CONNECTIONS = 16  # a node opens four; some more while one that was restarted still has the old ones
MAX_TURN = 32  # requests of one connection before the others have their turn: some milliseconds of checking
_READ_BYTES = 1 << 18
_SEND_BYTES = 1 << 20
_BACKLOG = 16

Handler = Callable[[abci.Request], abci.Response]


class _Peer:
    """One connection: what it sent so far of a message, what it asked and waits for, and what it has still to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.deframer = Deframer()
        self.asked: deque[abci.Request] = deque()
        self.unsent = bytearray()


class Server:
    """An ABCI socket server. `serve` runs in a thread of its caller's choice until `stop`."""

    def __init__(self, address: str, handle: Handler, log: Callable[[str], None]) -> None:
        """Listen at `address`: `unix:///path` or `tcp://127.0.0.1:port` (port 0 takes a free one).

        Args:
            address: as CometBFT's `proxy_app` has it.
            handle: carries out a request; what it raises ends `serve`.
            log: takes a line for people.

        Raises:
            ConfigError: nothing can listen there.
        """
        self._handle = handle
        self._log = log
        self._path: Path | None = None
        self._listener = self._listen(address)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._stopping = threading.Event()

    @property
    def address(self) -> str:
        """What CometBFT's `proxy_app` must say."""
        if self._path is not None:
            return f"unix://{self._path}"
        host, port = self._listener.getsockname()[:2]
        return f"tcp://{host}:{port}"

    def _listen(self, address: str) -> socket.socket:
        kind, _, where = address.partition("://")
        try:
            if kind == "unix":
                path = Path(where)
                if path.is_socket():
                    path.unlink()  # of a run that was killed
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(where)
                path.chmod(0o600)  # nobody else may decide blocks for us; it does not listen yet
                self._path = path
            elif kind == "tcp":
                host, _, port = where.rpartition(":")
                listener = socket.create_server((host, int(port)))
            else:
                raise ConfigError(f"{address!r} is no address; expected unix:///PATH or tcp://127.0.0.1:PORT")
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot listen at {address}: {error}") from error
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return listener

    def serve(self) -> None:
        """Carry out requests until `stop`. Whatever the handler raises is raised here, with all connections closed."""
        try:
            waiting: list[_Peer] = []  # with more to ask than one turn allows
            while not self._stopping.is_set():
                ready = self._selector.select(0 if waiting else None)
                peers = dict.fromkeys([*waiting, *(key.data for key, events in ready if self._read(key, events))])
                waiting = [peer for peer in peers if self._answer(peer)]
        finally:
            self._close()

    def stop(self) -> None:
        """End `serve` after the request in hand. May be called from any thread, and twice."""
        self._stopping.set()
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send(b"\x00")

    def _read(self, key: selectors.SelectorKey, events: int) -> bool:
        """Take in what has arrived; whether it is somebody who may have asked something."""
        if key.fileobj is self._listener:
            self._accept()
        if not isinstance(key.data, _Peer):
            return False
        if events & selectors.EVENT_READ:
            self._quietly(key.data, self._receive)
        return True

    def _answer(self, peer: _Peer) -> bool:
        """Carry out a turn's requests of a connection; whether it has more that can be carried out now.

        A node that floods us with transactions to check still gets its block in between.
        """
        if peer.connection.fileno() < 0:
            return False
        for _ in range(min(len(peer.asked), MAX_TURN)):
            peer.unsent += frame(self._handle(peer.asked.popleft()).SerializeToString())
        self._quietly(peer, self._send)
        return bool(peer.asked)

    def _quietly(self, peer: _Peer, act: Callable[[_Peer], None]) -> None:
        """Do `act`; the connection is closed if it cannot be used any more."""
        if peer.connection.fileno() < 0:
            return
        try:
            act(peer)
        except (OSError, FramingError, DecodeError, EOFError) as error:
            if not isinstance(error, EOFError):
                self._log(f"ABCI connection closed: {error or 'not an ABCI message'}")
            self._selector.unregister(peer.connection)
            peer.connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it was gone before we came to it
        if len(self._selector.get_map()) - 2 >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ, _Peer(connection))

    def _receive(self, peer: _Peer) -> None:
        data = peer.connection.recv(_READ_BYTES)
        if not data:
            raise EOFError
        requests = [abci.Request.FromString(message) for message in peer.deframer.feed(data)]
        if any(request.WhichOneof("value") is None for request in requests):
            raise FramingError("a request of no kind that this release knows")
        peer.asked += requests

    def _send(self, peer: _Peer) -> None:
        """Send what the connection takes now; while something is left, or to be answered, nothing more is read from it."""
        while peer.unsent:
            try:
                sent = peer.connection.send(memoryview(peer.unsent)[:_SEND_BYTES])
            except BlockingIOError:
                break
            del peer.unsent[:sent]
        events = selectors.EVENT_WRITE if peer.unsent or peer.asked else selectors.EVENT_READ
        if self._selector.get_key(peer.connection).events != events:
            self._selector.modify(peer.connection, events, peer)

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        self._waker.close()
        self._selector.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
