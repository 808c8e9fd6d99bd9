"""`pilechain site`: who has a certificate for the broker, since when and how long; add, renew, revoke."""

import argparse
import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pile_coordinator.site.access import EVERYBODY, GUEST, KINDS, PILE, WHO, Name, name_of, parse_name
from pile_coordinator.site.authority import DAYS, Authority, Entry
from pile_coordinator.site.folder import SiteFolder
from pile_shared.errors import ConfigError

SOON_DAYS = 30  # from then on `list` says that a certificate ends soon

_SITE = """\
Keep a site's certificates: whoever speaks at its broker has one, and the broker goes by the name in it. Each gets a folder,
to be handed over as it is. Whoever loses one, or is stolen, is revoked: the broker is told at once."""

_AUTHORITY_HELP = "where the authority's key is, if it is kept elsewhere (default: what site.toml says)"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `site` to `pilechain`."""
    site = commands.add_parser(
        "site",
        help="certificates of a site: add, renew, revoke, list",
        description=_SITE,
        epilog="Examples: pilechain site pile add garage-17 --site north\n"
        "          pilechain site list --site north   (docs/site.md explains it all; pilechain init site makes a site)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = site.add_subparsers(required=True, metavar="WHAT")
    for kind in KINDS:
        parser = kinds.add_parser(kind, help=WHO[kind])
        actions = parser.add_subparsers(required=True, metavar="ACTION")
        _add_action(actions, kind, "add", "issue a first certificate", _add)
        _add_action(actions, kind, "renew", "issue the next one; the last stays good until it ends", _renew)
        _add_action(actions, kind, "revoke", "end all its certificates at once, and its connections", _revoke)
        _add_list(actions, kind)
    server = kinds.add_parser("broker", help="the broker itself")
    actions = server.add_subparsers(required=True, metavar="ACTION")
    renew = actions.add_parser("renew", help="give it a new certificate, for the hosts in site.toml")
    _add_usual(renew, signs=True)
    renew.set_defaults(run=lambda options: _guarded(_renew_server, options))
    _add_list(kinds, None)
    apply = kinds.add_parser(
        "apply", help="write the broker's access list and CRL again from what the authority knows, and tell the broker"
    )
    _add_usual(apply)
    apply.set_defaults(run=lambda options: _guarded(_apply, options))


def _add_action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    kind: str,
    action: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> None:
    parser = actions.add_parser(action, help=text, description=text.capitalize() + ".")
    if kind == GUEST:
        parser.set_defaults(id=[EVERYBODY] if action == "add" else EVERYBODY)
    elif action == "add":
        parser.add_argument("id", metavar="ID", nargs="+", help=WHO[kind])
    else:
        parser.add_argument("id", metavar="ID", help=WHO[kind])
    _add_usual(parser, signs=action != "revoke")
    parser.set_defaults(kind=kind, run=lambda options: _guarded(run, options))


def _add_list(actions: "argparse._SubParsersAction[argparse.ArgumentParser]", kind: str | None) -> None:
    listing = actions.add_parser("list", help="who has a certificate, and for how many days still")
    listing.add_argument("--all", action="store_true", help="older ones and revoked ones too")
    _add_usual(listing)
    listing.set_defaults(kind=kind, run=lambda options: _guarded(_list, options))


def _add_usual(parser: argparse.ArgumentParser, *, signs: bool = False) -> None:
    parser.add_argument(
        "--site", type=Path, default=Path(), metavar="FOLDER", help="the site's folder (default: where you are)"
    )
    parser.add_argument("--authority", type=Path, metavar="FOLDER", help=_AUTHORITY_HELP)
    if signs:
        parser.add_argument(
            "--days", type=int, default=DAYS, metavar="N", help="good for so long (default: %(default)s)"
        )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _guarded(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    act_as_owner(options.site)
    try:
        with for_us_only():
            return run(options)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; this is for the account that owns the site") from error


def act_as_owner(folder: Path) -> None:
    """Who is root becomes the owner of a site's folder: what is written there is the site's, and its broker can read it."""
    if os.geteuid() != 0 or not folder.is_dir():
        return
    found = folder.stat()
    if found.st_uid != 0:
        os.setgroups([])
        os.setgid(found.st_gid)
        os.setuid(found.st_uid)


@contextmanager
def for_us_only() -> Iterator[None]:
    """Files that are made meanwhile can be read by nobody else."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _open(options: argparse.Namespace) -> SiteFolder:
    return SiteFolder.open(options.site, options.authority)


# --- actions -------------------------------------------------------------------------------------------------------------


def _add(options: argparse.Namespace) -> int:
    names = list(dict.fromkeys(name_of(options.kind, identity) for identity in options.id))
    folders = _open(options).add_all(names, days=options.days)
    for name, folder in zip(names, folders, strict=True):
        _tell(options, name, folder, f"{name} may connect: hand over {folder}")
    return 0


