"""`pilechain evidence trace` and `stats`, as people and programs call them."""

import csv
import io
import json

import pytest
from settled import Chain, deliver

from pile_coordinator.cli import main
from pile_shared.proof import REASON_VEHICLE_FULL


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    chain = Chain(folder)
    chain.admit()
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    chain.close()
    return str(folder / "evidence.sqlite")


def test_a_trace_for_people_and_programs(evidence, capsys):
    assert main(["evidence", "trace", "dan", "--evidence", evidence, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"] == {"kind": "party", "id": "dan"}
    (story,) = found["stories"]
    assert main(["evidence", "trace", story["contract"][:10], "--evidence", evidence, "--proofs", "1"]) == 0
    told = capsys.readouterr().out
    assert f"contract {story['contract']}: confirmed" in told
    assert "--after-proof 1" in told
    assert "settlement 1: 2000 Wh measured" in told
    assert main(["evidence", "trace", "nobody", "--evidence", evidence]) == 1
    assert "unknown_id: no evidence of 'nobody'" in capsys.readouterr().err


def test_statistics_as_table_json_and_csv(evidence, capsys):
    call = ["evidence", "stats", "user", "dan", "--per", "year", "--tz", "Asia/Shanghai", "--evidence", evidence]
    assert main([*call, "--json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["period"], row["measured_wh"], row["contracts"]) == ("2023", 2000, 1)
    assert main([*call, "--csv"]) == 0
    (told,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert told == {name: "" if value is None else str(value).replace("False", "false") for name, value in row.items()}
    assert main(call) == 0
    assert "2.000" in capsys.readouterr().out
    assert main(["evidence", "stats", "pile", "--from", "2023", "--to", "2024", "--evidence", evidence, "--json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["name"], row["period"], row["idle_permille"] is not None) == ("pile-1", "2023", True)
    assert main(["evidence", "stats", "zone", "north", "--prices", "--evidence", evidence, "--csv"]) == 0
    (price, *_) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (price["catalog_micro_per_kwh"], price["open_after_wh"]) == ("650000", "5000")
    assert main(["evidence", "stats", "pile", "nobody", "--from", "2030", "--evidence", evidence]) == 0
    assert "nothing was counted" in capsys.readouterr().out


def test_wrong_calls_say_what_was_expected(evidence, tmp_path, capsys):
    for words, said in (
        (["stats", "--tz", "Mars/Base"], "no time zone"),
        (["stats", "--from", "soon"], "expected 2026"),
        (["stats", "--from", "2025", "--to", "2024"], "--from is after --to"),
        (["stats", "--prices"], "needs a zone"),
        (["stats", "all", "x"], "has no names"),
    ):
        assert main(["evidence", *words, "--evidence", evidence]) == 2
        assert said in capsys.readouterr().err
    assert main(["evidence", "stats", "--evidence", str(tmp_path / "none.sqlite")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "other.sqlite").write_bytes(b"")
    assert main(["evidence", "trace", "dan", "--evidence", str(tmp_path / "other.sqlite")]) == 1
    assert "schema" in capsys.readouterr().err
    (tmp_path / "text.sqlite").write_text("this is no database at all, but long enough to look like a file" * 9)
    assert main(["evidence", "trace", "dan", "--evidence", str(tmp_path / "text.sqlite")]) == 1
    assert "cannot be read" in capsys.readouterr().err
