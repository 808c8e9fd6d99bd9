"""The contactor against a scripted relay; against a real Modbus one it is switched in hil/tests."""

import pytest

from pile_edge.control import CoilContactor, ControlError, open_control
from pile_shared.errors import BusError, ConfigError


class Relay:
    def __init__(self):
        self.on = False
        self.stuck = False
        self.failures = []
        self.writes = []

    def write_coil(self, unit, address, on):
        self.writes.append((unit, address, on))
        if self.failures:
            raise self.failures.pop(0)
        self.on = self.on if self.stuck else on

    def read(self, unit, function, address, count):
        assert (unit, function, address, count) == (2, 1, 5, 1)
        return bytes((self.on,))


def test_switching_is_idempotent():
    relay = Relay()
    contactor = CoilContactor(relay, 2, 5)
    assert not contactor.is_energised()
    for command, state in (
        (contactor.energise, True),
        (contactor.energise, True),
        (contactor.de_energise, False),
        (contactor.de_energise, False),
    ):
        command()
        assert contactor.is_energised() is state
    assert relay.writes == [(2, 5, True), (2, 5, True), (2, 5, False), (2, 5, False)]


def test_a_lost_answer_is_repeated():
    relay = Relay()
    relay.failures = [BusError("x", "timeout"), BusError("x", "crc")]
    CoilContactor(relay, 2, 5).energise()
    assert relay.on
    assert len(relay.writes) == 3


def test_a_relay_that_never_answers_is_reported_after_bounded_tries():
    relay = Relay()
    relay.failures = [BusError("x", "timeout")] * 9
    with pytest.raises(BusError) as caught:
        CoilContactor(relay, 2, 5).de_energise()
    assert caught.value.code == "timeout"
    assert len(relay.writes) == 3


def test_a_coil_that_does_not_follow_is_reported():
    relay = Relay()
    relay.on = relay.stuck = True
    with pytest.raises(ControlError) as caught:
        CoilContactor(relay, 2, 5).de_energise()
    assert caught.value.code == "control"
    assert caught.value.message == "coil 5 stays on"


def test_open_control():
    relay = Relay()
    open_control({"kind": "coil", "unit": 2, "coil": 5}, relay).energise()
    assert relay.writes == [(2, 5, True)]


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({}, "control.kind"),
        ({"kind": "gpio"}, "control.pin"),
        ({"kind": "coil", "coil": 0}, "control.unit"),
        ({"kind": "coil", "unit": 0, "coil": 0}, "control.unit"),
        ({"kind": "coil", "unit": 2, "coil": "0"}, "control.coil"),
    ],
)
def test_a_wrong_section_is_named(spec, key):
    with pytest.raises(ConfigError, match=key):
        open_control(spec, Relay())
