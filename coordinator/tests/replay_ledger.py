"""`replay_ledger.py LEDGER`: computes a recorded ledger again, trusting signatures, and prints what it ran on and all state roots.

It needs neither cbor2 nor cryptography nor any package: a Python of another architecture will do.
"""

import json
import sys
from pathlib import Path


def without_extensions() -> None:
    """Stand in for the compiled modules with the board's own: for an interpreter that has none of its architecture."""
    from types import SimpleNamespace

    from pile_shared import cbor_small, errors, p256

    sys.modules["cbor2"] = SimpleNamespace(  # type: ignore[assignment]
        loads=lambda data, **_: cbor_small.decode(data, len(data)),
        dumps=lambda value, **_: cbor_small.encode(value),
        CBOREncodeError=errors.CodecError,
    )
    sys.modules["pile_shared.openssl"] = p256


def replayed(ledger: Path) -> list[str]:
    """The state root after each block of a recorded ledger, computed again; an error if it is not the recorded one."""
    from pile_coordinator.chain.genesis import genesis_from_json
    from pile_coordinator.replay import Replay, blocks_of, open_ledger

    pinned = genesis_from_json(json.loads(ledger.with_name("genesis.json").read_text()))
    replay, roots = Replay(pinned, trust_signatures=True), []
    store = open_ledger(ledger, pinned)
    for block in blocks_of(store):
        replay.apply(block)
        roots.append(block.header.state_root.hex())
    store.close()
    return roots


def main(ledger: str) -> None:
    for folder in ("coordinator", "shared"):
        sys.path.insert(0, str(Path(__file__).parents[2] / folder))
    try:
        import cbor2  # noqa: F401
        import cryptography  # noqa: F401
    except ImportError:
        without_extensions()
    print(f"{sys.maxsize.bit_length() + 1} bit, {sys.byteorder} endian, {type(sys.modules.get('cbor2')).__name__}")
    print("\n".join(replayed(Path(ledger))))


if __name__ == "__main__":
    main(sys.argv[1])
