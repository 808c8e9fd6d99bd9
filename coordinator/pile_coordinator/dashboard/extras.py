"""What stands in the head of every page beside its name: the search for any id, and how many alarms there are.

The count is asked for once in a while for each role and party, whatever the number of open pages.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from nicegui import ui
from starlette.concurrency import run_in_threadpool

from pile_coordinator.dashboard import details
from pile_coordinator.evidence.alarms import Alarms, alarms, database_away
from pile_coordinator.web.access import Grant, view_of
from pile_coordinator.web.problems import DATABASE_AWAY
from pile_coordinator.web.shared import Web, now_ms

if TYPE_CHECKING:
    from pile_coordinator.dashboard.shell import View

KEPT_S = 10  # that alarms are shown again before they are asked for again
MAX_KEPT = 1_000  # of different roles and parties

_kept: dict[tuple[str, str], tuple[float, asyncio.Task[Alarms]]] = {}


def style() -> None:
    """Put style and script of `details` into the page."""
    ui.add_head_html(f"<style>{details.STYLE}</style><script>{details.COPYING}</script>")


def search(view: "View") -> None:
    """The box that takes any id."""
    label = view.text("details.find")
    with details.element("form", "pc-find", method="get", action="/search", role="search"):
        details.element("input", name="q", placeholder=label, type="search", maxlength=140, **{"aria-label": label})


def alarm_count(view: "View") -> None:
    """How many alarms there are, as a link to them; nothing for who is told of none."""
    grant = view.grant_of("alarms")
    if grant is None:
        return
    link = details.words("a", "", "pc-alarms", href="/alarms", **{"data-test": "alarms"})

    async def refresh() -> None:
        count = len((await found(view.web, grant)).alarms)
        text = view.text("alarms.count", count=count)
        if text != link.text:  # type: ignore[attr-defined]
            link.text = text  # type: ignore[attr-defined]
            link.classes(add="bad" if count else "", remove="" if count else "bad")

    view.follow(refresh)


async def found(web: Web, grant: Grant) -> Alarms:
    """The alarms that the holder of a token is told of; kept for a few seconds."""
    key = grant.token.role, grant.party
    made_s, asked = _kept.get(key, (-KEPT_S, None))
    loop = asyncio.get_running_loop()
    if asked is None or time.monotonic() - made_s >= KEPT_S or asked.get_loop() is not loop:
        if len(_kept) >= MAX_KEPT:
            _kept.clear()
        asked = asyncio.create_task(run_in_threadpool(_ask, web, grant))
        _kept[key] = time.monotonic(), asked
    return await asyncio.shield(asked)


def _ask(web: Web, grant: Grant) -> Alarms:
    config = web.config
    try:
        with web.reading.connect() as db, web.ledger() as ledger:
            given = {"now_ms": now_ms(), "genesis": config.genesis, "silent_ms": config.silent_after_s * 1000}
            return alarms(db, view_of(grant.token), ledger=ledger, **given)  # type: ignore[arg-type]
    except DATABASE_AWAY:
        web.metrics.database_errors.inc()
        return database_away()
