"""`pile-edge fleet`: which software the piles of a site run, and a signed update brought to all of them, wave by wave."""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console as Screen

from pile_edge.agent import ONLINE
from pile_edge.board.software import read_update
from pile_edge.commands import new_parser, usual_options
from pile_edge.commands.listening import EVERY_PILE, Ear
from pile_edge.commands.update import Delivery
from pile_edge.mqtt import check_spec
from pile_edge.update import UpdateError
from pile_shared.codec import array, decode
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.topics import MAX_STATUS_BYTES
from pile_shared.units import check_bytes, check_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from pile_edge.board.software import Update

AT_ONCE = (
    16  # piles that are sent to at the same time: 2 kB each and round trip, so that the broker has room for meters
)
MAX_PILES = 10_000
MAX_FLEET_BYTES = 1 << 20
LOOK_S = 3.0  # the broker sends what it kept of every pile within this time
OTHERS = "*"
_EPILOG = """examples:
  pile-edge fleet show --fleet fleet.toml
  pile-edge fleet roll --fleet fleet.toml agent-2.update

A wave is over when each of its piles has reported with the new software: its status names it, and a receipt has come. Then they
are watched for a while, and only then the next wave begins. If piles of a wave do not come back, fall back or refuse, nothing
is sent to the waves behind it. Run it again to go on: piles that run the software already are passed over."""


@dataclass(frozen=True)
class Fleet:
    """A fleet file: whose piles, by whose updates, in which waves, and where to meet them. Waves are lists of pile ids."""

    chain_id: str
    update_public: bytes
    waves: list[list[str]]
    wave_s: int
    watch_s: int
    mqtt: dict[str, object]
    folder: Path


@dataclass(frozen=True)
class Seen:
    """What a pile's status said last. firmware: b"" if it did not say."""

    is_online: bool
    firmware: bytes
    complaint: str


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `fleet` to the commands of `pile-edge`."""
    parser = new_parser(
        commands,
        "fleet",
        "the software of all piles: look, and update in waves",
        description="Look at which software the piles run, and bring a signed update to all of them in waves.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="action")
    show = actions.add_parser("show", help="every pile that the broker knows, its software, and what it complains of")
    roll = actions.add_parser("roll", help="bring an update to the piles, one wave after the other")
    roll.add_argument("file", type=Path, help="update from `pile-edge update sign`")
    roll.add_argument(
        "--may-fail",
        type=int,
        default=0,
        metavar="N",
        help="piles of a wave that may fail before it halts (%(default)s)",
    )
    for action, run in ((show, run_show), (roll, run_roll)):
        action.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="the fleet's TOML file")
        usual_options(action, run, config=None)


# --- the file ------------------------------------------------------------------------------------------------------------


def load_fleet(path: Path) -> Fleet:
    """A checked fleet file; ConfigError naming the file, the key and the expected form."""
    try:
        with path.open("rb") as file:
            values = tomllib.loads(file.read(MAX_FLEET_BYTES).decode())
        fleet = Fleet(
            chain_id=check_id("chain_id", values.pop("chain_id", None)),
            update_public=check_bytes("update_public", bytes.fromhex(values.pop("update_public", "")), 65, 65),
            waves=_waves(values.pop("waves", None)),
            wave_s=60 * _minutes(values.pop("wave_minutes", 60)),
            watch_s=60 * _minutes(values.pop("watch_minutes", 15)),
            mqtt=_mqtt(values.pop("mqtt", None)),
            folder=path.parent,
        )
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}; docs/upgrade.md has a whole fleet file") from error
    except PilechainError as error:
        raise ConfigError(f"{path}: {error}") from error
    for key in values:
        raise ConfigError(f"{path}: unknown key {key}; docs/upgrade.md has a whole fleet file")
    return fleet


def _waves(value: object) -> list[list[str]]:
    if not isinstance(value, list) or not value or not all(isinstance(wave, list) and wave for wave in value):
        raise ConfigError('waves must be lists of piles, like [["garage-1"], ["garage-2", "garage-3"], ["*"]]')
    piles = [pile for wave in value for pile in wave]
    for pile in piles:
        if pile != OTHERS:
            check_id("pile", pile)
    if len(piles) > MAX_PILES or len(set(piles)) < len(piles):
        raise ConfigError(f"a pile is in one wave, and at most {MAX_PILES} are named")
    if OTHERS in piles and value[-1] != [OTHERS]:
        raise ConfigError('["*"], all others, is the last wave, by itself')
    return value


def _minutes(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10_080:
        raise ConfigError(f"minutes = {value!r} is wrong; expected 0 to 10080")
    return value


def _mqtt(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigError("the section [mqtt] is missing: host, port, and how this program is known to the broker")
    check_spec(value)
    return value


# --- looking -------------------------------------------------------------------------------------------------------------


def seen_in(payload: bytes) -> Seen:
    """What a status says; of what is none, that nobody is there."""
    try:
        state, _, _, firmware, _, code = array(decode(payload, MAX_STATUS_BYTES), 6)
    except PilechainError:
        return Seen(is_online=False, firmware=b"", complaint="")
    return Seen(state == ONLINE, firmware if isinstance(firmware, bytes) else b"", str(code))


def look(ear: Ear, seen: dict[str, Seen], seconds: float) -> None:
    """Note what every pile says for so long; of more than MAX_PILES, of the first ones."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        heard = ear.hear_any(left)
        if heard is not None and heard[1] == "status":
            note(seen, heard[0], heard[2])


