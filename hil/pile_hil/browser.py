"""A real headless Chromium for tests, benches and screenshots."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MISSING = "needs Chromium and playwright: tools/servers installs the first, or set PILECHAIN_CHROMIUM to its path"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """The path of a Chromium: PILECHAIN_CHROMIUM, or the first one on PATH; None if there is none."""
    return os.environ.get("PILECHAIN_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def has_browser() -> bool:
    """Whether `browser` can be used here."""
    try:
        import playwright  # noqa: F401, PLC0415 - a test tool, which the package is installed without
    except ModuleNotFoundError:
        return False
    return find_chromium() is not None


@contextmanager
def browser() -> "Iterator[Browser]":
    """A running headless Chromium, which asks nobody for anything by itself; playwright must be installed."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as tools:
        found = tools.chromium.launch(executable_path=find_chromium(), args=list(_QUIET))
        try:
            yield found
        finally:
            found.close()
