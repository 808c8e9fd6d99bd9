"""CometBFT's folder as we read it: where it listens, where it looks for us, and whose keys its genesis file has."""

import base64
import json
import tomllib
from pathlib import Path
from typing import Any, cast

from pile_shared.errors import ConfigError

KEY_BYTES = 32


class Home:
    """A node's folder. Every method raises ConfigError naming the file that is wrong."""

    def __init__(self, path: Path) -> None:
        """Look at `path`, as `cometbft start --home` has it."""
        self.path = path

    def _config(self) -> dict[str, Any]:
        path = self.path / "config" / "config.toml"
        try:
            return tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}; write a node's folder with: pilechain init") from error

    def app_address(self) -> str:
        """Where CometBFT expects the application; a path in it is relative to the folder."""
        address = str(self._config().get("proxy_app", "tcp://127.0.0.1:26658"))
        kind, _, where = address.partition("://")
        return f"unix://{self.path / where}" if kind == "unix" else address

    def rpc_address(self) -> str:
        """Where its RPC listens."""
        section = cast("dict[str, object]", self._config().get("rpc", {}))
        return str(section.get("laddr", "tcp://127.0.0.1:26657"))

    def genesis(self) -> dict[str, Any]:
        """CometBFT's genesis file."""
        path = self.path / "config" / "genesis.json"
        try:
            return cast("dict[str, Any]", json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; write a node's folder with: pilechain init") from error

    def consensus_keys(self) -> dict[str, bytes]:
        """The founding validators' ed25519 keys by accounting node, which their names in the file are."""
        try:
            keys = {row["name"]: base64.b64decode(row["pub_key"]["value"]) for row in self.genesis()["validators"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.path / 'config' / 'genesis.json'}: validators lack name or key") from error
        if any(len(key) != KEY_BYTES for key in keys.values()):
            raise ConfigError(f"{self.path / 'config' / 'genesis.json'}: the consensus keys are not ed25519 keys")
        return keys
