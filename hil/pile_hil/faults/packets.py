"""TCP packets of one loopback port that are lost, by nftables: the one kind of loss that a network really has.

TCP sends them again, ever more slowly; when all are lost it is a partition, connections half open on both sides.
"""

import subprocess
from typing import Self

from pile_hil.faults import FaultError


class PacketLoss:
    """Loss on one TCP port of this machine, or of the namespace that the calling thread is in. Use as a context manager.

    It is a table of its own that names that port and nothing else, gone with `close`.
    """

    def __init__(self, port: int) -> None:
        """No packet is lost yet."""
        self._port = port
        self._table = f"pile_fault_{port}"
        self._is_there = False

    def __enter__(self) -> Self:
        """Make the table. FaultError if nft is missing or this user may not."""
        _nft(f"add table inet {self._table}")
        self._is_there = True
        _nft(f"add chain inet {self._table} input {{ type filter hook input priority 0 ; }}")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Every packet arrives again."""
        if self._is_there:
            self._is_there = False
            _nft(f"delete table inet {self._table}")

    def lose(self, percent: int) -> None:
        """Lose so many of a hundred packets in each direction; 100 is a partition, 0 ends it."""
        _nft(f"flush chain inet {self._table} input")
        if not percent:
            return
        which = "" if percent >= 100 else f"numgen random mod 100 < {percent}"
        for side in ("dport", "sport"):
            _nft(f'add rule inet {self._table} input iifname "lo" tcp {side} {self._port} {which} drop')


def has_packet_loss() -> bool:
    """Whether this user on this machine may lose packets."""
    try:
        with PacketLoss(1) as loss:
            loss.lose(50)
            return True
    except FaultError:
        return False


def _nft(rule: str) -> None:
    try:
        done = subprocess.run(["nft", rule], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError as error:
        raise FaultError("nft is missing (apt install nftables)") from error
    if done.returncode:
        raise FaultError(f"nft {rule}: {done.stderr.strip()}; this needs root")
