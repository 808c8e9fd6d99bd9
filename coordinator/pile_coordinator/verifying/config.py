"""A verify worker's configuration, and how a coordinator's names its workers."""

from pathlib import Path

from pile_coordinator.config import Section, broker_of, load_genesis, load_toml
from pile_coordinator.keys import load_key
from pile_coordinator.verifying.worker import WorkerConfig
from pile_shared.errors import BoundsError
from pile_shared.units import check_id

GROUP_CHARACTERS = range(16, 65)


def load_worker(path: Path) -> WorkerConfig:
    """The configuration of a worker; ConfigError naming file, key and expected form."""
    path = path.resolve()
    top, base = Section(path, "", load_toml(path)), path.parent
    genesis = load_genesis(base / top.take("genesis", str, "the path of a genesis file"))
    party = top.take("party", str, "the party of the coordinator it works for", ok=_is_id)
    name = top.take("name", str, "a name like worker-1, no two alike", ok=_is_id)
    signer = load_key(base / top.take("key", str, "the path of a key file"))
    form = "16 to 64 letters and digits that nobody guesses: openssl rand -hex 16"
    group = top.take("group", str, form, ok=lambda v: len(v) in GROUP_CHARACTERS and v.isascii() and v.isalnum())
    broker = broker_of(top.section("mqtt"), base)
    top.end()
    return WorkerConfig(genesis.chain_id, party, name, signer, group, broker)


def _is_id(value: str) -> bool:
    try:
        check_id("id", value)
    except BoundsError:
        return False
    return True
