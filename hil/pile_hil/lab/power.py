"""Power of real boards: any power driver of labgrid's, and the agent with it."""

import attr
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.protocol import PowerProtocol

from pile_hil.lab.protocols import PileProtocol


@target_factory.reg_driver
@attr.s(eq=False)
class BoardPowerDriver(Driver, PowerProtocol):
    """Cuts and restores the power of a board; with the power comes its agent.

    List it after the driver of the outlet (NetworkPowerDriver, DigitalOutputPowerDriver, ...) and that of the pile.
    """

    bindings = {"outlet": PowerProtocol, "pile": PileProtocol}
    priorities = {PowerProtocol: 10}  # before the outlet's own, which knows nothing of agents

    @Driver.check_active
    def on(self) -> None:
        """Restore the power, and start the agent as soon as the board answers."""
        self.outlet.on()
        self.pile.start()

    @Driver.check_active
    def off(self) -> None:
        """Cut the power."""
        self.outlet.off()

    @Driver.check_active
    def cycle(self) -> None:
        """Off and on."""
        self.off()
        self.on()
