"""The systemd unit of a pile's agent: what it may do, and that it is started again whatever happens. CPython only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

STATE = "/var/lib/pile-edge"
UNIT_PATH = "/etc/systemd/system/pile-edge.service"
SYSUSERS_PATH = "/etc/sysusers.d/pile-edge.conf"
USER = "pile-edge"
WATCHDOG_S = 60  # a turn of the agent's loop takes 50 ms, and some seconds when the meter does not answer

SYSUSERS = f'# made by `pile-edge install`\nu {USER} - "Pilechain light client" {STATE}\n'

_UNIT = """# made by `pile-edge install`; a file of your own in pile-edge.service.d/ is kept
[Unit]
Description=Pilechain light client of pile {pile_id}
Documentation=man:systemd.exec(5)
# Not network-online.target: the pile charges and journals without a network.
After=network.target time-sync.target
# Never give up: nobody is there to start it by hand.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WatchdogSec={watchdog_s}
Restart=always
RestartSec=5
# It opens the contactor and says goodbye to the broker; that takes a second.
TimeoutStopSec=20

User={user}
Group={user}
SupplementaryGroups={groups}
UMask=0077
# All that is ever written: key, journal, configuration. The rest of the system may be read-only, or an image.
StateDirectory=pile-edge
StateDirectoryMode=0700
WorkingDirectory={state}
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes

NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
PrivateMounts=yes
KeyringMode=private
DevicePolicy=closed
DeviceAllow=char-ttyUSB rw
DeviceAllow=char-ttyACM rw
DeviceAllow=char-ttyAMA rw
DeviceAllow=char-ttyS rw
DeviceAllow=char-gpiochip rw
DeviceAllow=char-tpm rw
DeviceAllow=char-i2c rw
SystemCallArchitectures=native
SystemCallFilter=@system-service
# Asking the kernel whether the clock is synchronised is a call of the group that sets it; without CAP_SYS_TIME it cannot.
SystemCallFilter=adjtimex clock_adjtime clock_adjtime64
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Service:
    """What differs from pile to pile.

    Attributes:
        pile_id: For people. python: The interpreter that has this package. groups: those of serial ports and pins that
            exist on this machine (systemd refuses a unit that names one that does not).
    """

    pile_id: str
    python: str
    groups: tuple[str, ...]

    def unit(self) -> str:
        """The unit file."""
        return _UNIT.format(
            pile_id=self.pile_id,
            command=f"{self.python} -m pile_edge.cli run --config {STATE}/pile.toml",
            watchdog_s=WATCHDOG_S,
            user=USER,
            groups=" ".join(self.groups),
            state=STATE,
            # An interpreter in somebody's home must be readable from there.
            home="read-only" if PurePosixPath(self.python).parts[1] in {"home", "root"} else "yes",
        )
