"""`pile-edge update`: sign new software for boards, and send it to one through the broker until it has proved itself."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pile_edge.agent import ONLINE
from pile_edge.board.software import build_software, open_want, piece, read_update, sign_update, write_update
from pile_edge.commands import new_parser, usual_options
from pile_edge.commands.listening import Ear
from pile_edge.config_file import load_config, load_mapping
from pile_edge.signers import open_signer
from pile_edge.update import UpdateError
from pile_shared.codec import array, decode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.topics import MAX_STATUS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from pile_edge.board.software import Update

OFFER_AGAIN_SECONDS = 30  # while the pile is online and does not ask: it may be charging
_EPILOG = """examples:
  pile-edge update sign --key file:update.key --chain north-1a2b3c4d --version 2 agent-2.update
  pile-edge update send --config pile.toml agent-2.update

The public key that `sign` shows stands as update_public in the configuration of every pile that shall take its updates.
A pile takes a version once, none that is not newer, and none made for another chain. It takes it between sessions, fetches
it piece by piece, verifies signature and hash, and starts it on trial: without a receipt in 15 minutes, three times, the
old software starts again. Run `send` until it says that the pile has reported."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `update` to the commands of `pile-edge`."""
    parser = new_parser(
        commands,
        "update",
        "sign new software for boards, and send it",
        description="Sign new software for boards, and send it to one.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(required=True, metavar="action")
    sign = actions.add_parser("sign", help="link, compile and sign the agent of this installation")
    sign.add_argument("file", type=Path, help="update to write")
    sign.add_argument(
        "--key", required=True, metavar="URI", help="the update key, like file:update.key; made if missing"
    )
    sign.add_argument("--chain", required=True, metavar="ID", help="chain whose piles it is for")
    sign.add_argument("--version", type=int, required=True, metavar="N", help="greater than any version before")
    sign.add_argument(
        "--min-version", type=int, default=0, metavar="N", help="once this has reported, nothing older starts (0)"
    )
    usual_options(sign, run_sign, config=None)
    send = actions.add_parser("send", help="offer an update to a pile and hand it out until the pile has reported")
    send.add_argument("file", type=Path, help="update from `sign`")
    send.add_argument("--wait", type=int, default=3600, metavar="S", help="seconds at most (%(default)s)")
    usual_options(send, run_send)


def run_sign(options: argparse.Namespace) -> int:
    """Build and sign; 0."""
    signer = open_signer(options.key)
    software = build_software(options.version)
    # Signers of both kinds share what signing needs.
    update = sign_update(software, cast("SoftwareSigner", signer), options.chain, options.min_version)
    write_update(update, options.file)
    found = {
        "file": str(options.file),
        "version": options.version,
        "min_version": options.min_version,
        "image_bytes": len(update.image),
        "firmware": update.firmware.hex(),
        "update_public": signer.public.hex(),
    }
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:<14} {value}" for name, value in found.items()))
    return 0


def run_send(options: argparse.Namespace) -> int:
    """Offer and hand out; 0 when the pile has reported with the new software."""
    config = load_config(options.config)
    if not config.update_public:
        raise ConfigError(f"{options.config}: no update_public: this pile takes updates from nobody; flash it again")
    update = read_update(options.file, config.update_public)
    if update.chain_id != config.chain_id:
        raise ConfigError(f"{options.file} is signed for chain {update.chain_id}, the pile is on {config.chain_id}")
    spec = load_mapping(options.config)["mqtt"]
    assert isinstance(spec, dict)  # load_config has checked it
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Screen(stderr=True, quiet=options.json)) as progress,
        Ear(spec, options.config.parent, config.chain_id, config.pile_id, ["want", "status", "receipt"]) as ear,
    ):
        task = progress.add_task("offered", total=len(update.image))

        def on_progress(text: str, offset: int) -> None:
            progress.update(task, description=text, completed=offset)

        outcome = Delivery(ear.say, update, on_progress).run(ear, options.wait)
    print(json.dumps({"pile_id": config.pile_id, "outcome": outcome}) if options.json else outcome)
    return 0


class Delivery:
    """One update on its way to one pile.

    Attributes:
        outcome: how it went, once the pile has reported with the new software; "" before.
    """

    def __init__(
        self, say: Callable[[str, bytes], None], update: Update, on_progress: Callable[[str, int], None]
    ) -> None:
        """Serve `update` to who hears what is said as (kind, payload); progress is told as (text, bytes)."""
        self._say, self._update, self._on_progress = say, update, on_progress
        self._size = len(update.image)
        self._is_online = self._is_taken = self._is_new_running = False
        self._offer_at_s = 0.0
        self.outcome = ""

    def run(self, ear: Ear, seconds: float) -> str:
        """Until the pile has reported; how it went. `ear` hears its want, status and receipt.

        Raises:
            UpdateError: `refused` with the pile's reason, `fell_back`, or `silent` after `seconds`.
        """
        deadline = time.monotonic() + seconds
        self._offer()
        while not self.outcome and time.monotonic() < deadline:
            self.tend()
            heard = ear.hear(min(1.0, deadline - time.monotonic()))
            if heard is not None:
                self.take(*heard)
        if not self.outcome:
            raise UpdateError(f"the pile {self.state}; run this again later", "silent")
        return self.outcome

    @property
    def state(self) -> str:
        """What the pile does instead of reporting."""
        return "has it and does not report" if self._is_taken else "does not ask for it: offline, or charging"

    def find_online(self) -> None:
        """Its status said so before: offer it when it is tended."""
        self._is_online = True

    def tend(self) -> None:
        """Offer it again when it is time: only to a pile that is online, as what is offered to others waits at the broker."""
        if self._is_online and not self._is_taken and time.monotonic() > self._offer_at_s:
            self._offer()

    def take(self, kind: str, payload: bytes) -> None:
        """Take what the pile said, or what was said to it; UpdateError as `run`."""
        {"want": self._wanted, "status": self._status, "receipt": self._receipt}[kind](payload)

    def _offer(self) -> None:
        self._say("update", self._update.message)
        self._offer_at_s = time.monotonic() + OFFER_AGAIN_SECONDS

    def _wanted(self, payload: bytes) -> None:
        version, offset, note = open_want(payload)
        if version != self._update.offer.version:
            return
        if note:
            raise UpdateError(f"the pile refuses: {note}", "refused")
        if offset >= self._size:
            self._is_taken = True
            self._on_progress("all there and verified; on trial", self._size)
            return
        self._offer_at_s = time.monotonic() + OFFER_AGAIN_SECONDS
        self._on_progress(f"sending, {self._size} bytes", offset)
        self._say("update", piece(self._update, offset))

    def _status(self, payload: bytes) -> None:
        """Who is there now. A will, or an older agent, says less; then nothing follows from it."""
        try:
            state, _, _, firmware, _, _ = array(decode(payload, MAX_STATUS_BYTES), 6)
        except PilechainError:
            self._is_online = False
            return
        self._is_online = state == ONLINE
        if firmware == self._update.firmware:
            self._is_new_running = True
            if not self._is_taken:
                self.outcome = "the pile runs this software already"
            else:
                self._on_progress("the new software is online; waiting for its first receipt", self._size)
        elif self._is_taken:
            raise UpdateError("the new software did not report: the pile fell back to the old one", "fell_back")

    def _receipt(self, _payload: bytes) -> None:
        if self._is_new_running:
            self.outcome = f"version {self._update.offer.version} runs and has reported"
