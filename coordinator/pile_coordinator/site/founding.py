"""A new site: a chain of its own, keys for its founders, certificates for all who begin, and configurations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.clock import Clock
from pile_coordinator.keys import make_key
from pile_coordinator.new_chain import FOUNDERS, NOTES, PARAMS, founding_document
from pile_coordinator.site import broker
from pile_coordinator.site.access import COORDINATOR, EVERYBODY, GUEST, USER, Name
from pile_coordinator.site.authority import CA_DAYS, DAYS, Authority
from pile_coordinator.site.folder import SiteFolder
from pile_shared.errors import ConfigError

COORDINATOR_PARTY = "coordinator"
ATTESTER = "operator"  # the one accounting node of a solo engine
_MAIN = Name(COORDINATOR, "main")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a new site is to be.

    Attributes:
        name: of the chain. hosts: of the broker. listen, port: where it listens. piles, users: who gets a certificate at once.
        params: of the chain, that differ from the usual ones. notes: whether people may pay anonymously. authority: its folder,
        None for one in the site's. days: certificates are good for so long. evidence_url: of a MariaDB database, or "".
        web_port: of the HTTP API, on this machine only.
    """

    name: str
    hosts: tuple[str, ...]
    listen: str
    port: int
    piles: tuple[Name, ...]
    users: tuple[Name, ...]
    params: Mapping[str, object]
    notes: bool
    authority: Path | None
    days: int
    evidence_url: str
    web_port: int


def found_site(folder: Path, plan: Plan) -> SiteFolder:
    """Write a site into an empty folder.

    Raises:
        ConfigError: the plan makes no genesis. AuthorityError: the authority's folder holds one, or a host is none.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    genesis = _found_chain(folder, plan)
    authority = (plan.authority or folder / "authority").resolve()
    site = SiteFolder(folder, plan.hosts, plan.port, plan.listen, authority, genesis)
    found_broker(site, days=plan.days)
    guests = [Name(GUEST, EVERYBODY)] if plan.notes else []
    founders = [Name(USER, party) for party in FOUNDERS]
    site.add_all([_MAIN, *guests, *founders, *plan.users, *plan.piles], days=plan.days)
    _write_coordinator(site, plan)
    _write_web(site, plan)
    return site


def found_broker(site: SiteFolder, *, days: int = DAYS) -> None:
    """Make a site's authority, and all that its broker needs, around a chain that is there."""
    (site.broker / "kept").mkdir(parents=True)
    authority = Authority.make(site.authority, f"{site.genesis.chain_id} authority", days=CA_DAYS)
    site.issue_server(authority, days)
    (site.broker / "mosquitto.conf").write_text(broker.configuration(site.broker, site.listen, site.port))
    site.write()
    site.apply(authority)


def _found_chain(folder: Path, plan: Plan) -> Genesis:
    parties = {party: (role, make_key(_founders_key(folder, party)).public.hex()) for party, role in FOUNDERS.items()}
    parties[COORDINATOR_PARTY] = ("operator", make_key(folder / "keys" / "coordinator.key").public.hex())
    attester = make_key(folder / "keys" / f"{ATTESTER}-attest.key").public.hex()
    document = founding_document(
        plan.name, Clock().now_ms(), dict(sorted(parties.items())), NOTES if plan.notes else None
    )
    unknown = sorted(plan.params.keys() - PARAMS.keys())
    if unknown:
        raise ConfigError(f"--param {unknown[0]}: there is no such parameter; docs/operator.md lists them")
    document["params"] = PARAMS | dict(plan.params)
    document["validators"] = [{"party": ATTESTER, "public": attester, "power": 1}]
    genesis = genesis_from_json(document)
    (folder / "genesis.json").write_text(json.dumps(document, indent=2) + "\n")
    return genesis


def _founders_key(folder: Path, party: str) -> Path:
    return folder / Name(USER, party).folder / f"{party}.key"


def _write_coordinator(site: SiteFolder, plan: Plan) -> None:
    evidence = f"\n[evidence]\nurl = {json.dumps(plan.evidence_url)}\n" if plan.evidence_url else ""
    mqtt = site.mqtt(_MAIN, here=True, below=f"{_MAIN.folder}/")
    (site.folder / "coordinator.toml").write_text(
        f'genesis = "genesis.json"\ndata = "data"\nparty = "{COORDINATOR_PARTY}"\nkey = "keys/coordinator.key"\n\n'
        f'[attestation]\n{ATTESTER} = "keys/{ATTESTER}-attest.key"\n\n{mqtt}{evidence}'
    )


def _write_web(site: SiteFolder, plan: Plan) -> None:
    database = plan.evidence_url or "data/evidence.sqlite"
    (site.folder / "web.toml").write_text(
        f'database = {json.dumps(database)}\nledger = "data/ledger.sqlite"\ngenesis = "genesis.json"\n'
        f'tokens = "web-tokens.sqlite"\nlisten = "127.0.0.1"\nport = {plan.web_port}\n'
    )


def parse_params(texts: Sequence[str]) -> dict[str, object]:
    """Parameters like `capacity_hours=4`; ConfigError for what is not of this form."""
    found: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise ConfigError(f"--param {text!r} is wrong; expected KEY=VALUE, like capacity_hours=4")
        found[key] = int(value) if value.isdecimal() else value
    return found
