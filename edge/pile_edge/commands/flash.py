"""`pile-edge flash`: MicroPython, the agent and a pile's configuration onto an ESP32, up to its first signed proof."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pile_edge.board.flash import board_files, put_on_board
from pile_edge.board.partitions import prepare_firmware
from pile_edge.board.software import Software, build_software
from pile_edge.board.tools import Console, write_firmware
from pile_edge.commands import new_parser, usual_options
from pile_edge.commands.listening import Ear
from pile_edge.commands.registration import ceremony, fingerprint, write_request
from pile_edge.config_file import load_config, load_mapping
from pile_edge.settings import Settings
from pile_shared.errors import ConfigError
from pile_shared.proof import ALARM, EVENT_NAMES, Proof

DEFAULT_VERSION = 1
_EPILOG = """steps: firmware (esptool) - configuration and software (mpremote, every hash verified on the board) - key, made on
the board and never leaving it - restart - the first proof signed by that key, heard through the broker

examples:
  pile-edge flash --port /dev/ttyUSB0 --firmware ESP32_GENERIC.bin --config pile.toml \\
      --wifi-ssid garage --wifi-password-file wifi.txt
  pile-edge flash --port /dev/ttyUSB0 --config pile.toml        MicroPython and its layout are there already

Firmware: https://micropython.org/download/?port=esp32 (.bin, 4 MB of flash or more). See docs/install.md."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `flash` to the commands of `pile-edge`."""
    parser = new_parser(
        commands,
        "flash",
        "put MicroPython, the agent and a pile's configuration on an ESP32",
        description="Put MicroPython, the agent and a pile's configuration on an ESP32, and wait until it reports.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--port", required=True, metavar="P", help="serial port of the board, like /dev/ttyUSB0")
    add("--firmware", type=Path, metavar="FILE", help="MicroPython for this board; without it, it is there already")
    add("--console-port", metavar="P", help="where the prompt appears after the restart, if not on --port (native USB)")
    add("--baud", type=int, default=460_800, metavar="N", help="while writing firmware (%(default)s)")
    add("--erase", action="store_true", help="erase all flash first: the pile's key and journal are lost")
    add("--manual-boot", action="store_true", help="the board is in its boot loader (BOOT held at RESET); no stub")
    add("--wifi-ssid", metavar="NAME", help="wireless network the board joins")
    add("--wifi-password-file", type=Path, metavar="FILE", help="its password, alone in a file")
    add("--software-version", type=int, default=DEFAULT_VERSION, metavar="N", help="updates have greater numbers (1)")
    add("--request", type=Path, metavar="FILE", help="registration request to write (CONFIG with .registration.json)")
    add("--wait", type=int, default=120, metavar="S", help="seconds for the first proof; 0: do not wait (%(default)s)")
    usual_options(parser, run)


def run(options: argparse.Namespace) -> int:
    """Do all steps; any error says what to check. 0 when the pile has reported."""
    config = load_config(options.config)
    screen = Screen(stderr=True, quiet=options.json)
    request = options.request or options.config.with_suffix(".registration.json")
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=screen
    ) as progress:
        if options.firmware is not None:
            _write(options, progress)
        software, public, was_there = _load(options, progress)
        write_request(request, config, public)
        proof = _start(options, config, public, progress)
    found = {
        "pile_id": config.pile_id,
        "public": public.hex(),
        "fingerprint": fingerprint(public),
        "key_was_there": was_there,
        "software_version": software.version,
        "software_bytes": len(software.image),
        "request": str(request),
        "first_proof": None if proof is None else EVENT_NAMES[proof.event],
    }
    if options.json:
        print(json.dumps(found))
        return 0
    screen.print(f"[green]{config.pile_id} runs[/]: {_heard(proof)}")
    print(ceremony(config.pile_id, public, request))
    return 0


def _write(options: argparse.Namespace, progress: Progress) -> None:
    try:
        data = options.firmware.read_bytes()
    except OSError as error:
        raise ConfigError(f"{options.firmware}: {error.strerror}") from error
    firmware = prepare_firmware(data, options.firmware.name)
    task = progress.add_task(f"firmware for {firmware.chip}: {len(firmware.data)} bytes", total=100)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "firmware.bin"
        path.write_bytes(firmware.data)
        write_firmware(
            firmware,
            path,
            options.port,
            baud=options.baud,
            manual_boot=options.manual_boot,
            erase=options.erase,
            on_percent=lambda percent: progress.update(task, completed=percent),
        )
    progress.update(task, completed=100, description="firmware written, read back and right")


def _load(options: argparse.Namespace, progress: Progress) -> tuple[Software, bytes, bool]:
    task = progress.add_task("linking and compiling the agent", total=None)
    software = build_software(options.software_version)
    with tempfile.TemporaryDirectory() as folder:
        files = board_files(options.config, _wifi(options), Path(folder))
        public, was_there = put_on_board(
            Console(options.console_port or options.port),
            software,
            files,
            lambda text: progress.update(task, description=text),
        )
    done = f"software {software.version} ({len(software.image)} bytes) and configuration verified on the board"
    progress.update(task, description=done, total=1, completed=1)
    return software, public, was_there


def _start(options: argparse.Namespace, config: Settings, public: bytes, progress: Progress) -> Proof | None:
    """Restart the board and wait for it, listening before it can speak."""
    console = Console(options.console_port or options.port)
    if options.wait == 0:
        console.reset()
        return None
    task = progress.add_task(f"waiting for the first signed proof of {config.pile_id}", total=None)
    spec = load_mapping(options.config)["mqtt"]
    assert isinstance(spec, dict)  # load_config has checked it
    with Ear(spec, options.config.parent, config.chain_id, config.pile_id, ["proof"]) as ear:
        console.reset()
        proof = ear.first_proof(public, options.wait, progress.console.print)
    progress.update(task, description=_heard(proof), total=1, completed=1)
    return proof


def _heard(proof: Proof | None) -> str:
    if proof is None:
        return "started, not waited for"
    if proof.event == ALARM:
        return (
            "a signed ALARM came: the pile is online, but its meter gives no reading; check wiring, address, baud rate"
        )
    return f"a signed {EVENT_NAMES[proof.event]} came through the broker, proof {proof.sequence}, signature right"


def _wifi(options: argparse.Namespace) -> tuple[str, str] | None:
    if options.wifi_ssid is None:
        return None
    if options.wifi_password_file is None:
        raise ConfigError("--wifi-ssid needs --wifi-password-file: a password on the command line is everybody's")
    try:
        return options.wifi_ssid, options.wifi_password_file.read_text().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{options.wifi_password_file}: {error.strerror}") from error
