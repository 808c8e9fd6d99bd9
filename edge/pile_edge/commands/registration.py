"""What an operator needs to register a pile, and the fingerprint by which two people make sure it is the right one."""

from __future__ import annotations

import json
from pathlib import Path

from pile_edge.settings import Settings
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

KIND = "pile-registration"
GROUP = 4


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key in sixteen groups of four hexadecimal digits, to be read aloud."""
    digits = sha256(public).hex()
    return " ".join(digits[i : i + GROUP] for i in range(0, len(digits), GROUP))


def request(config: Settings, public: bytes) -> dict[str, object]:
    """The registration request: all the pile knows of itself. It is not secret, and proves nothing without the fingerprint."""
    return {
        "kind": KIND,
        "chain_id": config.chain_id,
        "pile_id": config.pile_id,
        "public": public.hex(),
        "meter_model": config.profile.model,
        "meter_serial": config.meter_serial,
        "rated_power_w": config.rated_power_w,
    }


def write_request(path: Path, config: Settings, public: bytes) -> None:
    """Write the request; ConfigError if that fails."""
    try:
        path.write_text(json.dumps(request(config, public), indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def ceremony(pile_id: str, public: bytes, path: Path) -> str:
    """What to do with request and fingerprint, for the person at the pile."""
    return (
        f"Send {path} to your operator, by any way. Then telephone (a number you had before, not one from a message):\n"
        f"you read the fingerprint from THIS screen, the operator types what is heard.\n\n"
        f"    {pile_id}\n    {fingerprint(public)}\n\n"
        f"They register with: pilechain wallet --key KEY register-pile --request {path.name} --owner OWNER --zone ZONE"
        ' --fingerprint "..."\n'
        "Never let the operator read it to you: agreeing is easy, reading is not."
    )
