"""Faults for real processes: each a class that begins a fault, ends it, and puts the machine back when it is closed.

    disk.py      an ext4 of its own: power cuts that lose what was not synced, full, errors that make it read-only
    syscalls.py  a running process whose fsync is slow or fails (strace)
    proxy.py     between a client and a broker: delay, bandwidth, stalls, resets; MQTT packets lost, twice, out of order
    packets.py   TCP packets of one loopback port that are lost, some or all (nftables)
    clock.py     a Python process whose wall clock leaps or drifts
    power.py     SIGKILL at a moment nobody chose, and everything again a while later

None knows a scenario; all say with a `FaultError` what a machine lacks for them.
"""

from pile_shared.errors import PilechainError


class FaultError(PilechainError):
    """A fault that cannot be brought about here; the message says what is missing."""

    code = "fault"
