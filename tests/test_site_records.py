"""OCMF records of a real pile: over mosquitto to a real coordinator, into exports, whoever is killed where."""

import json
import sqlite3
import time
from pathlib import Path

import pytest
from exported import OPERATOR
from pyocmf.utils.xml import OcmfContainer
from test_site_exports import PILE, charge

from pile_coordinator.cli import main
from pile_coordinator.mqtt import Connection
from pile_edge.ocmf import der_signature
from pile_edge.ocmf_records import list_records
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_hil.site import Site, wait_for
from pile_shared.codec import encode
from pile_shared.cose import SoftwareSigner, low_s
from pile_shared.platform import sha256
from pile_shared.record import RECORD, decode_record, encode_record
from pile_shared.topics import pile_topic

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def site(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is missing: apt install mosquitto, or tools/servers")
    with Mosquitto(tmp_path / "broker") as broker, Site(tmp_path / "site", [PILE], rate=240, port=broker.port) as site:
        site.start_rig()
        site.start_coordinator()
        site.admit({"olga": ("pile-owner", 10_000_000), "dan": ("ev-owner", 20_000_000)})
        site.start_pile("pile-1")
        yield site


def stored(site: Site) -> list[tuple[str, str]]:
    """(kind, text) of what the coordinator has, by number."""
    with sqlite3.connect(site.folder / "coordinator" / "records.sqlite") as db:
        return db.execute("SELECT kind, text FROM record ORDER BY pagination").fetchall()


def kept(site: Site) -> list[tuple[str, str]]:
    return [(record.kind, record.text()) for record in list_records(str(site.folder / "pile-1" / "journal-ocmf"))]


def receipted(site: Site) -> int:
    path = site.folder / "pile-1" / "journal-ocmf" / "receipted"
    return int(path.read_text()) if path.exists() else 0


def all_arrived(site: Site, count: int) -> bool:
    records = list_records(str(site.folder / "pile-1" / "journal-ocmf"))
    return len(records) == count and receipted(site) == records[-1].pagination and stored(site) == kept(site)


def export(site: Site, out: Path, capsys, *more: str) -> dict:
    assert main(["export", str(site.folder / "coordinator.toml"), "--out", str(out), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_orders_records_arrive_by_themselves_and_pyocmf_verifies_every_export(site, tmp_path, capsys):
    contract = charge(site)
    wait_for(lambda: all_arrived(site, 2), 60, "both records", *site.processes.values())
    (tmp_path / "operator.toml").write_text(OPERATOR)
    told = export(site, tmp_path / "out", capsys, "--operator", str(tmp_path / "operator.toml"))
    assert (told["exported"], told["with_ocmf"], told["missing_ocmf"], told["refused"]) == (1, 1, [], [])
    container = OcmfContainer.from_xml(tmp_path / "out" / f"{contract}.xml", strict=True)
    assert all(record.verify_signature() for record in container)
    assert [result.issues for result in container.check_eichrecht()] == [[]]
    (cdr,) = json.loads((tmp_path / "out" / f"{contract}.cdr.json").read_text())
    signed = [value["plain_data"] for value in cdr["signed_data"]["signed_values"]]
    assert signed == [text.split("|")[1] for _, text in kept(site)]
    site.processes["coordinator"].stop()
    (site.folder / "coordinator" / "evidence.sqlite").unlink()
    assert main(["evidence", "rebuild", "--config", str(site.folder / "coordinator.toml")]) == 0
    assert stored(site) == kept(site)  # the chain could not give them back


def test_what_others_say_in_its_name_is_refused_by_name_and_changes_nothing(site):
    """On the wire, beside the real pile: forged, changed, of another pile, too long, garbage; and the true one again."""
    charge(site)
    coordinator, pile = site.processes["coordinator"], site.processes["pile-1"]
    wait_for(lambda: all_arrived(site, 2), 60, "both records", coordinator, pile)
    before, (begin, end) = stored(site), list_records(str(site.folder / "pile-1" / "journal-ocmf"))
    true, topic = begin.text(), pile_topic(site.genesis.chain_id, "pile-1", RECORD)
    stranger = make_record_by(SoftwareSigner(sha256(b"stranger")), true)
    wrong = {
        "record_bad_signature": encode_record(begin.sequence, stranger),
        "record_differs": encode_record(end.sequence, true),
        "record_damaged": encode_record(begin.sequence, true.replace('"hex"', '"base64"')),
        "record_oversized": encode([begin.sequence, "x" * 60_000]),
        "record_codec": b"\xff" * 100,
    }
    said = Connection(site.broker_spec, "stranger", [], persistent=False)
    said.publish(pile_topic(site.genesis.chain_id, "pile-2", RECORD), encode_record(begin.sequence, true))
    for message in wrong.values():
        said.publish(topic, message)
    for code in (*wrong, "unknown_pile"):
        wait_for(lambda code=code: f"refused ({code}, 1 so far)" in coordinator.text(), 20, code, coordinator, pile)
    said.publish(topic, encode_record(begin.sequence, true))
    said.drain(20)
    said.close()
    assert stored(site) == before == kept(site)
    assert "refused recorded" not in pile.text(), "nothing was under way"


def make_record_by(signer: SoftwareSigner, text: str) -> str:
    """The same payload, signed by another key."""
    payload = text.split("|")[1]
    signature = der_signature(low_s(signer.sign(payload.encode()))).hex()
    return f'OCMF|{payload}|{{"SA":"ECDSA-secp256r1-SHA256","SE":"hex","SM":"application/x-der","SD":"{signature}"}}'


def test_killed_at_the_seams_nothing_is_lost_and_nothing_is_twice(site):
    """The coordinator is killed as soon as a record is under way, the pile as soon as it is stored; time after time."""
    heard = Connection(site.broker_spec, "ear", [pile_topic(site.genesis.chain_id, "pile-1", RECORD)], persistent=False)
    heard.wait_connected(20)
    coordinator, pile = site.processes["coordinator"], site.processes["pile-1"]
    charge(site)
    wait_for(lambda: all_arrived(site, 2), 60, "both records", coordinator, pile)
    while heard.get(0) is not None:
        pass
    mark = site.folder / "pile-1" / "journal-ocmf" / "receipted"
    for delay_s in (0, 0.002, 0.005, 0.01, 0.02):
        pile.kill()
        coordinator.kill()
        mark.unlink()  # the pile does not know that they were answered
        with sqlite3.connect(site.folder / "coordinator" / "records.sqlite") as db:
            db.execute("DELETE FROM record")
        coordinator.start()
        pile.start()
        message = heard.get(60)
        assert message is not None
        assert decode_record(message[1])[1] == kept(site)[0][1]  # the oldest first
        time.sleep(delay_s)  # somewhere between its way to the coordinator and the answer
        coordinator.kill()
        pile.kill()
        assert stored(site) in (kept(site)[:0], kept(site)[:1])
        assert receipted(site) == 0 or stored(site), "answered, and not stored"
        coordinator.start()
        pile.start()
        wait_for(lambda: all_arrived(site, 2), 60, "both records", coordinator, pile)
        while heard.get(0) is not None:
            pass
    heard.close()


def test_records_of_a_pile_whose_coordinator_was_away_come_when_it_is_back_and_missing_ones_are_named(
    site, tmp_path, capsys
):
    charge(site)
    wait_for(lambda: all_arrived(site, 2), 60, "both records", *site.processes.values())
    site.processes["pile-1"].stop()
    with sqlite3.connect(site.folder / "coordinator" / "records.sqlite") as db:
        db.execute("DELETE FROM record WHERE kind = 'end'")
    told = export(site, tmp_path / "without", capsys)
    assert (told["exported"], told["with_ocmf"], told["without_ocmf"]) == (1, 1, 1)
    assert [(row["pile"], row["kinds"]) for row in told["missing_ocmf"]] == [("pile-1", ["end"])]
    assert main(["export", str(site.folder / "coordinator.toml"), "--out", str(tmp_path / "said")]) == 0
    said = capsys.readouterr().out
    assert "MISSING OCMF records of 1 orders" in said
    assert "(end)" in said
    told = export(site, tmp_path / "folder", capsys, "--ocmf", str(site.folder / "pile-1"))
    assert told["missing_ocmf"] == []
    (site.folder / "pile-1" / "journal-ocmf" / "receipted").unlink()  # docs/ocmf.md: how to have all sent again
    site.processes["pile-1"].start()
    wait_for(lambda: all_arrived(site, 2), 60, "both records", *site.processes.values())
    assert export(site, tmp_path / "with", capsys)["missing_ocmf"] == []
