"""What every page of the driver is handed: texts, amounts and times for its reader, ways to look and to act."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar

from nicegui import Client, ui

from pile_coordinator.dashboard import words, written
from pile_coordinator.driver.gate import Place
from pile_coordinator.driver.pairing import Pairing
from pile_coordinator.driver.session import Clerk
from pile_shared.errors import LinkError, PilechainError

REFRESH_S = 2.0  # a question each time; piles prove something every half minute
_MICRO_DECIMALS, _SHOWN_DECIMALS = 6, 2

Answer = TypeVar("Answer")


class _Told(str):
    """Why there is nothing to show."""

    __slots__ = ()


@dataclass(slots=True)
class Desk:
    """What the pages of one process share: the wallet's clerk, who may come in, where; the market's clock once it is known."""

    clerk: Clerk
    place: Place
    pairing: Pairing
    utc_offset_minutes: int = 0
    trouble: str = field(default="", init=False)  # key of what the last look came to; empty if it was answered


class View:
    """One open page."""

    def __init__(self, desk: Desk, language: str, client: Client) -> None:
        """A view in a language."""
        self.desk, self.language = desk, language
        self.clerk, self.driver = desk.clerk, desk.clerk.driver
        self.params = self.driver.genesis.params
        self._client = client
        self._refresh: list[Callable[[], Awaitable[None]]] = []

    # --- words and figures ---------------------------------------------------------------------------------------

    def text(self, key: str, **values: object) -> str:
        """The text of a key of the section `driver`."""
        return words.text(self.language, f"driver.{key}", **values)

    def knows(self, key: str) -> bool:
        """Whether there is such a text."""
        return f"driver.{key}" in words.table(self.language)

    def word(self, family: str, name: str) -> str:
        """The word for a name of the chain; the name itself if there is none."""
        return words.word(self.language, f"driver.{family}", name)

    def money(self, micro: int) -> str:
        """An amount, exactly: two decimals, and as many more as it takes."""
        return f"{exact(micro)}\u00a0{self.params.currency}"

    def price(self, micro_per_kwh: int) -> str:
        """A price, exactly."""
        return f"{exact(micro_per_kwh)}\u00a0{self.params.currency}/kWh"

    def energy(self, wh: int) -> str:
        """Wh as kWh."""
        return written.energy(wh)

    @property
    def zone(self) -> timezone:
        """The market's, by its tariff."""
        return timezone(timedelta(minutes=self.desk.utc_offset_minutes))

    def time(self, ms: int) -> str:
        """A day and time of the market, which a line does not break."""
        then = datetime.fromtimestamp(ms // 1000, UTC).astimezone(self.zone)
        return then.strftime("%m\u2011%d\u00a0%H:%M")

    def span(self, start_ms: int, end_ms: int) -> str:
        """From when to when; the day once, if it is one."""
        start, end = self.time(start_ms), self.time(end_ms)
        return f"{start} – {end[6:] if end[:5] == start[:5] else end}"  # noqa: RUF001

    def clock(self, ms: int) -> str:
        """The time of day to the second."""
        return datetime.fromtimestamp(ms // 1000, UTC).astimezone(self.zone).strftime("%H:%M:%S")

    def offset(self) -> str:
        """The market's time zone, like UTC+08:00."""
        return str(self.zone)

    def state(self, name: str) -> str:
        """A phase or outcome."""
        return self.word("state", name)

    def refusal(self, error: PilechainError) -> str:
        """What went wrong and what to do, in a driver's words."""
        known = error.code if self.knows(f"error.{error.code}") else "other"
        return self.text(f"error.{known}", code=error.code, message=str(error))

    # --- looking and acting --------------------------------------------------------------------------------------

    async def look(self, act: Callable[..., Answer], *arguments: object) -> Answer | None:
        """What a question answers now; None, and the banner says so, while nobody answers."""
        try:
            found = await self.clerk.look(act, *arguments)
        except LinkError:
            self.desk.trouble = "away_coordinator" if self.driver.is_connected else "away_broker"
            return None
        self.desk.trouble = ""
        return found

    def follow(self, act: Callable[..., Answer], show: Callable[[Answer], None], *arguments: object) -> None:
        """Show what a question answers, here, and again whenever the answer changes; while nobody answers it stands."""
        place, seen = ui.element("div").classes("pd-stack"), [object()]
        with place:
            ui.label(self.text("loading")).classes("pc-soft")

        async def refresh() -> None:
            try:
                found: Any = await self.look(act, *arguments)
            except PilechainError as error:
                found = _Told(self.refusal(error))
            if self._client.is_deleted or found is None or found == seen[0]:
                return
            seen[0] = found
            place.clear()
            with place:
                if isinstance(found, _Told):
                    ui.label(found).classes("pc-banner").props("role=alert")
                else:
                    show(found)

        self._refresh.append(refresh)
        ui.timer(REFRESH_S, refresh)

    def button(
        self,
        text: str,
        act: Callable[[], Awaitable[object]],
        *,
        main: bool = False,
        test: str = "",
    ) -> ui.button:
        """A button that does something once at a time, and says what went wrong."""

        async def press() -> None:
            if not button.enabled:
                return  # the second of two quick clicks
            button.disable()
            button.props("loading")
            try:
                await act()
                for refresh in self._refresh:
                    await refresh()
            except PilechainError as error:
                self.tell(self.refusal(error))
            finally:
                if not button.is_deleted:
                    button.props(remove="loading")
                    button.enable()

        button = large_button(text, press, main=main, test=test)
        return button

    def tell(self, text: str) -> None:
        """Say something that stays until it is closed."""
        if self._client.is_deleted:
            return
        with self._client:  # what the button stood in may have been drawn anew
            close = self.text("close")
            ui.notify(text, type="warning", position="top", timeout=0, multi_line=True, close_button=close)

    def go(self, path: str) -> None:
        """Show another page."""
        if not self._client.is_deleted:
            with self._client:
                ui.navigate.to(path)

    @contextmanager
    def dialog(self) -> Iterator[ui.dialog]:
        """A dialog that outlives what its button stood in, to be built within."""
        with self._client, ui.dialog() as dialog, ui.element("div").classes("pc-card pd-stack pd-dialog"):
            yield dialog

    async def sure(self, text: str, do: str) -> bool:
        """Whether somebody means it."""
        with self.dialog() as dialog:
            ui.label(text)
            large_button(do, lambda: dialog.submit("yes"), main=True, test="sure")
            large_button(self.text("back"), dialog.close)
        answer = await dialog
        dialog.delete()
        return bool(answer == "yes")


def large_button(
    text: str, act: Callable[[], object], *, main: bool = False, test: str = "", icon: str | None = None
) -> ui.button:
    """A button for a thumb; its colours are the style's, so that they follow light and dark."""
    button = ui.button(text, on_click=act, color=None, icon=icon).props(
        "no-caps unelevated" if main else "no-caps outline"
    )
    return button.classes("pd-button pd-main" if main else "pd-button").props(f"data-test={test}" if test else "")


def exact(micro: int) -> str:
    """An amount with two decimals, and as many more as it has."""
    tail = f"{abs(micro) % 1_000_000:06d}".rstrip("0")
    return written.fixed(micro, _MICRO_DECIMALS, max(_SHOWN_DECIMALS, len(tail)))
