"""What comes over ABCI's sockets."""

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from fuzz.target import attempt, target
from pile_coordinator.engines.comet.bundle import MAX_BUNDLED, MAX_ENTRY_BYTES, pack, unpack
from pile_coordinator.engines.comet.framing import Deframer, frame
from pile_coordinator.engines.comet.messages import abci_pb2 as abci

MAX_STREAM_BYTES = 4096
LIMIT_BYTES = 2048  # of a message here: one input should be able to break it


def streams() -> Iterator[bytes]:
    requests = [
        abci.Request(echo=abci.RequestEcho(message="hello")),
        abci.Request(flush=abci.RequestFlush()),
        abci.Request(info=abci.RequestInfo(version="1", block_version=11)),
        abci.Request(check_tx=abci.RequestCheckTx(tx=pack([b"one", b"two"])[0])),
        abci.Request(finalize_block=abci.RequestFinalizeBlock(txs=[b"tx"], hash=bytes(32), height=7)),
        abci.Request(process_proposal=abci.RequestProcessProposal(txs=[b"tx", b"\x82"], height=7)),
        abci.Request(commit=abci.RequestCommit()),
    ]
    messages = [request.SerializeToString() for request in requests]
    yield b"".join(map(frame, messages))
    yield from map(frame, messages)
    yield frame(bytes(127)) + frame(bytes(128)) + frame(b"")
    yield frame(bytes(300))[:200]
    yield from (b"\x80\x00", b"\x80\x80\x80\x00", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x01")
    yield from pack([b"\xd2one", b"\x82two", bytes(400)])


def whole(data: bytes) -> list[bytes] | None:
    """The messages in `data` by a slow reading of the specification; None where the stream must be closed."""
    messages: list[bytes] = []
    while True:
        end = next((at for at, byte in enumerate(data[:4]) if byte < 0x80), None)
        if end is None:
            return None if len(data) >= 4 else messages
        length = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(data[: end + 1]))
        if length > LIMIT_BYTES or (end and not data[end]):
            return None
        if len(data) < end + 1 + length:
            return messages
        messages.append(data[end + 1 : end + 1 + length])
        data = data[end + 1 + length :]


@target("abci", seeds=streams, max_bytes=MAX_STREAM_BYTES)
def stream(data: bytes) -> None:
    """Whole messages wherever the stream is cut, as the specification reads; requests of protobuf; bundles."""
    expected = whole(data)
    assert attempt(lambda: Deframer(LIMIT_BYTES).feed(data)) == expected
    cut = data[0] * len(data) // 256 if data else 0
    pieces = Deframer(LIMIT_BYTES)
    assert attempt(lambda: pieces.feed(data[:cut]) + pieces.feed(data[cut:])) == expected
    single = Deframer(LIMIT_BYTES)
    assert attempt(lambda: [m for at in range(len(data)) for m in single.feed(data[at : at + 1])]) == expected
    for message in [data, *(expected or [])]:
        request(message)
        bundle(message)
    if expected is not None:
        rest = data[len(b"".join(map(frame, expected))) :]
        assert b"".join(map(frame, expected)) + rest == data


def request(message: bytes) -> None:
    """As the server takes it: a request of a known kind, or the connection is closed."""
    try:
        asked = abci.Request.FromString(message)
    except DecodeError:
        return
    assert asked.WhichOneof("value") is None or abci.Request.FromString(asked.SerializeToString()) == asked


def bundle(entry: bytes) -> None:
    """Never raises, and what it takes apart is put together the same."""
    txs = unpack(entry)
    assert txs == [entry] or (1 < len(txs) <= MAX_BUNDLED and pack(txs, MAX_ENTRY_BYTES) == [entry])
