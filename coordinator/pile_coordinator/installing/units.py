"""The systemd units of a site (systemd.service(5), systemd.exec(5)): what each program may do, and that it is started again.

Two users. The site's files are `pilechain`'s: its commands, coordinator and broker run as this user, each of these in a file
system from which what it does not need is missing, the certificate authority above all. `pilechain-web` talks to browsers: it
reads ledger and evidence as a member of the group pilechain, can read no key (they are for their owner alone), and writes
nothing. All of them log to the journal.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

USER, WEB_USER = "pilechain", "pilechain-web"
UNITS = "/etc/systemd/system"
COORDINATOR, WEB, WORKER = "pilechain-coordinator.service", "pilechain-web.service", "pilechain-worker@.service"
BACKUP, BACKUP_TIMER = "pilechain-backup.service", "pilechain-backup.timer"
BROKER = "mosquitto.service"
BROKER_DROP_IN = f"{UNITS}/{BROKER}.d/pilechain.conf"
SYSUSERS_PATH = "/etc/sysusers.d/pilechain.conf"
JOURNALD_PATH = "/etc/systemd/journald.conf.d/pilechain.conf"
MADE = "# made by `pilechain install services`"

SYSUSERS = f"""{MADE}
u {USER} - "Pilechain coordinator"
u {WEB_USER} - "Pilechain web server"
m {WEB_USER} {USER}
"""

# 2 GiB hold some months of a busy coordinator's lines; without a bound the journal may take a tenth of the disk.
JOURNALD = f"""{MADE}
[Journal]
Storage=persistent
SystemMaxUse=2G
SystemKeepFree=1G
MaxRetentionSec=1year
"""

# Folders of a site, as `pilechain init site` makes them: whoever needs one says so.
_SECRET = ("authority", "broker", "coordinators", "keys", "users", "piles", "guests", "workers", "fleets", "watchers")

# systemd.exec(5). Nobody here needs a right, a device, another's process, or to see the rest of the file system change.
_SANDBOX = """NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateUsers={private_users}
DevicePolicy=closed
ProtectClock=yes
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
MemoryDenyWriteExecute={no_new_code}
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

_SERVICE = """{made}; a file of your own in {name}.d/ is kept
[Unit]
Description={description}
Documentation=man:systemd.exec(5)
{order}
# Never give up: whatever keeps it from starting is mended while it tries.
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
Restart=always
RestartSec=5
TimeoutStopSec=60
User={user}
Group={group}
UMask=0027
WorkingDirectory={site}
# Nothing needs to write Python's caches beside the program.
Environment=PYTHONDONTWRITEBYTECODE=1
MemoryMax={memory}
TasksMax=256
LimitNOFILE={files}
LimitCORE=0
{writes}
{sandbox}
[Install]
WantedBy=multi-user.target
"""

_BACKUP = """{made}; a file of your own in {name}.d/ is kept
[Unit]
Description=Backup of the Pilechain site in {site}
Documentation=man:systemd.timer(5)
After={coordinator}

[Service]
Type=oneshot
ExecStart={command}
User={user}
Group={user}
UMask=0077
WorkingDirectory={site}
Environment=PYTHONDONTWRITEBYTECODE=1
MemoryMax=2G
LimitCORE=0
Nice=10
IOSchedulingClass=idle
{writes}
{sandbox}"""

_TIMER = """{made}; a file of your own in {name}.d/ is kept
[Unit]
Description=Backups of the Pilechain site in {site}

[Timer]
OnCalendar=*-*-* 00/6:20:00
RandomizedDelaySec=10min
Persistent=yes

[Install]
WantedBy=timers.target
"""

_BROKER = """{made}: Debian's service runs this site's broker
[Unit]
Documentation=man:mosquitto.conf(5)
StartLimitIntervalSec=0

[Service]
# It begins as the user it stays: nothing is read, bound or made as root. What it keeps lies in its folder.
ExecStartPre=
ExecStart=
ExecStart=/usr/sbin/mosquitto -c {config}
User={user}
Group={user}
UMask=0077
Restart=always
RestartSec=2
{writes}
MemoryMax=2G
LimitNOFILE={files}
LimitCORE=0
{sandbox}"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a site and its program are.

    Attributes:
        config: the coordinator's configuration. web, broker: of the web server and of mosquitto; None: there is none here.
        python: the interpreter that has this package. data: the coordinator's folder. backups: where they go, None: nowhere.
        piles: for how many the broker and the coordinator have room. mirror: of the blocks, None: there is none.
        needs_mirror: the coordinator does nothing without it.
    """

    config: PurePosixPath
    web: PurePosixPath | None
    broker: PurePosixPath | None
    python: str
    data: PurePosixPath
    backups: PurePosixPath | None
    piles: int
    mirror: PurePosixPath | None = None
    needs_mirror: bool = True

    @property
    def mirror_writes(self) -> str:
        """The mirror among the folders that a program writes; it may be away, which the program itself says better."""
        return "" if self.mirror is None else f" -{self.mirror}"

    @property
    def site(self) -> PurePosixPath:
        """The folder in which all of it lies."""
        return self.config.parent

    def hidden(self, *needed: str) -> str:
        """The line that takes secret folders of the site away from a program that does not need them."""
        folders = [name for name in _SECRET if name not in needed]
        return f"InaccessiblePaths={' '.join(f'-{self.site}/{name}' for name in folders)}"

    @property
    def broker_files(self) -> int:
        """File descriptors of the broker: one a connection, as many again for those that come back before the old end."""
        return 2 * self.piles + 1024

    def command(self, *words: str) -> str:
        """How systemd starts this program."""
        return " ".join((self.python, "-m", "pile_coordinator.cli", *words))

    def sandbox(self, *, no_new_code: bool = True, private_users: bool = True) -> str:
        """What a program may do; `no_new_code`: none that it wrote itself, which a just-in-time compiler would need."""
        # An interpreter in somebody's home must be readable from there.
        parts = {PurePosixPath(self.python).parts[1], self.site.parts[1]}
        return _SANDBOX.format(
            home="read-only" if parts & {"home", "root"} else "yes",
            no_new_code="yes" if no_new_code else "no",
            private_users="yes" if private_users else "no",
        )


