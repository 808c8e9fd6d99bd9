"""What a scenario puts between the processes of its site before they start; all of it is gone when the trial ends.

`who` is a pile, or `coordinator`. Each function plans the site, which must not be open yet.
"""

from pile_hil.faults.clock import FakeClock
from pile_hil.faults.disk import Disk
from pile_hil.faults.packets import PacketLoss
from pile_hil.faults.proxy import Proxy
from pile_hil.site import SiteProcess
from pile_hil.trials.trial import Trial

COORDINATOR = "coordinator"
WHAT_IT_KEEPS = "journal"  # of a pile, in its folder


def proxy_of(trial: Trial, who: str, *, seed: int = 0) -> Proxy:
    """A proxy between somebody and the broker."""
    trial.plan()
    proxy = trial.use(Proxy(trial.site.port, host=trial.site.host, seed=seed))
    trial.site.broker_ports[who] = proxy.port
    return proxy


def packets_of(trial: Trial, who: str) -> PacketLoss:
    """Loss of TCP packets between somebody and the broker."""
    return trial.use(PacketLoss(proxy_of(trial, who).port))


def disk_of(trial: Trial, who: str, size_mib: int = 16) -> Disk:
    """A disk for a pile's journal, or for ledger and evidence."""
    trial.plan()
    site = trial.site
    path = site.data if who == COORDINATOR else site.folder / who / WHAT_IT_KEEPS
    return trial.use(Disk(path, size_mib))


def clock_of(trial: Trial, who: str) -> FakeClock:
    """A clock of somebody's own. It counts real time: see `real_ms`."""
    trial.plan()
    clock = FakeClock(trial.folder / f"clock-of-{who}")
    trial.site.prefixes[who] = clock.prefix
    return clock


def real_ms(trial: Trial, minutes: int) -> int:
    """So many minutes of the site's time in milliseconds of the machine's."""
    return minutes * 60_000 // trial.site.clock.rate


def process_of(trial: Trial, who: str) -> SiteProcess:
    """The process of somebody, as it runs now."""
    return trial.site.processes[who]
