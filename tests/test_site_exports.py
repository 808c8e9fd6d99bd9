"""A real pile's OCMF folder and a running coordinator's data folder, exported together and read by pyocmf."""

import json
import time
from pathlib import Path

from pyocmf.utils.xml import OcmfContainer

from pile_coordinator.chain.transactions import AT_MARKET, List, PlaceBid
from pile_coordinator.cli import main
from pile_coordinator.wallet import START
from pile_hil.site import HOUR_MS, PileSpec, Site, wait_for

ENERGY_WH = 3000
PILE = PileSpec("pile-1", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=50_000)


def charge(site: Site) -> str:
    """One order from listing to confirmation; its contract id."""
    with site.wallet("dan") as dan, site.wallet("olga") as olga:
        now_ms = site.clock.now_ms()
        olga.send(List("pile-1", now_ms, now_ms + 48 * HOUR_MS, 50_000, AT_MARKET, False))
        bid, _ = dan.send(
            PlaceBid("north", "", ENERGY_WH, now_ms, now_ms + 24 * HOUR_MS, 800_000, True, 0, False, False)
        )
        contract = dan.ask("contract", bid)["id"]
        site.rig.command(do="plug", pile="pile-1")
        while dan.ask("contract", bid)["phase"] == "signed":
            dan.command("pile-1", contract, START, site.clock.now_ms(), ENERGY_WH)
            time.sleep(0.2)
        wait_for(lambda: dan.ask("contract", bid)["phase"] == "measured", 60, "the settlement")
        dan.confirm(contract)
        olga.confirm(contract)
        return contract.hex()


def export(site: Site, out: Path, capsys) -> dict:
    folder = [str(site.folder / "coordinator"), "--genesis", str(site.folder / "genesis.json")]
    assert main(["export", *folder, "--out", str(out), "--ocmf", str(site.folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_records_of_a_real_pile_belong_to_the_order_that_its_coordinator_settled(tmp_path, capsys):
    with Site(tmp_path / "site", [PILE], rate=240) as site:
        site.start_broker()
        site.start_rig()
        coordinator = site.start_coordinator()
        site.admit({"olga": ("pile-owner", 10_000_000), "dan": ("ev-owner", 20_000_000)})
        site.start_pile("pile-1")
        contract = charge(site)
        told = export(site, tmp_path / "running", capsys)
        assert (told["exported"], told["with_ocmf"], told["refused"]) == (1, 1, [])
        coordinator.stop()
        assert export(site, tmp_path / "stopped", capsys)["exported"] == 1
    running, stopped = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("running", "stopped")
    )
    assert running == stopped
    container = OcmfContainer.from_xml(tmp_path / "running" / f"{contract}.xml", strict=True)
    assert all(record.verify_signature() for record in container)
    assert [result.issues for result in container.check_eichrecht()] == [[]]
    begin, end = (record.ocmf.payload.RD[0].RV for record in container)
    (row,) = (tmp_path / "running" / "orders.csv").read_text().splitlines()[1:]
    assert f",{int((end - begin) * 1000)}," in row