def unit_files(place: Place) -> dict[str, str]:
    """Text by path, of every unit of a site."""
    files = {
        f"{UNITS}/{COORDINATOR}": _coordinator(place),
        f"{UNITS}/{WORKER}": _worker(place),
        SYSUSERS_PATH: SYSUSERS,
        JOURNALD_PATH: JOURNALD,
    }
    if place.web is not None:
        files[f"{UNITS}/{WEB}"] = _web(place, place.web)
    if place.broker is not None:
        files[BROKER_DROP_IN] = _broker(place, place.broker)
    if place.backups is not None:
        files[f"{UNITS}/{BACKUP}"] = _backup(place, place.backups)
        files[f"{UNITS}/{BACKUP_TIMER}"] = _TIMER.format(made=MADE, name=BACKUP_TIMER, site=place.site)
    return files


def _coordinator(place: Place) -> str:
    order = f"Wants=network-online.target\nAfter=network-online.target time-sync.target {BROKER} mariadb.service"
    if place.mirror is not None and place.needs_mirror:
        order += f"\nRequiresMountsFor={place.mirror}"
    return _SERVICE.format(
        made=MADE,
        name=COORDINATOR,
        description=f"Pilechain coordinator of {place.site}",
        order=order,
        command=place.command("run", "--config", str(place.config)),
        user=USER,
        group=USER,
        site=place.site,
        memory="75%",
        files=4096,  # ledger, evidence, connections to the broker and to its verifiers: it has few open, whatever comes
        writes=f"ReadWritePaths={place.data}{place.mirror_writes}\n{place.hidden('keys', 'coordinators', 'workers')}",
        sandbox=place.sandbox(),
    )


def _web(place: Place, config: PurePosixPath) -> str:
    return _SERVICE.format(
        made=MADE,
        name=WEB,
        description=f"Pilechain dashboard and HTTP API of {place.site}",
        order=f"After=network-online.target {COORDINATOR}\nWants=network-online.target",
        command=place.command("web", "--config", str(config)),
        user=WEB_USER,
        group=USER,
        site=place.site,
        memory="1G",
        files=4096,  # web/serve.py lets a thousand in at once
        # It reads only; the dashboard's library keeps a folder, which may be gone the next time.
        writes=f"Environment=NICEGUI_STORAGE_PATH=/tmp/nicegui\n{place.hidden()}",
        sandbox=place.sandbox(),
    )


def _worker(place: Place) -> str:
    return _SERVICE.format(
        made=MADE,
        name=WORKER,
        description="Pilechain verify worker %i",
        order=f"After=network-online.target {BROKER}\nWants=network-online.target",
        command=place.command("verify-worker", "--config", f"{place.site}/worker-%i.toml"),
        user=USER,
        group=USER,
        site=place.site,
        memory="512M",
        files=1024,
        writes=f"# It writes nothing at all.\n{place.hidden('workers')}",
        sandbox=place.sandbox(),
    )


def _backup(place: Place, backups: PurePosixPath) -> str:
    prune = () if place.mirror is None else ("--prune-mirror",)
    return _BACKUP.format(
        made=MADE,
        name=BACKUP,
        site=place.site,
        coordinator=COORDINATOR,
        command=place.command("backup", "--config", str(place.config), "--to", str(backups), "--keep", "28", *prune),
        user=USER,
        writes=f"ReadWritePaths={backups} {place.data}{place.mirror_writes}",
        sandbox=place.sandbox(),
    )


def _broker(place: Place, config: PurePosixPath) -> str:
    return _BROKER.format(
        made=MADE,
        config=config,
        user=USER,
        writes=f"ReadWritePaths={config.parent}\n{place.hidden(config.parent.name)}",
        files=place.broker_files,
        # Type=notify of the package's unit: systemd hears the broker as root's process only outside a user namespace.
        sandbox=place.sandbox(private_users=False),
    )
