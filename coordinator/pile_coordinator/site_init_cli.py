"""`pilechain init site`: a folder with all that a site of one coordinator needs."""

import argparse
import json
from pathlib import Path

from pile_coordinator.engines.comet.network import all_or_nothing
from pile_coordinator.new_chain import FOUNDERS
from pile_coordinator.site import broker
from pile_coordinator.site.access import PILE, USER, name_of
from pile_coordinator.site.authority import DAYS
from pile_coordinator.site.folder import SiteFolder
from pile_coordinator.site.founding import Plan, found_site, parse_params
from pile_coordinator.site_cli import act_as_owner, for_us_only
from pile_coordinator.web.config import PORT as WEB_PORT
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.units import check_id

_INIT = """\
Write a site: a new chain with one coordinator, an authority that says who is who, the configuration and access list of a
mosquitto that speaks TLS and lets each pile reach its own topics only, and a folder with a certificate for each pile and party.
Nothing listens on other addresses than 127.0.0.1 unless you say so."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `init site` to `pilechain`."""
    init = commands.add_parser(
        "init",
        help="write a site",
        description=_INIT,
        epilog="Example: pilechain init site north --name north --host broker.example --listen 0.0.0.0 --pile garage-17\n"
        "(docs/site.md explains every file; `pilechain init --help` is about networks of several accounting nodes)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument("what", choices=["site"], help=argparse.SUPPRESS)
    init.add_argument(
        "out", type=Path, nargs="?", default=Path("site"), metavar="FOLDER", help="must not exist, or be empty (site)"
    )
    init.add_argument("--name", default="pilechain", metavar="NAME", help="of the chain (default: %(default)s)")
    init.add_argument(
        "--host",
        action="append",
        metavar="HOST",
        help="under which piles and wallets meet the broker; the first is what they are told (default: localhost)",
    )
    init.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where the broker listens; 0.0.0.0 for all addresses (default: %(default)s)",
    )
    init.add_argument("--port", type=int, default=broker.PORT, metavar="N", help="its port (default: %(default)s)")
    init.add_argument(
        "--pile", action="append", default=[], metavar="ID", help="give this pile a certificate; once for each"
    )
    init.add_argument(
        "--user", action="append", default=[], metavar="PARTY", help="give this party's wallet a certificate"
    )
    init.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="of the chain's genesis (docs/operator.md)"
    )
    init.add_argument("--without-notes", action="store_true", help="nobody pays anonymously on this chain")
    init.add_argument(
        "--authority",
        type=Path,
        metavar="FOLDER",
        help="keep the authority there, like on a stick (default: FOLDER/authority)",
    )
    init.add_argument(
        "--days", type=int, default=DAYS, metavar="N", help="certificates are good for so long (%(default)s)"
    )
    init.add_argument(
        "--evidence", default="", metavar="URL", help="keep the evidence in this MariaDB (docs/evidence.md)"
    )
    init.add_argument(
        "--web-port", type=int, default=WEB_PORT, metavar="N", help="of the HTTP API (default: %(default)s)"
    )
    init.add_argument("--json", action="store_true", help="one JSON object")
    init.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; a site's keys are never overwritten, choose another folder")
    if options.authority is not None and options.authority.exists() and any(options.authority.iterdir()):
        raise ConfigError(f"{options.authority} is not empty; an authority is never overwritten, choose another folder")
    act_as_owner(out)
    plan = _plan(options)
    with for_us_only(), all_or_nothing(out), all_or_nothing(options.authority or out):
        site = found_site(out, plan)
    if options.json:
        facts = {"chain": site.genesis.chain_id, "genesis": site.genesis.hash().hex(), "folder": str(site.folder)}
        print(json.dumps(facts))
    else:
        _say(out, site)
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    try:
        check_id("--name", options.name)
    except PilechainError as error:
        raise ConfigError(str(error)) from error
    for option, port in (("--port", options.port), ("--web-port", options.web_port)):
        if not 1 <= port <= 65_535:
            raise ConfigError(f"{option} {port} is wrong; expected a port from 1 to 65535")
    if options.evidence and not options.evidence.startswith("mysql+pymysql://"):
        raise ConfigError("--evidence is wrong; expected mysql+pymysql://user:password@host/database")
    return Plan(
        name=options.name,
        hosts=tuple(options.host or ["localhost"]),
        listen=options.listen,
        port=options.port,
        piles=tuple(name_of(PILE, pile) for pile in options.pile),
        users=tuple(name_of(USER, party) for party in options.user),
        params=parse_params(options.param),
        notes=not options.without_notes,
        authority=options.authority,
        days=options.days,
        evidence_url=options.evidence,
        web_port=options.web_port,
    )


def _say(out: Path, site: SiteFolder) -> None:
    genesis = site.genesis
    print(f"chain {genesis.chain_id}, fingerprint {genesis.hash().hex()}")
    print(f"the broker listens on {site.listen}:{site.port}, as {', '.join(site.hosts)}")
    print(f"next:\n  mosquitto -d -c {site.broker / 'mosquitto.conf'}")
    print(f"  pilechain run --config {out / 'coordinator.toml'}")
    print(f"  pilechain wallet --profile {out / 'users/operator/wallet.toml'} piles")
    print(f"  pilechain site pile add ID --site {out}")
    print(f"keys of {', '.join(FOUNDERS)} and their wallets are in {out / 'users'}: give each folder to its party")
    print(f"move {site.authority} to a place that no network reaches: who has its key can be anybody (docs/site.md)")
