"""A pile's clock is set back while a car draws all the pile can give: the chain takes every proof, and the order is measured."""

import pytest
from real_pile import RATED_W, RealPile
from scripted_pile import Hardware, Link, Port
from world import NOW

from pile_coordinator.chain.records import MEASURED, Contract
from pile_edge.agent import Agent
from pile_edge.ports.cpython_storage import Storage
from pile_hil.peer import START
from pile_shared.topics import pile_topic

SECOND = 1000
HOUR = 3600 * SECOND
ENERGY_WH = 5000


class SetBack(Port):
    """A port whose wall clock somebody sets; the ticks go on."""

    offset_ms = 0

    def wall_ms(self) -> int:
        return int(self.hardware.now_ms) + self.offset_ms


@pytest.mark.parametrize("back_s", [20, 600, 3500, 7200, 86_400])
def test_full_power_is_no_more_than_that_while_the_clock_is_slewed(tmp_path, back_s):
    chain = RealPile(begin_grace_ms=3 * HOUR)
    contract = chain.agree(NOW, NOW + 6 * HOUR, ENERGY_WH)
    hardware = Hardware(NOW, power_w=RATED_W)
    came: list[bytes] = []
    link = Link(hardware, SECOND, came.append)
    settings = chain.settings(tmp_path, journal="capacity_bytes = 65536\nsegment_bytes = 4096")
    port = SetBack(hardware, Storage(settings.journal_path), link)
    agent = Agent(settings, port)
    for kind, payload in (
        ("contract", chain.contract_message(contract)),
        ("session", chain.session_message(contract, START, NOW)),
    ):
        link.queue.append((pile_topic(chain.chain_id, "pile-1", kind), payload))
    for second in range(4000):
        agent.step()
        if second == 300:
            port.offset_ms = -back_s * SECOND
        if came:
            chain.take(came, hardware.now_ms)
            chain.check()
            came.clear()
            link.queue.append((pile_topic(chain.chain_id, "pile-1", "receipt"), chain.receipt_message()))
    found = chain.state.get(Contract, contract.id)
    assert found.phase == MEASURED
    assert abs(chain.settle(found) - ENERGY_WH) <= 30
