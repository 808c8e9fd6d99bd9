"""The few questions this node asks its CometBFT over JSON-RPC, on the address that its configuration binds."""

import base64
import contextlib
import http.client
import json
import queue
import threading
from typing import Any, cast
from urllib.parse import urlsplit

from pile_coordinator.engines.comet.bundle import MAX_BUNDLED, pack
from pile_shared.errors import LinkError

MAX_ANSWER_BYTES = 16 << 20
TIMEOUT_S = 5.0
MAX_UNSENT = 4096  # transactions on their way to the node
BATCH = 10  # requests in one call: CometBFT's default limit, max_request_batch_size
_BATCH_BYTES = 700_000  # CometBFT takes bodies of 1 MB


class Rpc:
    """A connection to one node. Used by one thread."""

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        """Talk to `tcp://host:port`; nothing is connected yet."""
        parts = urlsplit(address)
        self.address = address
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The result of a method; LinkError if the node is away or refuses."""
        (answer,) = self.calls([(method, params)])
        if "error" in answer:
            error = answer["error"]
            raise LinkError(f"{method}: {error.get('message')} {error.get('data', '')}".strip(), "refused")
        return cast("dict[str, Any]", answer["result"])

    def calls(self, requests: list[tuple[str, dict[str, object]]]) -> list[dict[str, Any]]:
        """The answers to several requests, in their order, each with `result` or `error`; LinkError if the node is away."""
        rows = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(requests)
        ]
        body = json.dumps(rows if len(rows) > 1 else rows[0])
        try:
            return _answers(json.loads(self._exchange(body)), len(rows))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise LinkError(f"the node at {self.address} does not answer: {error}", "away") from error

    def _exchange(self, body: str) -> bytes:
        """One request, on a new connection if the one that was kept is closed: CometBFT does that after ten idle seconds."""
        is_kept = self._connection.sock is not None
        try:
            return self._post(body)
        except ConnectionError:
            self._connection.close()
            if not is_kept:
                raise
            return self._post(body)

    def _post(self, body: str) -> bytes:
        self._connection.request("POST", "/", body, {"Content-Type": "application/json"})
        return self._connection.getresponse().read(MAX_ANSWER_BYTES)

    def query(self, path: str) -> dict[str, Any]:
        """The application's answer to a question, JSON; LinkError as for `call`."""
        response = self.call("abci_query", path=path)["response"]
        if response.get("code"):
            raise LinkError(f"{path}: {response.get('log')}", "refused")
        try:
            return cast("dict[str, Any]", json.loads(base64.b64decode(response["value"] or "")))
        except ValueError as error:
            raise LinkError(f"the application of {self.address} is not Pilechain's", "refused") from error


def _answers(found: object, count: int) -> list[dict[str, Any]]:
    """The answers to so many questions, by number; ValueError for anything else."""
    rows = found if isinstance(found, list) else [found]
    if len(rows) != count or not all(isinstance(row, dict) and isinstance(row.get("id"), int) for row in rows):
        raise ValueError("it said something else; is it CometBFT's RPC?")
    return sorted(rows, key=lambda row: row["id"])


class Sender:
    """Hands transactions to the node in a thread of its own: the node asks us about each, and we may be busy.

    It is not told what the node thinks of them: `broadcast_tx_sync` waits for CometBFT's ABCI client, which sends only every
    20 ms (abci/client, flushThrottleMS), and we are the one it asks.
    """

    def __init__(self, address: str) -> None:
        """Send to the node at `address`."""
        self._rpc = Rpc(address)
        self._queue: queue.Queue[bytes | None] = queue.Queue(MAX_UNSENT)
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def send(self, tx: bytes) -> bool:
        """Queue a transaction; False if too many wait."""
        try:
            self._queue.put_nowait(tx)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """End the thread; what is queued is dropped."""
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)
        self._thread.join(TIMEOUT_S * 2)
        self._rpc.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = self._more([first])
            if batch is None:
                return
            encoded = [base64.b64encode(entry).decode() for entry in pack(batch)]
            for start in range(0, len(encoded), BATCH):
                with contextlib.suppress(LinkError):  # whoever hears nothing sends again
                    self._rpc.calls([("broadcast_tx_async", {"tx": entry}) for entry in encoded[start : start + BATCH]])

    def _more(self, batch: list[bytes]) -> list[bytes] | None:
        """What else is queued, as far as one call takes it; None if the end is."""
        size = len(batch[0])
        while len(batch) < BATCH * MAX_BUNDLED and size < _BATCH_BYTES:
            try:
                tx = self._queue.get_nowait()
            except queue.Empty:
                break
            if tx is None:
                return None
            batch.append(tx)
            size += len(tx) * 4 // 3
        return batch
