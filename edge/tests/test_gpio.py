"""A contactor on a GPIO line: our adapter against a chip that stands in, the real library, and gpio-sim where there is one."""

import contextlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pile_edge.control import ControlError, open_control
from pile_edge.ports import cpython_gpio
from pile_edge.ports.cpython_gpio import GpioContactor
from pile_hil.requirements import require
from pile_shared.errors import BusError, ConfigError

SIM = Path("/sys/kernel/config/gpio-sim")  # Documentation/admin-guide/gpio/gpio-sim.rst


class Chip:
    """What request_lines of gpiod gives, for a chip whose lines follow `wires`: {input: output that drives it}."""

    def __init__(self):
        self.levels = {}  # physical, by line
        self.wires = {}
        self.stuck = {}
        self.requests = []
        self.refusal = None

    def module(self):
        """A module with the names of gpiod that we use."""
        value = types.SimpleNamespace(ACTIVE=types.SimpleNamespace(value=1), INACTIVE=types.SimpleNamespace(value=0))
        direction = types.SimpleNamespace(INPUT="input", OUTPUT="output")
        line = types.SimpleNamespace(Value=value, Direction=direction)
        return types.SimpleNamespace(
            line=line, LineSettings=lambda **options: options, request_lines=self.request_lines
        )

    def request_lines(self, path, *, consumer, config):
        if self.refusal is not None:
            raise self.refusal
        request = Request(self, config)
        self.requests.append((path, consumer, config))
        return request


class Request:
    def __init__(self, chip, config):
        self.chip, self.config = chip, config
        for line, settings in config.items():
            if settings["direction"] == "output":
                self.set_value(line, settings["output_value"])

    def set_value(self, line, value):
        if self.chip.refusal is not None:
            raise self.chip.refusal
        assert self.config[line]["direction"] == "output"
        self.chip.levels[line] = value.value ^ self.config[line]["active_low"]

    def get_value(self, line):
        source = self.chip.wires.get(line, line)
        level = self.chip.stuck.get(source, self.chip.levels.get(source, 0))
        return types.SimpleNamespace(value=level ^ self.config[line]["active_low"])

    def release(self):
        self.chip.levels.clear()


@pytest.fixture
def chip(monkeypatch):
    chip = Chip()
    monkeypatch.setitem(sys.modules, "gpiod", chip.module())
    monkeypatch.setattr(cpython_gpio, "FOLLOW_S", 0.05)
    return chip


@pytest.mark.parametrize("low", [False, True])
def test_it_is_open_from_the_first_moment_and_then_as_commanded(chip, low):
    control = open_control({"kind": "gpio", "pin": 17, "active_low": low}, None)
    assert chip.requests == []  # what is only configured is not touched
    assert not control.is_energised()
    ((path, consumer, config),) = chip.requests
    assert (path, consumer, list(config), config[17]["active_low"]) == ("/dev/gpiochip0", "pile-edge", [17], low)
    assert config[17]["output_value"].value == 0
    assert chip.levels == {17: int(low)}
    for _ in range(2):
        control.energise()
        assert (chip.levels[17], control.is_energised()) == (int(not low), True)
    for _ in range(2):
        control.de_energise()
        assert (chip.levels[17], control.is_energised()) == (int(low), False)
    assert len(chip.requests) == 1
    control.close()


def test_it_asks_the_hardware_not_its_memory(chip):
    control = open_control({"kind": "gpio", "pin": 17, "chip": "/dev/gpiochip4"}, None)
    control.energise()
    chip.stuck[17] = 0
    assert not control.is_energised()
    with pytest.raises(ControlError, match="line 17 stays off: something else drives it"):
        control.energise()
    chip.stuck[17] = 1
    with pytest.raises(ControlError, match="line 17 stays on"):
        control.de_energise()
    assert chip.requests[0][0] == "/dev/gpiochip4"


def test_an_auxiliary_contact_has_the_last_word(chip):
    control = open_control({"kind": "gpio", "pin": 17, "feedback_pin": 27, "feedback_active_low": True}, None)
    chip.stuck[17] = 1  # the wire to the auxiliary contact, which closes to ground: high is open
    chip.wires[27] = 17
    control.de_energise()
    with pytest.raises(ControlError, match="stays open by line 27: is its coil wired and powered"):
        control.energise()
    assert chip.levels[17] == 0  # it is not left to close later
    chip.stuck[17] = 0
    control.energise()
    assert control.is_energised()
    with pytest.raises(ControlError, match="stays closed by line 27: its contacts may be welded"):
        control.de_energise()
    assert chip.levels[17] == 0


