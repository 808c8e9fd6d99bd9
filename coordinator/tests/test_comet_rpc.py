"""What we ask CometBFT: a connection it closed while nobody asked costs nothing, and nonsense ends no thread."""

import base64
import json
import socket
import threading

import pytest

from pile_coordinator.engines.comet.rpc import Rpc, Sender
from pile_shared.errors import LinkError


class Answering:
    """An HTTP server that answers so many requests on a connection and then closes it without a word."""

    def __init__(self, answers: list[object], per_connection: int = 100) -> None:
        self.bodies: list[object] = []
        self._answers, self._per_connection = answers, per_connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._answers:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:
                for _ in range(self._per_connection):
                    if not self._answers or not self._answer(connection, lines):
                        break

    def _answer(self, connection: socket.socket, lines) -> bool:
        length = 0
        while (line := lines.readline().strip().lower()) != b"":
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if not length:
            return False
        self.bodies.append(json.loads(lines.read(length)))
        answer = self._answers.pop(0)
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        self.heard.release()
        return True

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def answering():
    opened: list[Answering] = []

    def start(*answers: object, per_connection: int = 100) -> Answering:
        opened.append(Answering(list(answers), per_connection))
        return opened[-1]

    yield start
    for server in opened:
        server.close()


def ok(result: object, number: int = 0) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def test_a_connection_that_was_closed_meanwhile_is_made_again(answering):
    server = answering(ok({"a": 1}), ok({"a": 2}), ok({"a": 3}), per_connection=1)
    rpc = Rpc(server.address)
    assert [rpc.call("status")["a"] for _ in range(3)] == [1, 2, 3]
    rpc.close()


def test_answers_come_in_the_order_of_the_questions(answering):
    rpc = Rpc(answering([ok("second", 1), ok("first", 0)]).address)
    assert [row["result"] for row in rpc.calls([("a", {}), ("b", {})])] == ["first", "second"]
    rpc.close()


@pytest.mark.parametrize("answer", [b"hello", b"[1]", b"[]", b"3", b'[{"id": 1}, {"id": null}]', b"\xff"])
def test_what_is_no_answer_is_said(answering, answer):
    rpc = Rpc(answering(answer).address)
    with pytest.raises(LinkError, match="does not answer"):
        rpc.call("status")
    rpc.close()


@pytest.mark.parametrize("value", ["", base64.b64encode(b"no json").decode()])
def test_the_rpc_of_another_chains_node_is_said(answering, value):
    rpc = Rpc(answering(ok({"response": {"value": value}})).address)
    with pytest.raises(LinkError, match="not Pilechain"):
        rpc.query("status")
    rpc.close()


def test_a_refusal_is_told_in_the_nodes_words(answering):
    refused = {"jsonrpc": "2.0", "id": 0, "error": {"message": "Internal error", "data": "height 9 is not here"}}
    rpc = Rpc(answering(refused).address)
    with pytest.raises(LinkError, match="height 9 is not here"):
        rpc.call("block")
    rpc.close()


def test_transactions_go_out_after_any_nonsense(answering):
    server = answering(b"[1]", b"", ok({}))
    sender = Sender(server.address)
    for number in range(3):
        assert sender.send(b"tx%d" % number)
        assert server.heard.acquire(timeout=10)
    sender.close()
    sent = [base64.b64decode(body["params"]["tx"]) for body in server.bodies]
    assert sent == [b"tx0", b"tx1", b"tx2"]
