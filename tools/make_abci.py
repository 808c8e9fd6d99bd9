"""Write coordinator/pile_coordinator/engines/comet/messages from CometBFT's own .proto files.

    go mod download -json github.com/cometbft/cometbft@v0.39.4     # names the folder ("Dir") that holds `proto`
    pip install grpcio-tools==1.76.0
    python tools/make_abci.py DIR/proto

Gogoproto's options steer Go's generator only, so they are left out; the messages on the wire stay the same. Services are
left out too: the socket protocol knows only `Request` and `Response`. The files become modules of this package, so that no
top-level package `tendermint` appears beside it.
"""

import re
import sys
import tempfile
from pathlib import Path

PACKAGE = "pile_coordinator.engines.comet.messages"
OUT = Path(__file__).parent.parent / "coordinator" / PACKAGE.replace(".", "/")
NAMES = {
    "tendermint/abci/types.proto": "abci.proto",
    "tendermint/crypto/keys.proto": "keys.proto",
    "tendermint/crypto/proof.proto": "proof.proto",
    "tendermint/types/params.proto": "params.proto",
    "tendermint/types/validator.proto": "validator.proto",
}


def plain(text: str) -> str:
    """A .proto file without gogoproto and services, importing its neighbours."""
    text = re.sub(r'import "gogoproto/gogo.proto";\n', "", text)
    text = re.sub(r"^option .*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s+option \(gogoproto\..*;\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\s*\[[^\]]*\(gogoproto\.[^\]]*\]", "", text)
    text = re.sub(r"^service \w+ \{.*?^\}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    for old, new in NAMES.items():
        text = text.replace(f'import "{old}"', f'import "{PACKAGE.replace(".", "/")}/{new}"')
    return text


def main(source: Path) -> int:
    """Generate from the folder that holds `tendermint/`; protoc's exit status."""
    import grpc_tools  # noqa: PLC0415 - only this script needs it
    from grpc_tools import protoc  # noqa: PLC0415

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / PACKAGE.replace(".", "/") / name for name in NAMES.values()]
        files[0].parent.mkdir(parents=True)
        for old, path in zip(NAMES, files, strict=True):
            path.write_text(plain((source / old).read_text()))
        here = OUT.parents[len(PACKAGE.split(".")) - 1]
        arguments = [f"-I{folder}", f"-I{well_known}", f"--python_out={here}", f"--pyi_out={here}"]
        status: int = protoc.main(["protoc", *arguments, *map(str, files)])
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