def test_a_contactor_that_falls_or_is_closed_by_hand_is_noticed(chip):
    now_s = [0.0]
    control = GpioContactor({"pin": 17, "feedback_pin": 27}, lambda: now_s[0])
    chip.wires[27] = 17
    control.energise()
    chip.stuck[17] = 0
    control.keep()  # not at every turn of the loop
    now_s[0] += 5
    with pytest.raises(ControlError, match="stays open"):
        control.keep()
    chip.stuck.clear()
    control.de_energise()
    chip.stuck[17] = 1
    now_s[0] += 5
    with pytest.raises(ControlError, match="stays closed"):
        control.keep()


def test_a_line_that_cannot_be_had_says_what_to_check_and_is_asked_for_again(chip):
    control = open_control({"kind": "gpio", "pin": 17}, None)
    chip.refusal = OSError(16, "Device or resource busy")
    for command in (control.energise, control.de_energise, control.is_energised):
        with pytest.raises(BusError, match=r"line 17 of /dev/gpiochip0: Device or resource busy: .*gpioinfo") as caught:
            command()
        assert caught.value.code == "closed"
    chip.refusal = None
    control.energise()
    chip.refusal = OSError(19, "No such device")
    with pytest.raises(BusError, match="No such device"):
        control.de_energise()
    chip.refusal = None
    control.de_energise()
    assert (len(chip.requests), chip.levels) == (2, {17: 0})


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(ConfigError, match=r"pip install \"pilechain\[gpio\]\""):
        open_control({"kind": "gpio", "pin": 17}, None).de_energise()


def test_the_real_library_takes_what_we_give_it():
    try:
        import gpiod
    except ImportError:
        require(False, "gpiod is missing: install the extra `gpio`")
    control = open_control({"kind": "gpio", "pin": 17, "feedback_pin": 27, "chip": "/dev/no-such-chip"}, None)
    with pytest.raises(BusError, match="line 17 of /dev/no-such-chip: No such file"):
        control.de_energise()
    with pytest.raises(BusError, match="line 17 of /dev/null"):
        open_control({"kind": "gpio", "pin": 17, "chip": "/dev/null"}, None).energise()
    for name in ("set_value", "get_value", "release"):
        assert callable(getattr(gpiod.LineRequest, name))
    assert (gpiod.line.Value.ACTIVE.value, gpiod.line.Value.INACTIVE.value) == (1, 0)


@contextlib.contextmanager
def simulated_chip():
    """(device, folder of its lines) of a chip that the kernel simulates."""
    made = SIM / f"pilechain-{os.getpid()}"
    bank = made / "bank0"
    bank.mkdir(parents=True)
    try:
        (bank / "num_lines").write_text("4")
        (made / "live").write_text("1")
        name = (bank / "chip_name").read_text().strip()
        yield f"/dev/{name}", Path("/sys/devices/platform") / (made / "dev_name").read_text().strip() / name
        (made / "live").write_text("0")
    finally:
        bank.rmdir()
        made.rmdir()


def test_the_kernel_sets_and_frees_the_line():
    """No package brings a kernel with gpio-sim, so this is left out where there is none, whatever is required."""
    if not SIM.is_dir():
        pytest.skip("this kernel has no gpio-sim (modprobe gpio-sim, configfs)")
    pytest.importorskip("gpiod")
    with simulated_chip() as (device, lines):
        spec = {"kind": "gpio", "pin": 1, "feedback_pin": 2, "chip": device}
        control = open_control(spec, None)
        (lines / "sim_gpio2/pull").write_text("pull-down")
        control.de_energise()
        assert (lines / "sim_gpio1/value").read_text().strip() == "0"
        with pytest.raises(ControlError, match="stays open"):
            control.energise()
        (lines / "sim_gpio2/pull").write_text("pull-up")
        control.energise()
        assert (lines / "sim_gpio1/value").read_text().strip() == "1"
        with pytest.raises(BusError, match="busy"):
            open_control(spec, None).de_energise()
        control.close()
        program = f"from pile_edge.control import open_control; open_control({spec!r}, None).energise()"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        control.de_energise()  # what a process held is free once it is gone
        control.close()