def note(seen: dict[str, Seen], pile: str, payload: bytes) -> None:
    """Note a pile's status."""
    if pile in seen or len(seen) < MAX_PILES:
        seen[pile] = seen_in(payload)


def run_show(options: argparse.Namespace) -> int:
    """Print what is there; 0."""
    fleet = load_fleet(options.fleet)
    seen: dict[str, Seen] = {}
    with Ear(fleet.mqtt, fleet.folder, fleet.chain_id, EVERY_PILE, ["status"]) as ear:
        look(ear, seen, LOOK_S)
    rows = [(pile, found.is_online, found.firmware.hex(), found.complaint) for pile, found in sorted(seen.items())]
    if options.json:
        names = ("pile", "online", "firmware", "says")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return 0
    for pile, is_online, firmware, complaint in rows:
        print(f"{pile:<24} {'online ' if is_online else 'offline'} {firmware[:16] or '-':<16} {complaint}".rstrip())
    for firmware, count in sorted(Counter(row[2] for row in rows).items()):
        print(f"{count} piles run {firmware[:16] or 'software they do not name'}")
    return 0


# --- rolling out ---------------------------------------------------------------------------------------------------------


def run_roll(options: argparse.Namespace) -> int:
    """Bring the update to one wave after the other; 0 when all have it, UpdateError `halted` at a wave that fails."""
    fleet = load_fleet(options.fleet)
    update = read_update(options.file, fleet.update_public)
    if update.chain_id != fleet.chain_id:
        raise ConfigError(f"{options.file} is signed for chain {update.chain_id}, the fleet is on {fleet.chain_id}")
    screen = Screen(stderr=True, quiet=options.json, highlight=False)
    with Ear(fleet.mqtt, fleet.folder, fleet.chain_id, EVERY_PILE, ["want", "status", "receipt"]) as ear:
        outcomes = Rollout(ear, fleet, update, screen.print).run(options.may_fail)
    print(json.dumps(outcomes) if options.json else f"version {update.offer.version}: {len(outcomes)} piles run it")
    return 0


