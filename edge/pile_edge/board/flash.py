"""Software and configuration onto a board, each byte verified where it lies; the steps of `pile-edge flash`. CPython only."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pile_edge.board.bundle import LOADER_NAME, compile_loader
from pile_edge.board.tools import Console, ToolError
from pile_edge.config_file import load_mapping
from pile_shared.codec import encode
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

if TYPE_CHECKING:
    from collections.abc import Callable

    from pile_edge.board.software import Software

OLDEST_MICROPYTHON = (1, 25)  # the first that runs code from ROMFS
PROMPT_SECONDS = 45  # restart, formatting 2 MB of flash at the first one, and a finger on the way to RESET
IMAGE_NAME = "new.romfs"
_PROBE = """
import sys, os, json
try:
    import vfs
    room = len(vfs.rom_ioctl(2, 0))
except (ImportError, AttributeError, TypeError, OSError):
    room = 0
print(json.dumps([sys.implementation.name, list(sys.implementation.version[:2]), room, os.listdir()]))
"""
_HASH = """
import hashlib, json
from binascii import hexlify
def digest(name):
    found = hashlib.sha256()
    with open(name, "rb") as file:
        while True:
            piece = file.read(512)
            if not piece:
                return hexlify(found.digest()).decode()
            found.update(piece)
print(json.dumps({name: digest(name) for name in NAMES}))
"""
# The hardware generator of an ESP32 is one only while its radio runs (ESP-IDF, "Random Number Generation").
_KEY = """
try:
    import network
    network.WLAN(network.STA_IF).active(True)
except ImportError:
    pass
import pile_boot
pile_boot.prepare()
from pile_board.part_agent import main
main(["config.cbor", "key"])
"""


def board_files(config: Path, wifi: tuple[str, str] | None, folder: Path) -> dict[str, Path]:
    """What a board's file system gets, by name there, in the order in which it is copied; main.py comes last.

    Args:
        config: The pile's TOML file. TLS files it names go along, converted to DER if they are PEM.
        wifi: Name and password of the wireless network, if the board joins one.
        folder: For what is made here.

    Raises:
        ConfigError: The configuration or one of its files is wrong.
    """
    mapping = load_mapping(config)
    files = _tls_files(mapping, config.parent, folder)
    files["config.cbor"] = folder / "config.cbor"
    compile_mapping(mapping, config, files["config.cbor"])
    if wifi is not None:
        files["wifi.json"] = folder / "wifi.json"
        files["wifi.json"].write_text(json.dumps({"ssid": wifi[0], "password": wifi[1]}))
    files[f"{LOADER_NAME}.mpy"] = folder / f"{LOADER_NAME}.mpy"
    compile_loader(files[f"{LOADER_NAME}.mpy"])
    files["main.py"] = Path(__file__).with_name("main_on_board.py")
    return files


def put_on_board(
    console: Console, software: Software, files: dict[str, Path], on_step: Callable[[str], None]
) -> tuple[bytes, bool]:
    """Copy everything, verify it there, and let the board make its key.

    Args:
        console: Of a board that runs MicroPython.
        software: What is to run.
        files: From `board_files`.
        on_step: Told what is done now.

    Returns:
        The public key made on the board (65 bytes), and whether it was there before.

    Raises:
        ToolError: The board does not answer, or holds other bytes than were sent.
    """
    on_step("waiting for the board's prompt (press RESET if this takes long)")
    console.wait_for_prompt(PROMPT_SECONDS)
    there = check_board(console, len(software.image))
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / IMAGE_NAME
        image.write_bytes(software.image)
        *first, last = [*files.items()]
        for target, source in [*first, (IMAGE_NAME, image)]:
            on_step(f"copying {target} ({source.stat().st_size} bytes)")
            console.copy(source, target)
        on_step("verifying what was copied")
        verify_files(console, {**dict(first), IMAGE_NAME: image})
        on_step("writing the software into its flash slot, and reading it back")
        written = console.ask(
            f"import json, pile_boot\nprint(json.dumps(pile_boot.install({software.version}, {IMAGE_NAME!r})))"
        )
        expected = [len(software.image), sha256(software.image).hex()]
        if written != expected:
            raise ToolError(f"the slot holds {written}, not {expected}: the flash is worn, or --erase first", "hash")
        on_step("making the key on the board")
        public = key_of(console)
        on_step(f"copying {last[0]}")
        console.copy(last[1], last[0])
        verify_files(console, dict([last]))
    return public, any(str(name).endswith(".key") for name in there)


def check_board(console: Console, image_bytes: int) -> list[object]:
    """Whether the board can take an image; the names of its files. ToolError says what it lacks."""
    found = console.ask(_PROBE)
    if not isinstance(found, list) or len(found) != 4:
        raise ToolError(f"the board says {found!r}: is it running MicroPython?", "board")
    name, version, room_bytes, there = found
    if name != "micropython" or tuple(version) < OLDEST_MICROPYTHON:
        raise ToolError(f"the board runs {name} {version}: flash MicroPython 1.25 or newer with --firmware", "board")
    if room_bytes // 2 < image_bytes:
        raise ToolError(
            f"the board has {room_bytes} bytes for software, two slots of {image_bytes} are needed: flash it with"
            " --firmware, which makes room, and with --erase if it was in use before",
            "board",
        )
    return list(there)


def verify_files(console: Console, files: dict[str, Path]) -> None:
    """Let the board hash its files; ToolError `hash` names those that differ."""
    there = console.ask(_HASH.replace("NAMES", repr(sorted(files))))
    wrong = [n for n, p in files.items() if not isinstance(there, dict) or there.get(n) != sha256(p.read_bytes()).hex()]
    if wrong:
        raise ToolError(f"{', '.join(wrong)} arrived damaged: another cable, or --baud 115200, and try again", "hash")


def key_of(console: Console) -> bytes:
    """The public key a board says is its own; made there if it has none."""
    text = console.run(_KEY)
    for line in text.splitlines():
        if line.startswith("public "):
            return bytes.fromhex(line.split()[1])
    raise ToolError(f"the board made no key: {text.strip()[-500:]}", "key")


def compile_mapping(mapping: dict[str, object], source: Path, target: Path) -> None:
    """Write a board's configuration, checked as the board checks it."""
    from pile_edge.config import MAX_CONFIG_BYTES, check_config

    data = encode(mapping)
    check_config(mapping, "")
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{source}: compiles to {len(data)} bytes; a board takes {MAX_CONFIG_BYTES}")
    target.write_bytes(data)


def _tls_files(mapping: dict[str, object], here: Path, folder: Path) -> dict[str, Path]:
    """The files `mqtt.tls` names, as DER in `folder`; the mapping then names them as the board has them."""
    mqtt = mapping.get("mqtt")
    tls = mqtt.get("tls") if isinstance(mqtt, dict) else None
    if not isinstance(tls, dict):
        return {}
    files = {}
    for kind, path in tls.items():
        name = f"{kind}.der"
        files[name] = folder / name
        try:
            files[name].write_bytes(_as_der(kind, (here / str(path)).read_bytes()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"mqtt.tls.{kind}: {path}: {error}") from error
        tls[kind] = name
    return files


def _as_der(kind: str, data: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    if not data.lstrip().startswith(b"-----BEGIN"):
        return data
    if kind == "key":
        key = serialization.load_pem_private_key(data, None)
        plain = serialization.NoEncryption()
        return key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    return x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
