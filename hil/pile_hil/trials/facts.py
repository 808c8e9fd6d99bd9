"""What a trial leaves behind for its judge and for the report: one JSON file beside ledger, journals, logs and certificates."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

FILE = "facts.json"


@dataclass(frozen=True, slots=True)
class Expects:
    """How an order ends if all is as it should be.

    Attributes:
        reason: of the END proof, as pile_shared.proof names it; "" if there is none. outcome: of the contract.
        lost_wh: how much of what flowed may be unsigned: what a meter that is silent or wrong at the end does not tell.
        alarms: reasons of ALARM proofs that have to be on the chain. said: words that the agent's log has to have.
        anomaly: the chain's word for what it does not believe of the pile, "" for nothing.
    """

    reason: str = "contracted energy reached"
    outcome: str = "confirmed"
    lost_wh: int = 1
    alarms: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    anomaly: str = ""


@dataclass(slots=True)
class OrderFacts:
    """One order of a trial: contract id in hex, its pile, and the meter's truth before and after."""

    pile: str
    contract: str
    energy_wh: int
    expects: Expects
    before_wh: int
    after_wh: int = -1
    outcome: str = ""
    certificate: str = ""


@dataclass(slots=True)
class Facts:
    """A whole trial.

    Attributes:
        scenario, rig: by name. piles: public key in hex, by pile. orders: in the order they were made.
        series: by pile, rows of unix ms, true Wh, Wh as the healthy register shows it, W.
        events: (unix ms, what happened), from the scenario. drained: through which proof each pile had receipts in the end.
        error: why the scenario could not go on; "" if it came to its end.
        real_s: how long it took. origin_ms, rate: of its clock. data: where in the trial's folder the ledger is.
    """

    scenario: str
    rig: str
    rate: int = 1
    origin_ms: int = 0
    chain_id: str = ""
    data: str = "site/coordinator"
    piles: dict[str, str] = field(default_factory=dict)
    orders: list[OrderFacts] = field(default_factory=list)
    series: dict[str, list[list[int]]] = field(default_factory=dict)
    events: list[tuple[int, str]] = field(default_factory=list)
    drained: dict[str, int] = field(default_factory=dict)
    error: str = ""
    real_s: float = 0.0

    def save(self, folder: Path) -> None:
        """Write it into a trial's folder."""
        (folder / FILE).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it from a trial's folder."""
        row: dict[str, Any] = json.loads((folder / FILE).read_text())
        for order in row["orders"]:
            expects: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in order["expects"].items()
            }
            order["expects"] = Expects(**expects)
        row["orders"] = [OrderFacts(**order) for order in row["orders"]]
        row["events"] = [(time_ms, what) for time_ms, what in row["events"]]
        return cls(**row)
