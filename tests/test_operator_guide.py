"""The operator's guide, typed line by line on a bare Debian 12 with systemd as its process 1: it ends with a settled order.

The site's machine is real but for its kernel (pile_hil.bare). The pile is another machine: its agent runs beside it, in the same
network, with simulated hardware on a serial line. What a machine without the right to set the clock cannot have is a clock that
is synchronised: of all the doctor's checks that one may fail.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pile_hil.bare import BareMachine, has_bare_machines
from pile_hil.process import RigProcess
from pile_hil.requirements import require
from pile_hil.site import SiteError, SiteProcess, wait_for

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "operator.md"
SITE = "/var/lib/pilechain"
PILE = "garage-17"
HARDWARE = {"id": PILE, "bus": "bus", "profile": "eastron-sdm630", "serial": 63000117, "rated_power_w": 7000}
SETTLED = re.compile(r"proof (\d+) end .*receipt through \1 of", re.DOTALL)
CHARGED_WH = 3  # two seconds of charging are enough to be paid for


class Reader:
    """Who types what the guide says, and keeps what is printed for the lines that need it."""

    def __init__(self, machine: BareMachine, folder: Path) -> None:
        self.machine, self.pile = machine, folder / "pile"
        self.folder = "/root"
        self.known: dict[str, str] = {}
        self.findings: list[dict[str, str]] = []
        self.said = ""
        self.begun_s = time.monotonic()
        self.rig: RigProcess | None = None
        self.agent: SiteProcess | None = None

    def read(self, text: str) -> None:
        """Every block for the site's machine and for the pile, in order."""
        for where, block in re.findall(r"```sh( pile)?\n(.*?)```", text, re.DOTALL):
            for line in block.strip().splitlines():
                for name, value in self.known.items():
                    line = line.replace(name, value)  # noqa: PLW2901
                self.at_the_pile(line) if where else self.at_the_site(line)

    def at_the_site(self, line: str) -> None:
        if line.startswith("cd "):
            self.folder = line.removeprefix("cd ")
            return
        if " stop " in line:
            wait_for(lambda: self.truth() > CHARGED_WH, 60, "the car to charge", self.agent)
        if " confirm " in line:  # when the session has ended, says the guide: the chain has the pile's last proof
            wait_for(lambda: SETTLED.search(self.agent.text()) is not None, 150, "the session to end", self.agent)
        if line.startswith("pilechain doctor"):
            self.look(line)
            return
        downloads = line.startswith("apt-get ") or "/pip install" in line
        deadline = time.monotonic() + 90
        while True:
            done = self.machine.type(line, folder=self.folder, downloads=downloads, check=False)
            if done.returncode == 0:
                break
            # What the chain does not know yet it may know in a moment: a person would look again.
            if not re.search(" confirm | certificate ", line) or time.monotonic() > deadline:
                raise SiteError(f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        print(f"{time.monotonic() - self.begun_s:6.1f} s  {line}")
        self.said = done.stdout
        self.learn(line, done.stdout)

    def look(self, line: str) -> None:
        """The doctor says what a person waits for, and nothing that a machine of this kind could have is missing."""

        def is_up() -> bool:
            done = self.machine.type(f"{line} --json", folder=self.folder, check=False)
            self.findings = [json.loads(one) for one in done.stdout.splitlines()]
            failed = {found["check"] for found in self.findings if found["state"] == "fail"}
            return bool(self.findings) and failed <= {"clock"}

        try:
            wait_for(is_up, 90, "the site to be well")
        except SiteError:
            print(*self.findings, sep="\n")
            raise
        shown = self.machine.type(line, folder=self.folder, check=False)
        assert "0 failed" in shown.stdout or "1 failed" in shown.stdout

    def at_the_pile(self, line: str) -> None:
        """On the machine around it, in the site's network, with the folder that was handed over."""
        if self.rig is None:
            handed_over = self.machine.root.joinpath(SITE.lstrip("/"), "piles", PILE)
            self.pile.mkdir()
            for path in handed_over.iterdir():
                (self.pile / path.name).write_bytes(path.read_bytes())
                (self.pile / path.name).chmod(0o600)
            config = {"buses": {"bus": {"kind": "rtu", "baud": 9600}}, "piles": [{**HARDWARE, "plugged": True}]}
            self.rig = RigProcess(config, self.pile)
        words = line.replace("/dev/ttyUSB0", self.rig.bus_specs["bus"]["device"]).split()
        command = [*self.machine.network, sys.executable, "-m", "pile_edge.cli", *words[1:]]
        command = ["env", "--chdir", str(self.pile), *command]
        if words[1] == "run":
            self.agent = SiteProcess("pile", command, self.pile / "pile.log")
            self.agent.start()
            return
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        if words[1] == "provision":
            self.known["FINGERPRINT"] = re.search(r"(?:[0-9a-f]{4} ){15}[0-9a-f]{4}", done.stdout).group()
            request = (self.pile / "pile.registration.json").read_bytes()
            self.machine.root.joinpath(SITE.lstrip("/"), "pile.registration.json").write_bytes(request)
        else:
            assert "energy_wh 0" in done.stdout

    def learn(self, line: str, printed: str) -> None:
        words = dict(row.split(None, 1) for row in printed.splitlines() if len(row.split(None, 1)) == 2)
        if line.endswith(" new"):
            self.known[f"{line.split('users/')[1].split('/', maxsplit=1)[0].upper()}-PUBLIC"] = words["public"]
        if " bid " in line:
            self.known["ORDER"] = words["transaction"]
        if " verify " in line:
            assert re.search("VALID order.cbor: .* confirmed", printed), printed

    def truth(self) -> int:
        assert self.rig is not None
        return int(self.rig.truth(PILE)["energy_wh"])

    def close(self) -> None:
        if self.agent is not None:
            print(self.agent.text()[-3000:])
            self.agent.stop()
        if self.rig is not None:
            self.rig.stop()


@pytest.mark.timeout(600)
def test_the_guide_ends_with_a_settled_order(tmp_path):
    require(has_bare_machines(), "bare machines need root and mmdebstrap: apt install mmdebstrap")
    bin_folder = Path(sys.executable).parent
    subprocess.run(["make", "--silent", "wheel", "READY=", f"BIN={bin_folder}"], cwd=ROOT, check=True, timeout=120)
    with BareMachine(tmp_path / "machine") as machine:
        for path in (ROOT / "dist").iterdir():
            (machine.root / "root" / path.name).write_bytes(path.read_bytes())
        reader = Reader(machine, tmp_path)
        try:
            reader.read(GUIDE.read_text())
            assert re.search(rf"contract +confirmed .* {PILE} +3000 +\d+ ", reader.said), reader.said
            warned = {found["check"] for found in reader.findings if found["state"] == "warn"}
            assert warned <= {"data", "mirror"}  # a busy disk is slow, and the guide's site has no second one
            assert {found["check"] for found in reader.findings} >= {"broker", "access", "services", "backups"}
            the_services_are_confined(machine)
            the_dashboard_answers(machine)
        finally:
            reader.close()
            print(
                machine.type(
                    "journalctl --unit 'pilechain-*' --unit mosquitto --no-pager | tail -40", check=False
                ).stdout
            )


def the_services_are_confined(machine: BareMachine) -> None:
    """As the running processes see the site, even root among them."""
    for service, hidden in (("web", ("keys", "authority", "users")), ("coordinator", ("authority", "users", "broker"))):
        pid = machine.type(f"systemctl show --property=MainPID --value pilechain-{service}").stdout.strip()
        for folder in hidden:
            assert machine.type(f"ls -A /proc/{pid}/root{SITE}/{folder}").stdout == "", (service, folder)
            assert machine.type(f"ls -A {SITE}/{folder}").stdout, folder
        status = machine.type(f"cat /proc/{pid}/status").stdout
        assert "CapBnd:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


def the_dashboard_answers(machine: BareMachine) -> None:
    """In the machine's own network; the height is that of the settled order's blocks."""
    ask = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8410/healthz', timeout=20).read().decode())"
    done = subprocess.run(
        [*machine.network, sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout)["height"] >= 10
