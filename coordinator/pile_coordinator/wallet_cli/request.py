"""A pile's registration request, taken only with the fingerprint that somebody has read aloud at the pile."""

import json
from argparse import ArgumentTypeError
from pathlib import Path

from pile_coordinator.wallet_cli import values
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

MIN_DIGITS = 32  # 128 bits: nobody makes a second key with the same first half
_MAX_BYTES = 4096

Fields = tuple[str, bytes, str, str, int]


def read_request(path: Path, fingerprint: str | None, chain_id: str) -> Fields:
    """What to register: pile, public key, meter model and serial, rated power in W.

    The file may have come by any way; what makes it trustworthy is `fingerprint`, heard from somebody who reads it at the
    pile. It is never shown here: who can copy it does not listen.

    Args:
        path: From `pile-edge provision` or `pile-edge flash`.
        fingerprint: At least MIN_DIGITS hexadecimal digits from the beginning, in any grouping.
        chain_id: Of this wallet.

    Raises:
        ConfigError: No such file, not a request, another chain, or not that fingerprint.
    """
    try:
        with path.open("rb") as file:
            row = json.loads(file.read(_MAX_BYTES))
        if row["kind"] != "pile-registration":
            raise ConfigError(f"{path} is no registration request: `pile-edge provision` makes one")
        public = values.public_key(row["public"])
        found = (
            str(row["pile_id"]),
            public,
            str(row["meter_model"]),
            str(row["meter_serial"]),
            int(row["rated_power_w"]),
        )
        chain = str(row["chain_id"])
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, ArgumentTypeError) as error:
        raise ConfigError(f"{path} is no registration request: {error!r}") from error
    if chain != chain_id:
        raise ConfigError(f"{path} is for chain {chain}, this wallet is on {chain_id}")
    _check(fingerprint, public)
    return found


def _check(fingerprint: str | None, public: bytes) -> None:
    digits = "".join((fingerprint or "").lower().split()).replace("-", "").replace(":", "")
    if len(digits) < MIN_DIGITS:
        raise ConfigError(
            "telephone the person at the pile, let them read the fingerprint from their screen, and give it as"
            f' --fingerprint "...": at least {MIN_DIGITS // 4} groups of 4'
        )
    if not sha256(public).hex().startswith(digits):
        raise ConfigError(
            "this fingerprint is not of the key in the request: you misheard, or somebody changed the file on its way."
            " Hear it once more; if it stays so, do not register, and get the request another way"
        )
