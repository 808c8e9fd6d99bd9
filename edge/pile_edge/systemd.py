"""The systemd unit of a pile's agent: what it may do, and that it is started again whatever happens. CPython only.

A machine with one pile has `pile-edge.service`. Further piles of a garage are instances of a template,
`pile-edge@NAME.service` (systemd.unit(5)), each with a state folder of its own; all run as the same user.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

STATE = "/var/lib/pile-edge"
UNIT_PATH = "/etc/systemd/system/pile-edge.service"
TEMPLATE_PATH = "/etc/systemd/system/pile-edge@.service"
WANTS = "/etc/systemd/system/multi-user.target.wants"  # where `systemctl enable` links what starts at boot
SYSUSERS_PATH = "/etc/sysusers.d/pile-edge.conf"
USER = "pile-edge"
WATCHDOG_S = 60  # a turn of the agent's loop takes 50 ms, and some seconds when the meter does not answer

SYSUSERS = f'# made by `pile-edge install`\nu {USER} - "Pilechain light client" {STATE}\n'

_UNIT = """# made by `pile-edge install`; a file of your own in {unit_name}.d/ is kept
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
StateDirectory={state_name}
StateDirectoryMode=0700
WorkingDirectory={state}
ProtectSystem=strict
# Agents, and people who read or scan beside them, take turns on a serial line by a lock that lies in memory.
ReadWritePaths=-/run/lock
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
class Place:
    """Where one pile lives on this machine.

    Attributes:
        name: Of the instance: letters, digits, "-"; "" for the only pile of a machine.
    """

    name: str = ""

    @property
    def state(self) -> str:
        """The folder of its configuration, key and journal."""
        return f"{STATE}-{self.name}" if self.name else STATE

    @property
    def unit_path(self) -> str:
        """The file of its unit; one template for all that have a name."""
        return TEMPLATE_PATH if self.name else UNIT_PATH

    @property
    def service(self) -> str:
        """What systemctl calls it."""
        return f"pile-edge@{self.name}.service" if self.name else "pile-edge.service"


@dataclass(frozen=True)
class Service:
    """What differs from pile to pile.

    Attributes:
        pile_id: For people. python: The interpreter that has this package. groups: those of serial ports and pins that
            exist on this machine (systemd refuses a unit that names one that does not). is_template: for any number of
            piles, whose name systemd puts in.
    """

    pile_id: str
    python: str
    groups: tuple[str, ...]
    is_template: bool = False

    def unit(self) -> str:
        """The unit file."""
        state = Place("%i" if self.is_template else "").state
        return _UNIT.format(
            unit_name="pile-edge@.service" if self.is_template else "pile-edge.service",
            pile_id="%i" if self.is_template else self.pile_id,
            command=f"{self.python} -m pile_edge.cli run --config {state}/pile.toml",
            watchdog_s=WATCHDOG_S,
            user=USER,
            groups=" ".join(self.groups),
            state=state,
            state_name=PurePosixPath(state).name,
            # An interpreter in somebody's home must be readable from there.
            home="read-only" if PurePosixPath(self.python).parts[1] in {"home", "root"} else "yes",
        )
