"""What goes wrong between meter and pile: on the line, and in the meter itself.

A disturbance that ends soon costs nothing: readings are repeated, and the register has counted meanwhile. One that lasts, or a
register that cannot be right, ends the session; then what flowed since the last good reading is lost, and that must stay within
what the agent's rules say (pile_edge.session). Afterwards the pile must be as good as new: another order shows it.
"""

from pile_hil.scenarios.registry import scenario
from pile_hil.trials.facts import Expects
from pile_hil.trials.trial import ORDER_WH, Trial

LINE, TCP, BOARD = (
    ("meter-faults", "serial-line"),
    ("meter-faults", "tcp"),
    ("meter-faults", "serial-line", "micropython"),
)
PC = ("meter-faults", "serial-line", "cpython")
LONG_WH = 9000  # an order that outlasts ten minutes of silence at 22 kW
# What can flow unseen at 22 kW: in a sample of 30 s and three tries of a few seconds, of which the rig's clock makes minutes;
# in the ten minutes after which a meter counts as silent; and as much as a stuck register may hide.
SUDDEN_WH, SILENT_WH, STUCK_WH = 2000, 6500, 3000
FAULT, SILENT = "meter fault", "meter silent"


def _passing(trial: Trial, kind: str, words: str) -> None:
    """A fault in the middle of a session, until the agent has noticed and said so; the session goes on."""
    trial.open()
    order = trial.begin()
    trial.await_energy(order, 500)
    with trial.meter_fault(kind):
        trial.await_said(words, order)
    trial.finish(order)


def _ending(trial: Trial, kind: str, energy_wh: int = ORDER_WH) -> None:
    """A fault in the middle of a session, until it has ended the session; then another order."""
    trial.open()
    order = trial.begin(energy_wh)
    trial.await_energy(order, 500)
    with trial.meter_fault(kind):
        trial.finish(order)
    if f"end ({order.expects.reason})" in trial.agent().log():  # else it is for the judge already
        trial.finish(trial.begin(expects=Expects()))


@scenario("meter-healthy", fault="none: what every other scenario is compared with")
def meter_healthy(trial: Trial) -> None:
    """Nothing goes wrong."""
    trial.open()
    trial.finish(trial.begin())


@scenario("meter-crc", fault="Modbus CRC errors", needs=BOARD, expects=Expects(said=("meter: crc",)))
def meter_crc(trial: Trial) -> None:
    """For some time each answer of the meter to a board has a wrong CRC; the session goes on."""
    _passing(trial, "noise", "meter: crc")


@scenario("meter-crc-pc", fault="Modbus CRC errors", needs=PC, expects=Expects(said=("meter: crc",)))
def meter_crc_pc(trial: Trial) -> None:
    """The same with an agent on CPython, whose Modbus master is another."""
    _passing(trial, "noise", "meter: crc")


@scenario("meter-noise-tcp", fault="Modbus CRC errors", needs=TCP, expects=Expects(said=("meter: ",)))
def meter_noise_tcp(trial: Trial) -> None:
    """On TCP, which has no CRC, answers name another transaction; the session goes on."""
    _passing(trial, "noise", "meter: ")


@scenario("meter-crc-lasting", fault="Modbus CRC errors", needs=LINE, expects=Expects(reason=SILENT, lost_wh=SILENT_WH))
def meter_crc_lasting(trial: Trial) -> None:
    """No answer is readable any more: after ten minutes the session ends, unread energy is the owner's loss."""
    _ending(trial, "noise", LONG_WH)


@scenario("meter-silence", fault="Modbus silence", needs=LINE, expects=Expects(said=("meter: timeout",)))
def meter_silence(trial: Trial) -> None:
    """The meter is silent for less than ten minutes; the session goes on and nothing is lost."""
    _passing(trial, "silence", "meter: timeout")


@scenario("meter-silence-lasting", fault="Modbus silence", needs=TCP, expects=Expects(reason=SILENT, lost_wh=SILENT_WH))
def meter_silence_lasting(trial: Trial) -> None:
    """The meter is silent for longer: the session ends by the pile's doing, unread energy is the owner's loss."""
    _ending(trial, "silence", LONG_WH)


@scenario("meter-silence-start", fault="Modbus silence", needs=LINE)
def meter_silence_start(trial: Trial) -> None:
    """The meter is silent when the user starts: nothing begins, and the start works once it answers again."""
    trial.open()
    order = trial.sign()
    with trial.meter_fault("silence"):
        trial.ask_start(order)
        trial.await_said("meter: timeout")
    trial.start(order)
    trial.finish(order)


@scenario("meter-exception", fault="Modbus silence", needs=TCP, expects=Expects(said=("meter: exception",)))
def meter_exception(trial: Trial) -> None:
    """The meter answers that it is busy; the session goes on."""
    _passing(trial, "exception", "meter: exception")


@scenario("meter-not-available", fault="Modbus silence", needs=LINE, expects=Expects(said=("meter: not_available",)))
def meter_not_available(trial: Trial) -> None:
    """The meter marks energy and power as not available; the session goes on."""
    _passing(trial, "not_available", "meter: not_available")


@scenario("meter-wrong-unit", fault="Modbus wrong unit", needs=BOARD, expects=Expects(said=("meter: frame",)))
def meter_wrong_unit(trial: Trial) -> None:
    """Another unit answers a board, with a good CRC and 30 Wh more: not a single one is believed."""
    _passing(trial, "wrong_unit", "meter: frame")


