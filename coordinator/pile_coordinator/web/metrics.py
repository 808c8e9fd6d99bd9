"""What the server counts, for Prometheus. Every label has few values: routes, roles and zones, never ids or addresses."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MAX_ZONES = 200  # that have series of their own; zones beyond it are in the API alone
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The series of one server, in a registry of its own."""

    def __init__(self) -> None:
        """Make all series."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pilechain_web_requests", "Requests that were answered", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "pilechain_web_request_seconds",
            "How long answers took, streams left out",
            ["route"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.refused = Counter("pilechain_web_refused", "Requests that were refused", ["reason"], registry=registry)
        self.streams = Gauge("pilechain_web_streams", "Live streams that are open", registry=registry)
        self.stream_blocks = Counter(
            "pilechain_web_stream_blocks", "Blocks that were sent to live streams", registry=registry
        )
        self.stalled = Counter(
            "pilechain_web_streams_stalled", "Live streams that were ended, as nobody read them", registry=registry
        )
        self.database_errors = Counter(
            "pilechain_web_database_errors", "Questions that the database did not answer", registry=registry
        )
        self.height = Gauge("pilechain_block_height", "Height of the last block in evidence", registry=registry)
        self.block_time = Gauge(
            "pilechain_block_time_seconds", "Time of the last block in evidence, unix seconds", registry=registry
        )
        self.price = Gauge(
            "pilechain_price_micro_per_kwh",
            "Last price in a zone at its dearest catalog price, micro per kWh",
            ["zone"],
            registry=registry,
        )
        self.open = Gauge(
            "pilechain_zone_open_wh", "Contracted energy not delivered yet, Wh", ["zone"], registry=registry
        )
        self.capacity = Gauge("pilechain_zone_capacity_wh", "Capacity of a zone, Wh", ["zone"], registry=registry)
        self.closed = Counter(
            "pilechain_contracts_closed",
            "Contracts that closed since the server began, by whether their user was anonymous or named",
            ["user"],
            registry=registry,
        )
        self.notes = Gauge(
            "pilechain_notes_outstanding", "Notes that are not spent", ["denomination"], registry=registry
        )
        self.notes_micro = Gauge(
            "pilechain_notes_outstanding_micro", "What they are worth, micro", ["denomination"], registry=registry
        )
        self._zones: set[str] = set()

    def show_closed(self, anonymous: int, named: int) -> None:
        """So many more contracts closed."""
        self.closed.labels("anonymous").inc(anonymous)
        self.closed.labels("named").inc(named)

    def show_notes(self, rows: list[dict[str, Any]]) -> None:
        """Notes by denomination, 32 at most, as `note_queries.anonymity` tells them; nothing of what is not known."""
        for row in rows:
            if row["outstanding"] is not None:
                self.notes.labels(str(row["denomination"])).set(row["outstanding"])
                self.notes_micro.labels(str(row["denomination"])).set(row["outstanding_micro"])

    def has_zone(self, zone: str) -> bool:
        """Whether a zone has series, or may still get them."""
        if zone not in self._zones and len(self._zones) < MAX_ZONES:
            self._zones.add(zone)
        return zone in self._zones
