"""A bare Debian machine for operators' tests: mmdebstrap's packages, namespaces of its own, systemd as its process 1.

Everything in it is real but the kernel, which it shares: packages are installed, units run with their sandboxes, the network
is its own and leads nowhere. What downloads, and only that, is run in the network of the machine around it. Its clock cannot
be set, and it cannot reboot, load modules or change the kernel's settings: it has no right to. It ends with the process that
made it.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from pile_hil.site import SiteError

DEBIAN = "bookworm"
_MAKE_S, _BOOT_S, _COMMAND_S = 300, 120, 300
_CACHE_DAYS = 7  # after that packages have moved on, and it would download most of them again anyway
# No manuals and no translations: nobody reads here.
_LEAVE_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_RIGHTS = "-sys_time,-sys_module,-sys_rawio,-sys_boot,-syslog,-mac_admin,-mac_override"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

ADDRESS = "10.77.0.1"  # its own, of a network that is in the machine alone

# What a container's manager prepares for systemd (systemd.io/CONTAINER_INTERFACE).
_BOOT = f"""
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ip link set lo up
ip link add eth0 type veth peer name wire
ip addr add {ADDRESS}/24 dev eth0
ip link set wire up; ip link set eth0 up
echo bare > etc/hostname
pivot_root . mnt
umount --lazy mnt
exec env -i container=pilechain PATH={_PATH} setpriv --bounding-set={_NO_RIGHTS} \\
  /lib/systemd/systemd --system --log-target=journal --show-status=0
"""


class BareMachine:
    """A Debian with systemd that has just been installed. Use as a context manager; needs root and mmdebstrap."""

    def __init__(self, root: Path) -> None:
        """Plan a machine whose file system is in the folder `root`, which is made."""
        self.root = root
        self._boot: subprocess.Popen[bytes] | None = None
        self._first = 0  # its process 1, as we see it

    def __enter__(self) -> Self:
        """Install and boot it.

        Raises:
            SiteError: this machine does not allow it, or a step failed.
        """
        _unpack(self.root)
        log = self.root.with_name(self.root.name + ".boot.log")
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "--cgroup"]
        with log.open("wb") as output:
            self._boot = subprocess.Popen(  # noqa: S603 - util-linux
                [*unshare, "bash", "-c", _BOOT, "boot", str(self.root)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call, prepared before the fork
            )
        try:
            self._wait_booted(log)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off, as a power cut would, and remove its file system."""
        if self._boot is not None:
            self._boot.kill()  # its process 1 ends with it, and with that one all others
            self._boot.wait()
            self._boot = None
        shutil.rmtree(self.root, ignore_errors=True)

    def type(
        self, command: str, *, folder: str = "/root", downloads: bool = False, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in a shell of the machine, in a folder; with `downloads` in the network around it.

        Raises:
            SiteError: it failed, and `check` was not turned off.
        """
        namespaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", *([] if downloads else ["--net"])]
        enter = ["nsenter", "--target", str(self._first), *namespaces, "--root", "--wd"]
        environment = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", "COLUMNS": "160"}
        if downloads:
            environment |= self._download_settings()
        words = " && ".join([f"cd {shlex.quote(folder)}", command])
        done = subprocess.run(  # noqa: S603 - the guide's own commands, in a machine that is thrown away
            [
                *enter,
                "env",
                "-i",
                *(f"{k}={v}" for k, v in environment.items()),
                "bash",
                "-c",
                words,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S,
        )
        if check and done.returncode:
            raise SiteError(f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}(exit status {done.returncode})")
        return done

    @property
    def network(self) -> list[str]:
        """The words before a command of the machine around it that is to run in its network: what is beside a site."""
        return ["nsenter", "--target", str(self._first), "--net"]

    def _wait_booted(self, log: Path) -> None:
        assert self._boot is not None
        deadline = time.monotonic() + _BOOT_S
        while True:
            if self._boot.poll() is not None or time.monotonic() > deadline:
                raise SiteError(f"the bare machine does not boot:\n{log.read_text(errors='replace')[-2000:]}")
            with contextlib.suppress(OSError, ValueError):
                children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
                self._first = int(children[0]) if children else 0
            if self._first and "systemd" in _comm(self._first):
                state = self.type("systemctl is-system-running", check=False).stdout.strip()
                if state in {"running", "degraded"}:
                    return
            time.sleep(0.1)

    def _download_settings(self) -> dict[str, str]:
        """How the machine around it reaches packages: names, certificates, proxies; none of it stands in the project."""
        certificates = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
        if Path(certificates).is_file():
            (self.root / "etc/pip-certificates.crt").write_bytes(Path(certificates).read_bytes())
        (self.root / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
        proxies = {k: v for k, v in os.environ.items() if k.lower() in {"http_proxy", "https_proxy", "no_proxy"}}
        pip = {k: v for k, v in os.environ.items() if k in {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_PROXY"}}
        return {**proxies, **pip, "PIP_CERT": "/etc/pip-certificates.crt", "DEBIAN_FRONTEND": "noninteractive"}


def has_bare_machines() -> bool:
    """Whether this user on this machine may make them."""
    tools = ("mmdebstrap", "unshare", "nsenter", "setpriv", "ip")
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in tools):
        return False
    trial = 'd=$(mktemp -d); mount -t cgroup2 cgroup2 "$d" && umount "$d"; s=$?; rmdir "$d"; exit $s'
    command = ["unshare", "--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--cgroup", "sh", "-c", trial]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - util-linux


def _unpack(root: Path) -> None:
    """Debian's packages into a new folder: from what was made some days ago, or anew."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilechain" / f"debian-{DEBIAN}.tar"
    if not cache.is_file() or time.time() - cache.stat().st_mtime > _CACHE_DAYS * 86_400:
        cache.parent.mkdir(parents=True, exist_ok=True)
        made = cache.with_name(f"{cache.name}.{os.getpid()}")
        leave_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEAVE_OUT]
        # What an installed Debian has and a minimal one lacks is its process 1. Synchronising each file helps nobody here.
        options = ["--variant=apt", "--format=tar", "--skip=cleanup/apt", "--include=systemd-sysv", *leave_out]
        options += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
        try:
            _run(["mmdebstrap", *options, DEBIAN, str(made)])
            made.rename(cache)
        finally:
            made.unlink(missing_ok=True)
    root.mkdir(parents=True)
    _run(["tar", "--extract", "--file", str(cache), "--directory", str(root), "--numeric-owner", "--exclude=./dev/*"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE_S, check=False)  # noqa: S603 - apt's tools
    if done.returncode:
        raise SiteError(f"{' '.join(command)}: {done.stderr[-2000:]}")


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


_prctl = ctypes.CDLL(None).prctl


def _end_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