@scenario("meter-wrong-unit-pc", fault="Modbus wrong unit", needs=PC, expects=Expects(said=("meter: ",)))
def meter_wrong_unit_pc(trial: Trial) -> None:
    """The same with an agent on CPython."""
    _passing(trial, "wrong_unit", "meter: ")


@scenario("meter-wrong-unit-tcp", fault="Modbus wrong unit", needs=TCP, expects=Expects(said=("meter: ",)))
def meter_wrong_unit_tcp(trial: Trial) -> None:
    """The same on TCP, where the unit stands in the header."""
    _passing(trial, "wrong_unit", "meter: ")


@scenario("meter-late", fault="Modbus delays", needs=BOARD, expects=Expects(said=("meter: timeout",)))
def meter_late(trial: Trial) -> None:
    """Answers come after the timeout, on a line where nothing says what they answer: none is taken for another's."""
    _passing(trial, "late", "meter: timeout")


@scenario("meter-late-pc", fault="Modbus delays", needs=PC, expects=Expects(said=("meter: timeout",)))
def meter_late_pc(trial: Trial) -> None:
    """The same with an agent on CPython."""
    _passing(trial, "late", "meter: timeout")


@scenario("meter-late-tcp", fault="Modbus delays", needs=TCP, expects=Expects(said=("meter: timeout",)))
def meter_late_tcp(trial: Trial) -> None:
    """The same on TCP."""
    _passing(trial, "late", "meter: timeout")


@scenario("meter-slow", fault="Modbus delays", needs=LINE)
def meter_slow(trial: Trial) -> None:
    """Each answer takes 0.3 s, all through a session: nobody minds."""
    trial.open()
    with trial.meter_fault("slow"):
        trial.finish(trial.begin())


@scenario("meter-word-swap", fault="Modbus word-order swap", needs=LINE, expects=Expects(said=("meter: out_of_range",)))
def meter_word_swap(trial: Trial) -> None:
    """In a session the meter sends words in the other order for a while: no such reading is signed, the session goes on."""
    _passing(trial, "swapped", "meter: out_of_range")


@scenario(
    "meter-word-swap-lasting",
    fault="Modbus word-order swap",
    needs=TCP,
    expects=Expects(reason=SILENT, lost_wh=SILENT_WH),
)
def meter_word_swap_lasting(trial: Trial) -> None:
    """The same for good: a meter that says nothing possible is as good as silent, and the session ends."""
    _ending(trial, "swapped", LONG_WH)


@scenario("meter-word-swap-boot", fault="Modbus word-order swap", needs=TCP)
def meter_word_swap_boot(trial: Trial) -> None:
    """The meter sends words in the other order when the agent first reads it: nothing of it becomes the base."""
    trial.serve()
    with trial.meter_fault("swapped"):
        trial.open()
        trial.await_said("meter: ")
    trial.await_said("meter: answers again")
    trial.finish(trial.begin())


@scenario("meter-reset", fault="Modbus register reset", needs=LINE, expects=Expects(reason=FAULT, lost_wh=SUDDEN_WH))
def meter_reset(trial: Trial) -> None:
    """In a session the register begins anew at 0: it is never rebased, the session ends at its last good reading."""
    _ending(trial, "reset")


@scenario("meter-reset-idle", fault="Modbus register reset", needs=TCP, expects=Expects(alarms=(FAULT,)))
def meter_reset_idle(trial: Trial) -> None:
    """Between two orders the register begins anew at 0: an alarm, no order begins, until the old register is back."""
    trial.open()
    trial.finish(trial.begin())
    with trial.meter_fault("reset"):
        trial.await_said("alarm (meter fault)")
        order = trial.sign()
        trial.ask_start(order)
        trial.await_said(f"user asks to start {order.contract[:8]}")
        trial.ask_start(order)
    trial.start(order)
    trial.finish(order)


@scenario("meter-rollover", fault="Modbus rollover", needs=TCP, expects=Expects(reason=FAULT, lost_wh=SUDDEN_WH))
def meter_rollover(trial: Trial) -> None:
    """In a session the register runs over and goes on from a small value: the session ends at its last good reading."""
    _ending(trial, "rollover")


@scenario("meter-leap", fault="Modbus rollover", needs=LINE, expects=Expects(reason=FAULT, lost_wh=SUDDEN_WH))
def meter_leap(trial: Trial) -> None:
    """In a session the register leaps up by 5 MWh: more than the pile can give, so the session ends before it."""
    _ending(trial, "leap")


@scenario("meter-stuck", fault="stuck meter", needs=TCP, expects=Expects(reason=FAULT, lost_wh=STUCK_WH))
def meter_stuck(trial: Trial) -> None:
    """In a session the register stands still while power flows: after 1.5 kWh the session ends."""
    _ending(trial, "stuck", LONG_WH)


@scenario("meter-stuck-passing", fault="stuck meter", needs=LINE, expects=Expects(reason=FAULT, lost_wh=STUCK_WH))
def meter_stuck_passing(trial: Trial) -> None:
    """A register stands still for 1 kWh and then leaps to the truth: too much at once, so the session ends before it."""
    trial.open()
    order = trial.begin(LONG_WH)
    trial.await_energy(order, 500)
    with trial.meter_fault("stuck"):
        trial.await_energy(order, 1500)
    trial.finish(order)
    trial.finish(trial.begin(expects=Expects()))
