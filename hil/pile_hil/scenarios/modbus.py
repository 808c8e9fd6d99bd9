"""What goes wrong between meter and pile: on the line, and in the meter itself."""

from pile_hil.scenarios.registry import scenario
from pile_hil.trials.trial import Trial

METER_FAULTS = ("meter-faults",)


@scenario("meter-healthy", fault="none: what every other scenario is compared with")
def meter_healthy(trial: Trial) -> None:
    """Nothing goes wrong."""
    trial.open()
    trial.finish(trial.begin())


@scenario("meter-crc", fault="Modbus CRC errors", needs=("meter-faults", "serial-line"))
def meter_crc(trial: Trial) -> None:
    """For some time each answer of the meter has a wrong CRC, in the middle of a session."""
    trial.open()
    order = trial.begin()
    trial.await_energy(order, 500)
    with trial.meter_fault("noise"):
        trial.await_said("meter: crc")
    trial.await_said("meter: answers again")
    trial.finish(order)
