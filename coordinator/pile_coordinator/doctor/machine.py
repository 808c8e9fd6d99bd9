"""Checks of the machine: programs, clock, disk, services, open files."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pile_coordinator.doctor.finding import Finding, fail, ok, skip, warn
from pile_coordinator.doctor.subject import Subject
from pile_coordinator.installing.units import BACKUP_TIMER, BROKER, COORDINATOR, WEB

PACKAGES = ("alembic", "cbor2", "cryptography", "paho-mqtt", "protobuf", "rbcl", "rich", "sqlalchemy")
WEB_PACKAGES = ("fastapi", "nicegui", "prometheus-client", "segno", "uvicorn")
MIN_FREE_BYTES = 1 << 30  # below, a bad day of logs fills the disk
FSYNCS, FSYNC_BYTES = 16, 4096
SLOW_FSYNC_MS = 50  # a block is one fsync or two: ten blocks a second at most
OFF_MS, FAR_OFF_MS = 100, 1000  # proofs carry the pile's time; a window's edge is a second to nobody
STALE_MS = 30_000  # a web server looks five times a second
_COMMAND_S = 20
_MAX_ANSWER_BYTES = 10_000

_STA_UNSYNC = 0x0040  # linux/timex.h
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_STATUS_OFFSET, _OFFSET_OFFSET, _MAXERROR_OFFSET = 40, 8, 24  # of struct timex on 64 bit; longs after `modes`
_TIMEX_BYTES = 208
_STA_NANO = 0x2000

_TIME_HELP = "apt install chrony (or systemctl enable --now systemd-timesyncd), and let it reach its time servers"


def python(subject: Subject) -> Iterator[Finding]:
    """The interpreter, and the packages of the programs that are configured."""
    needed = PACKAGES + (WEB_PACKAGES if subject.web else ())
    needed += ("pymysql",) if subject.config.evidence_url else ()
    missing = []
    for name in needed:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    now = ".".join(map(str, sys.version_info[:3]))
    if missing:
        extras = ",".join(["mariadb"] * ("pymysql" in missing) + ["web"] * any(n in WEB_PACKAGES for n in missing))
        yield fail(f"missing here: {', '.join(missing)}", f"pip install 'pilechain[{extras or 'coordinator'}]'")
    else:
        yield ok(f"Python {now}, pilechain {version('pilechain')}, {len(needed)} packages")


def clock(_: Subject) -> Iterator[Finding]:
    """Whether the kernel's clock is synchronised (adjtimex(2)), and how far it may be off."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes 0: ask only
    if ctypes.sizeof(ctypes.c_long) != 8 or not hasattr(libc := ctypes.CDLL(None, use_errno=True), "adjtimex"):
        yield skip("this system does not say whether its clock is synchronised")
        return
    state = libc.adjtimex(timex)
    if state < 0:
        yield warn(f"the kernel does not say whether its clock is right: {os.strerror(ctypes.get_errno())}", _TIME_HELP)
        return
    status = ctypes.c_int.from_buffer(timex, _STATUS_OFFSET).value
    offset = ctypes.c_long.from_buffer(timex, _OFFSET_OFFSET).value
    max_error_us = ctypes.c_long.from_buffer(timex, _MAXERROR_OFFSET).value
    offset_us = abs(offset) // (1000 if status & _STA_NANO else 1)
    if state == _TIME_ERROR or status & _STA_UNSYNC:
        yield fail("the clock is not synchronised: nothing sets it", _TIME_HELP)
    elif offset_us > FAR_OFF_MS * 1000 or max_error_us > FAR_OFF_MS * 1000:
        yield fail(f"the clock is off by {offset_us / 1000:.0f} ms, perhaps {max_error_us / 1000:.0f}", _TIME_HELP)
    elif offset_us > OFF_MS * 1000:
        yield warn(f"the clock is off by {offset_us / 1000:.0f} ms", "chronyc tracking says why")
    else:
        yield ok(f"synchronised; off by {offset_us / 1000:.1f} ms, at most {max_error_us / 1000:.0f}")


