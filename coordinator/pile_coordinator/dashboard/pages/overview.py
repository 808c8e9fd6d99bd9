"""The first page: what the market is doing now."""

from pile_coordinator.dashboard import shell
from pile_coordinator.dashboard.shell import View, page


@page("/", route="live", title="overview.title", menu=10)
async def show(view: View) -> None:
    """The page."""
    shell.title(view.text("overview.title"))