class Rollout:
    """An update on its way to a fleet."""

    def __init__(self, ear: Ear, fleet: Fleet, update: Update, tell: Callable[[str], None]) -> None:
        """Use an ear for every pile's want, status and receipt; `tell` takes lines for people."""
        self._ear, self._fleet, self._update, self._tell = ear, fleet, update, tell
        self._seen: dict[str, Seen] = {}

    def run(self, may_fail: int) -> dict[str, str]:
        """All waves; how it went at each pile.

        Raises:
            UpdateError: `halted`, more than `may_fail` piles of a wave failed; the message names them.
        """
        look(self._ear, self._seen, LOOK_S)
        outcomes: dict[str, str] = {}
        for number, wave in enumerate(self._fleet.waves, 1):
            piles = sorted(self._seen.keys() - outcomes.keys()) if wave == [OTHERS] else wave
            self._tell(f"wave {number} of {len(self._fleet.waves)}: {len(piles)} piles")
            done, failed = self._wave(piles)
            failed |= self._watch(done)
            outcomes |= done | failed
            if len(failed) > may_fail:
                reasons = "; ".join(f"{pile}: {reason}" for pile, reason in sorted(failed.items())[:10])
                raise UpdateError(
                    f"halted at wave {number}: {len(failed)} of {len(piles)} piles failed ({reasons}). Nothing was sent to the"
                    " waves behind it",
                    "halted",
                )
        return outcomes

    def _wave(self, piles: list[str]) -> tuple[dict[str, str], dict[str, str]]:
        """(how it went, why it failed) by pile, when every pile has an end or time is over."""
        waiting, under_way = list(piles), dict[str, Delivery]()
        done, failed = dict[str, str](), dict[str, str]()
        deadline = time.monotonic() + self._fleet.wave_s
        while (waiting or under_way) and time.monotonic() < deadline:
            while waiting and len(under_way) < AT_ONCE:
                self._begin(waiting.pop(0), under_way, done)
            for delivery in under_way.values():
                delivery.tend()
            self._hear(under_way, done, failed)
        failed |= {pile: delivery.state for pile, delivery in under_way.items()}
        failed |= dict.fromkeys(waiting, "its turn did not come: give the wave more minutes")
        return done, failed

    def _begin(self, pile: str, under_way: dict[str, Delivery], done: dict[str, str]) -> None:
        """Serve the pile, unless its status says that it runs the software."""
        seen = self._seen.get(pile)
        if seen is not None and seen.is_online and seen.firmware == self._update.firmware:
            done[pile] = "runs it already"
            return

        def say(kind: str, payload: bytes) -> None:
            self._ear.say(kind, payload, pile)

        under_way[pile] = Delivery(say, self._update, lambda *_: None)  # it is told when a pile has come to an end
        if seen is not None and seen.is_online:  # its status was taken before this delivery began
            under_way[pile].find_online()

    def _hear(self, under_way: dict[str, Delivery], done: dict[str, str], failed: dict[str, str]) -> None:
        heard = self._ear.hear_any(1.0)
        if heard is None:
            return
        pile, kind, payload = heard
        if kind == "status":
            note(self._seen, pile, payload)
        delivery = under_way.get(pile)
        if delivery is None:
            return
        try:
            delivery.take(kind, payload)
        except UpdateError as error:
            failed[pile] = str(error)
        except PilechainError:
            return  # not the pile's, or damaged: it asks again
        if delivery.outcome:
            done[pile] = delivery.outcome
        if pile in done or pile in failed:
            del under_way[pile]
            self._tell(f"  {pile}: {done.get(pile) or 'FAILED, ' + failed[pile]}")

    def _watch(self, done: dict[str, str]) -> dict[str, str]:
        """Why piles that had reported are not there with the new software any more, some minutes later."""
        look(self._ear, self._seen, self._fleet.watch_s)
        gone = {}
        for pile in sorted(done):
            seen = self._seen.get(pile)
            if seen is None or not seen.is_online:
                gone[pile] = "reported, and went offline"
            elif seen.firmware != self._update.firmware:
                gone[pile] = "reported, and runs other software now"
        return gone