def data(subject: Subject) -> Iterator[Finding]:
    """The data folder: there, writable, with room, and how long a durable write takes."""
    folder = subject.config.data
    if not folder.is_dir():
        yield warn(f"{folder} is not there yet", "it is made at the first start: pilechain run, or systemctl start")
        return
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        yield fail(
            f"{folder} cannot be written", f"chown it to the coordinator's user, or look at: findmnt -T {folder}"
        )
        return
    probe = folder / f"doctor-{os.getpid()}.tmp"
    try:
        median_ms = _fsync_ms(probe)
    except OSError as error:
        yield fail(f"{folder}: {error.strerror}", f"make room or mend the disk: df -h {folder}; dmesg | tail")
        return
    finally:
        probe.unlink(missing_ok=True)
    if free < MIN_FREE_BYTES:
        yield fail(f"{folder} has {free >> 20} MiB left", "make room: a full disk stops the blocks")
    elif median_ms > SLOW_FSYNC_MS:
        yield warn(f"an fsync takes {median_ms:.0f} ms in {folder}", "blocks wait for it: use another disk or cache")
    else:
        yield ok(f"{folder}: {free / (1 << 30):.0f} GiB free, an fsync takes {median_ms:.1f} ms")


def _fsync_ms(probe: Path) -> float:
    """The median of some durable writes."""
    took_ms = []
    with probe.open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(FSYNC_BYTES))
            begun_s = time.perf_counter()
            os.fsync(file.fileno())
            took_ms.append((time.perf_counter() - begun_s) * 1000)
    return sorted(took_ms)[FSYNCS // 2]


def running(subject: Subject) -> Iterator[Finding]:
    """Whether a coordinator has its data folder locked (proc_locks(5)); nothing is locked to find out."""
    path = subject.config.data / "coordinator.lock"
    start = f"systemctl start {COORDINATOR.removesuffix('.service')}, or: pilechain run --config ..."
    if not path.exists():
        yield fail("the coordinator has never run here", start)
        return
    found = path.stat()
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        locked = any(place in line.split() for line in Path("/proc/locks").read_text().splitlines())
    except OSError:
        yield skip("this system does not list its locks")
        return
    if locked:
        yield ok(f"the coordinator runs, process {path.read_text().strip()}")
    else:
        yield fail("the coordinator does not run", start)


def web(subject: Subject) -> Iterator[Finding]:
    """Whether the web server answers, and sees the blocks that there are."""
    if subject.web is None:
        yield skip("no web.toml here")
        return
    host = subject.web.listen if subject.web.listen not in {"0.0.0.0", "::"} else "localhost"  # noqa: S104 - compared
    where, restart = f"{host}:{subject.web.port}", f"systemctl restart {WEB.removesuffix('.service')}"
    connection = HTTPConnection(host, subject.web.port, timeout=_COMMAND_S)
    try:
        connection.request("GET", "/healthz")
        found = json.loads(connection.getresponse().read(_MAX_ANSWER_BYTES))
        height, behind_ms = int(found["height"]), int(found["behind_ms"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        yield fail(f"{where}: {error or type(error).__name__}", f"{restart}; journalctl -u pilechain-web -n 50")
        return
    finally:
        connection.close()
    if behind_ms > STALE_MS:
        yield fail(f"{where} has not seen the evidence for {behind_ms // 1000} s", f"{restart}; see the evidence check")
    else:
        yield ok(f"{where} answers, at block {height}")


def services(subject: Subject) -> Iterator[Finding]:
    """The systemd units: installed, enabled, running."""
    if not Path("/run/systemd/system").is_dir():
        yield skip("no systemd runs here")
        return
    needed = [COORDINATOR, *([WEB] if subject.web else []), *([BROKER] if subject.mosquitto else [])]
    for name in [*needed, BACKUP_TIMER]:
        shown = show_unit(name, "LoadState", "ActiveState", "UnitFileState", "NRestarts")
        short = name.removesuffix(".service")
        if shown.get("LoadState") != "loaded":
            install = f"pilechain install services --config {subject.site / 'coordinator.toml'}"
            if name == BACKUP_TIMER:
                yield warn("no backups are made by themselves", f"{install} --backups DIR")
            else:
                yield warn(f"{name} is not installed", install)
        elif shown.get("ActiveState") != "active":
            yield fail(f"{name} is {shown.get('ActiveState')}", f"journalctl -u {short} -n 50; systemctl start {short}")
        elif shown.get("UnitFileState") not in {"enabled", "enabled-runtime"}:
            yield fail(f"{name} does not start at boot", f"systemctl enable {short}")
        elif (restarts := int(shown.get("NRestarts") or 0)) > 0:
            yield warn(f"{name} was started again {restarts} times since boot", f"journalctl -u {short} -p warning")
        else:
            yield ok(f"{name} runs, and starts at boot")


def show_unit(name: str, *keys: str) -> dict[str, str]:
    """Properties of a unit; none if systemd does not answer."""
    command = ["systemctl", "show", name, "--no-pager", *(f"--property={key}" for key in keys)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return {}
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {key: value for key, _, value in pairs}


def logs(_: Subject) -> Iterator[Finding]:
    """Whether the journal, which all services log to, has a bound."""
    if not Path("/run/systemd/system").is_dir():
        yield skip("no journal here: bound the logs where you keep them")
        return
    files = [Path("/etc/systemd/journald.conf"), *sorted(Path("/etc/systemd/journald.conf.d").glob("*.conf"))]
    lines = [line.strip() for path in files if path.is_file() for line in path.read_text().splitlines()]
    bounds = [line for line in lines if line.startswith(("SystemMaxUse=", "MaxRetentionSec="))]
    if bounds:
        yield ok(f"the journal is bounded: {bounds[-1]}")
    else:
        yield warn("the journal may take a tenth of its disk", "pilechain install services writes a bound")


def open_files(subject: Subject) -> Iterator[Finding]:
    """Whether the broker that runs here may have as many connections as there are piles."""
    piles = registered_piles(subject)
    brokers = [path for path in Path("/proc").glob("[0-9]*/comm") if _text(path) == "mosquitto"]
    if piles is None or not brokers:
        yield skip("no mosquitto runs here, or the evidence does not say how many piles there are")
        return
    limits = [_open_files(path.parent / "limits") for path in brokers]
    room, needed = min(limits), piles + 64
    if room < needed:
        yield fail(
            f"the broker may open {room} files, {piles} piles need {needed}",
            f"pilechain install services --piles {2 * piles} ..., then: systemctl daemon-reload; systemctl restart mosquitto",
        )
    else:
        yield ok(f"the broker may open {room} files, for {piles} piles")


def registered_piles(subject: Subject) -> int | None:
    """How many piles the evidence knows; None if it cannot be asked."""
    import sqlalchemy as sa  # noqa: PLC0415 - what only some checks need
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from pile_coordinator.evidence.opening import reading  # noqa: PLC0415
    from pile_coordinator.evidence.schema import pile  # noqa: PLC0415
    from pile_shared.errors import PilechainError  # noqa: PLC0415

    try:
        with reading(str(subject.config.evidence)) as db:
            return int(db.execute(sa.select(sa.func.count()).select_from(pile)).scalar_one())
    except (PilechainError, SQLAlchemyError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _open_files(limits: Path) -> int:
    """The soft limit of a process (proc_pid_limits(5)); 0 if it has ended."""
    found = [line.split() for line in _text(limits).splitlines() if line.startswith("Max open files")]
    return int(found[0][3]) if found and found[0][3].isdecimal() else 0
