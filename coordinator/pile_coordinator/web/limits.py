"""How often somebody may ask, in bounded memory: a bucket for each token and each address."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 10_000  # some 3 MB; beyond it the one that was idle longest is forgotten, which refills it
_NS = 1_000_000_000


class RateLimit:
    """Token buckets by name. Used by any thread."""

    def __init__(self, per_minute: int, burst: int, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Let each name ask `per_minute` times a minute for long, and `burst` times at once."""
        self._cost_ns = 60 * _NS // per_minute  # of one request
        self._room_ns = burst * self._cost_ns
        self._now_ns = now_ns
        self._until_ns: OrderedDict[str, int] = OrderedDict()  # when a bucket is full again (GCRA, ATM Forum TM 4.0)
        self._lock = threading.Lock()

    def take(self, name: str, cost: int = 1) -> int:
        """Count a request that costs `cost` ordinary ones: 0 if it may be, else in how many seconds to ask again."""
        with self._lock:
            now_ns = self._now_ns()
            full_ns = max(self._until_ns.get(name, 0), now_ns)
            wanted_ns = min(cost * self._cost_ns, self._room_ns)  # what costs more than a whole burst costs a burst
            over_ns = full_ns + wanted_ns - now_ns - self._room_ns
            if over_ns > 0:
                return -(-over_ns // _NS)
            self._keep(name, full_ns + wanted_ns)
            return 0

    def charge(self, name: str, cost: int) -> None:
        """Count something that has happened already, whether or not there was room for it."""
        with self._lock:
            now_ns = self._now_ns()
            until_ns = max(self._until_ns.get(name, 0), now_ns) + cost * self._cost_ns
            self._keep(name, min(until_ns, now_ns + 2 * self._room_ns))

    def _keep(self, name: str, until_ns: int) -> None:
        self._until_ns[name] = until_ns
        self._until_ns.move_to_end(name)
        if len(self._until_ns) > MAX_BUCKETS:
            self._until_ns.popitem(last=False)

    def __len__(self) -> int:
        return len(self._until_ns)

    @staticmethod
    def address(host: str) -> str:
        """The name of an address's bucket: of IPv6 the /64, as whoever has one address has them all."""
        try:
            parsed = ipaddress.ip_address(host)
        except ValueError:
            return "address ?"
        if parsed.version == 6 and parsed.ipv4_mapped is None:
            return f"address {ipaddress.ip_network((int(parsed) >> 64 << 64, 64)).network_address}/64"
        return f"address {parsed.ipv4_mapped or parsed if parsed.version == 6 else parsed}"
