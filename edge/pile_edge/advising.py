"""The light client as people meet it on CPython: its log also says what to check, as text or as JSON. Not on boards."""

import json

from pile_edge.advice import advice
from pile_edge.agent import Agent
from pile_edge.ports import cpython
from pile_edge.settings import Settings
from pile_shared.errors import BusError


class Sayer:
    """Says things line by line on stdout: as text, or each as a JSON object for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, text: str, **fields: object) -> None:
        """Say `text`; as JSON `fields` instead, or where there are none {"time_ms", "log": text}."""
        if self._as_json:
            text = json.dumps(fields or {"time_ms": cpython.wall_ms(), "log": text})
        print(text, flush=True)


class SayingPort:
    """The port to CPython with a log of one's own."""

    def __init__(self, say: Sayer) -> None:
        self.log = say

    def __getattr__(self, name: str) -> object:
        return getattr(cpython, name)


class AdvisingAgent(Agent):
    """The light client that, when the meter begins to fail, also says what an electrician should check."""

    def __init__(self, config: Settings, port, link=None, control=None) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """As Agent, which lets go of the configuration that advice needs."""
        self._bus_spec, self._meter_unit = dict(config.bus), config.unit
        super().__init__(config, port, link, control)

    def _measure(self) -> None:
        before = self._troubled
        super()._measure()
        if self._troubled not in {"", before}:
            words = advice(BusError("", self._troubled), self._bus_spec, self._meter_unit)
            if words:
                self._log("  check: " + words)
