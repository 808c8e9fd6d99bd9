"""A pile on a Raspberry Pi, or any Linux, over SSH: its agent, started there as on this PC."""

import shlex
import time
from contextlib import suppress
from pathlib import Path

import attr
from labgrid import target_factory
from labgrid.driver import Driver, ExecutionError, SSHDriver
from labgrid.resource import Resource

from pile_hil.lab.bench import bench_of
from pile_hil.lab.protocols import PileProtocol, RigError
from pile_hil.site import public_of

BOOT_S = 180  # a Raspberry Pi 3 from power to SSH, twice over
STOP_S = 20
LOG_S = 0.5  # between two looks at the log over the network
MAX_CLOCK_OFFSET_MS = 300  # at 60 times the speed of time this is 18 s, less than a reading's interval


@target_factory.reg_resource
@attr.s(eq=False)
class PileHost(Resource):
    """Where the agent lives on the machine behind a NetworkService.

    Attributes:
        folder: for configuration, key, journal and log; emptied at each trial. Relative to the user's own folder.
        agent: the command `pile-edge` there.
    """

    folder: str = attr.ib(default="pilechain-rig", validator=attr.validators.matches_re(r"[\w./-]*\w[\w./-]*"))
    agent: str = attr.ib(default="pile-edge", validator=attr.validators.instance_of(str))


@target_factory.reg_driver
@attr.s(eq=False)
class PiPileDriver(Driver, PileProtocol):
    """The agent over SSH."""

    bindings = {"ssh": SSHDriver, "host": PileHost}
    interpreter = "cpython"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._log = ""
        self._looked_s = 0.0

    @Driver.check_active
    def prepare(self) -> bytes:
        """Put its configuration in place and let it make its key."""
        self._check_clock()
        site, name = bench_of(self).opened(), self.target.name
        config = site.folder / f"{name}.toml"
        config.write_text(site.pile_config(name))
        folder = shlex.quote(self.host.folder)
        self._run(f"rm -rf {folder} && mkdir -p {folder}")
        self.ssh.put(str(config), f"{self.host.folder}/pile.toml")
        return public_of("\n".join(self._run(f"cd {folder} && {self.host.agent} key --config pile.toml")), name)

    @Driver.check_active
    def start(self) -> None:
        """Start the agent; after a power cut, once the machine answers again."""
        self._reconnect()
        # All three streams are its own, else ssh waits for it.
        self._run(
            f"cd {shlex.quote(self.host.folder)} && {{ setsid nohup {self.host.agent} run --config pile.toml"
            " >> agent.log 2>&1 < /dev/null & echo $! > agent.pid; }"
        )

    @Driver.check_active
    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        self._signal("TERM")
        deadline = time.monotonic() + STOP_S
        while self.running():
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.1)

    @Driver.check_active
    def kill(self) -> None:
        """SIGKILL."""
        self._signal("KILL")

    @Driver.check_active
    def running(self) -> bool:
        """Whether the agent runs."""
        return self._ask(f"kill -0 $(cat {self._path('agent.pid')})")[2] == 0

    def log(self) -> str:
        """All it has logged, as of half a second ago; while it has no power, as of before."""
        if time.monotonic() - self._looked_s >= LOG_S:
            self._looked_s = time.monotonic()
            with suppress(ExecutionError):
                seen = len(self._log.encode())
                lines = self._run(f"tail -c +{seen + 1} {self._path('agent.log')} 2>/dev/null | head -c 1000000")
                self._log += "".join(f"{line}\n" for line in lines)
        return self._log

    @Driver.check_active
    def fetch_journal(self, folder: Path) -> None:
        """Copy its journal, and hear the end of its log."""
        self._looked_s = 0.0
        self.log()
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.ssh.get(f"{self.host.folder}/journal", str(folder))

    def _check_clock(self) -> None:
        before_ns = time.time_ns()
        there_ns = int(self._run("date +%s%N")[0])
        offset_ms = max(before_ns - there_ns, there_ns - time.time_ns(), 0) // 1_000_000
        if offset_ms > MAX_CLOCK_OFFSET_MS:
            raise RigError(
                f"{self.target.name}: its clock is {offset_ms} ms off this PC's: let both follow one NTP server"
            )

    def _reconnect(self) -> None:
        """Connect anew unless the connection stands; RigError after BOOT_S."""
        deadline = time.monotonic() + BOOT_S
        while self._ask("true")[2] != 0:
            if time.monotonic() > deadline:
                raise RigError(f"{self.target.name} does not answer SSH {BOOT_S} s after its power came")
            with suppress(Exception):  # labgrid raises no narrower one while nobody answers
                self.ssh.on_deactivate()
            with suppress(Exception):
                self.ssh.on_activate()

    def _signal(self, name: str) -> None:
        self._ask(f"kill -{name} $(cat {self._path('agent.pid')})")

    def _path(self, name: str) -> str:
        return shlex.quote(f"{self.host.folder}/{name}")

    def _ask(self, command: str) -> tuple[list[str], list[str], int]:
        """Output, errors and status of a command; 255 while nobody answers."""
        try:
            done: tuple[list[str], list[str], int] = self.ssh.run(command)
        except ExecutionError:
            return [], [], 255
        return done

    def _run(self, command: str) -> list[str]:
        """The lines a command prints; ExecutionError if it fails."""
        lines: list[str] = self.ssh.run_check(command)
        return lines