def _renew(options: argparse.Namespace) -> int:
    name = name_of(options.kind, options.id)
    folder = _open(options).renew(name, days=options.days)
    _tell(options, name, folder, f"{name} has a new certificate in {folder}; the last one stays good until it ends")
    return 0


def _tell(options: argparse.Namespace, name: Name, folder: Path, text: str) -> None:
    if options.json:
        print(json.dumps({"name": str(name), "folder": str(folder)}))
        return
    print(text)
    if name.kind == PILE:
        print(
            "  a Raspberry Pi takes it as it is; for a board, `pile-edge flash` makes DER files of it, which are there too"
        )
        print("  next, in this folder at the pile: pile-edge provision --config pile.toml --operator operator.toml")


def _revoke(options: argparse.Namespace) -> int:
    name = name_of(options.kind, options.id)
    done = _open(options).revoke(name)
    if options.json:
        facts = {"name": str(name), "revoked": [f"{entry.serial:x}" for entry in done.entries]}
        print(json.dumps({**facts, "broker": done.told.done, "ended": done.ended, "advice": done.told.advice}))
        return 0
    print(f"{name} is revoked: {len(done.entries)} certificate(s); {done.told.advice}")
    if done.ended:
        print("  its connection was ended")
    if done.told.done:
        other = "another that somebody made with it" if done.ended else "a connection that stands"
        print(f"  {other} hears and says nothing more, and ends when the broker is started again")
    if name.kind == PILE:
        print(
            f"  the chain knows the pile by its own key still; if that is lost too: pilechain wallet retire-pile {name}"
        )
    return 0


def _renew_server(options: argparse.Namespace) -> int:
    told = _open(options).renew_server(days=options.days)
    print(json.dumps({"broker": told.done, "advice": told.advice}) if options.json else told.advice)
    return 0


def _apply(options: argparse.Namespace) -> int:
    told = _open(options).apply()
    print(json.dumps({"broker": told.done, "advice": told.advice}) if options.json else told.advice)
    return 0


# --- list ----------------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    site = _open(options)
    authority, now = Authority.open(site.authority), dt.datetime.now(dt.UTC)
    rows = [entry for entry in authority.issued() if _kind(entry) and options.kind in {None, _kind(entry)}]
    if not options.all:
        rows = newest(rows)
    if options.json:
        print(json.dumps([_facts(entry, now) for entry in rows]))
        return 0
    table = Table("kind", "name", "state", "until", "days left", box=None, pad_edge=False)
    for entry in rows:
        left = "" if entry.revoked else str(entry.days_left(now))
        table.add_row(_kind(entry), entry.name, _state(entry, now), f"{entry.until:%Y-%m-%d}", left)
    Console(highlight=False, markup=False, width=120).print(table)
    until = authority.certificate.not_valid_after_utc
    print(f"the authority itself: until {until:%Y-%m-%d}, {(until - now).days} days")
    soon = [entry for entry in rows if not entry.revoked and entry.days_left(now) < SOON_DAYS]
    for entry in soon:
        when = "has ended" if entry.until <= now else f"ends in {entry.days_left(now)} days"
        print(f"{entry.name} {when}: {_renewal(entry)}")
    if not soon:
        print(f"none of these ends within {SOON_DAYS} days")
    return 0


def newest(entries: Sequence[Entry]) -> list[Entry]:
    """The certificate of each name that is good longest; of names that have no good one the newest."""
    best: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        key, held = (entry.kind, entry.name), best.get((entry.kind, entry.name))
        if held is None or (not entry.revoked, entry.until) > (not held.revoked, held.until):
            best[key] = entry
    return list(best.values())


def _kind(entry: Entry) -> str:
    """Of KINDS, or broker; empty for what the commands needed for a moment."""
    name = parse_name(entry.name) if entry.kind == "client" else None
    return "broker" if entry.kind == "server" else name.kind if name is not None else ""


def _state(entry: Entry, now: dt.datetime) -> str:
    if entry.revoked:
        return f"revoked {entry.revoked:%Y-%m-%d}"
    return "ended" if entry.until <= now else "ends soon" if entry.days_left(now) < SOON_DAYS else "good"


def _renewal(entry: Entry) -> str:
    name = parse_name(entry.name) if entry.kind == "client" else None
    if name is None:
        return "pilechain site broker renew"
    return f"pilechain site {name.kind} renew" + ("" if name.kind == GUEST else f" {name.id}")


def _facts(entry: Entry, now: dt.datetime) -> dict[str, object]:
    return {
        "kind": _kind(entry),
        "name": entry.name,
        "serial": f"{entry.serial:x}",
        "state": _state(entry, now),
        "until": entry.until.isoformat(),
        "days_left": entry.days_left(now),
        "revoked": entry.revoked.isoformat() if entry.revoked else None,
    }
