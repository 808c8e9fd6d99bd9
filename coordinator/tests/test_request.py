"""A registration request is taken with the fingerprint somebody read aloud, and with nothing less."""

import json

import pytest

from pile_coordinator.wallet_cli.request import read_request
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

PUBLIC = SoftwareSigner((77).to_bytes(32, "big")).public
DIGITS = sha256(PUBLIC).hex()
GROUPS = " ".join(DIGITS[i : i + 4] for i in range(0, 64, 4))
ROW = {
    "kind": "pile-registration",
    "chain_id": "north",
    "pile_id": "garage-17",
    "public": PUBLIC.hex(),
    "meter_model": "SDM630",
    "meter_serial": "63000117",
    "rated_power_w": 7000,
}


def write(tmp_path, **changes):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({**ROW, **changes}))
    return path


@pytest.mark.parametrize("heard", [GROUPS, GROUPS[: 8 * 5], GROUPS.upper(), DIGITS, GROUPS.replace(" ", "-")])
def test_what_was_heard_fits(tmp_path, heard):
    assert read_request(write(tmp_path), heard, "north") == ("garage-17", PUBLIC, "SDM630", "63000117", 7000)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (None, "telephone the person at the pile"),
        ("", "telephone the person at the pile"),
        (GROUPS[: 7 * 5], "at least 8 groups of 4"),
        (GROUPS[:-1] + ("0" if GROUPS[-1] != "0" else "1"), "misheard, or somebody changed the file"),
        ("0000 " * 16, "misheard, or somebody changed the file"),
    ],
)
def test_what_was_heard_does_not(tmp_path, heard, words):
    with pytest.raises(ConfigError, match=words) as raised:
        read_request(write(tmp_path), heard, "north")
    assert DIGITS[:8] not in str(raised.value)  # the right one is never shown: it would be copied instead of heard
    assert GROUPS[:9] not in str(raised.value)


def test_a_file_with_another_key_is_noticed(tmp_path):
    other = SoftwareSigner((78).to_bytes(32, "big")).public
    with pytest.raises(ConfigError, match="somebody changed the file"):
        read_request(write(tmp_path, public=other.hex()), GROUPS, "north")


@pytest.mark.parametrize(
    "changes", [{"kind": "x"}, {"public": "zz"}, {"public": 5}, {"rated_power_w": "much"}, {"chain_id": "south"}]
)
def test_other_files_are_refused(tmp_path, changes):
    with pytest.raises(ConfigError):
        read_request(write(tmp_path, **changes), GROUPS, "north")
    with pytest.raises(ConfigError, match="No such file"):
        read_request(tmp_path / "none", GROUPS, "north")
