"""A web server that is started before its coordinator has ever run waits for the evidence instead of ending."""

import json
import sys
from contextlib import closing, suppress
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.web.config import load_web_config
from pile_coordinator.web.serve import wait_for_evidence
from pile_coordinator.web.tokens import Tokens
from pile_hil.broker import free_port
from pile_hil.site import Site, SiteProcess, Web, wait_for
from pile_shared.errors import ConfigError


def test_it_serves_as_soon_as_there_is_evidence(tmp_path):
    port = free_port()
    config = tmp_path / "web.toml"
    config.write_text(f'database = "data/evidence.sqlite"\nport = {port}\n[dashboard]\nserve = false\n')
    Tokens(tmp_path / "web-tokens.sqlite", read_only=False).close()
    command = [sys.executable, "-m", "pile_coordinator.cli", "web", "--config", str(config)]
    server = SiteProcess("web", command, tmp_path / "web.log")
    server.start()
    try:
        wait_for(lambda: "waiting up to" in server.text(), 60, "the server to wait", server)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "evidence.sqlite").touch()  # half made, as a coordinator's is for a moment
        Exporter(tmp_path / "data" / "evidence.sqlite").close()
        wait_for(Web(f"http://127.0.0.1:{port}", "").answers, 60, "the server to answer", server)
        assert "the evidence is there" in server.text()
    finally:
        server.stop()


def test_it_watches_a_chain_from_before_its_first_block(tmp_path):
    """A ledger of no blocks, with rules of notes: counting its notes once ended the watcher, and nobody heard of it."""
    with Site(tmp_path, [], rate=1) as site:
        site.start_broker()
        coordinator = site.start_coordinator()
        wait_for((site.data / "evidence.sqlite").exists, 60, "the evidence", coordinator)
        web = site.start_web("operator", "operator")

        def health():
            with suppress(HTTPError), closing(urlopen(f"{web.url}/healthz", timeout=10)) as answer:
                return json.loads(answer.read())["height"]
            return 0  # asked too often: 429

        site.admit({"olga": ("pile-owner", 1_000_000)})
        wait_for(lambda: health() == 2, 60, "the web to see both blocks", site.processes["web"])


def test_it_does_not_wait_for_ever(tmp_path):
    (tmp_path / "web.toml").write_text('database = "data/evidence.sqlite"\n')
    with pytest.raises(ConfigError, match="a coordinator writes it"):
        wait_for_evidence(load_web_config(tmp_path / "web.toml"), timeout_s=0)
