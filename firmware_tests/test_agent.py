"""The agent on the real MicroPython: the same proofs as CPython, and whole sessions over serial Modbus and MQTT.

Heap: MicroPython's unix build has 64-bit words, so code and data that are mostly pointers take twice what they take on
a board. HEAP_BYTES is what the modules need here, unlinked, from a ROMFS image, with their names and line numbers for
these tests; test_board.py runs the linked program that a board gets in 64 kB.
"""

import json
import subprocess
from pathlib import Path

import pytest

from pile_edge.board.bundle import build_romfs, find_micropython
from pile_edge.config_file import compile_config
from pile_hil.peer import START, Chain, session_message
from pile_hil.pile_case import USER, AgentProcess, PileCase
from pile_hil.requirements import require
from pile_shared import proof as p
from pile_shared.topics import pile_topic

HEAP_BYTES = 120 * 1024
HERE = Path(__file__).parent
T0 = 1_800_000_000_000


@pytest.fixture(scope="module")
def image(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("rom") / "image"
    path.write_bytes(build_romfs(bundle))
    return path


def board(image, config, command="run", heap_bytes=HEAP_BYTES):
    interpreter = find_micropython()
    require(interpreter is not None, "MicroPython is missing: install the `firmware` dependency group")
    heap = heap_bytes + image.stat().st_size
    return [
        str(interpreter),
        "-X",
        f"heapsize={heap}",
        str(HERE / "run_agent_rom.py"),
        str(image),
        str(config),
        command,
    ]


@pytest.fixture
def case(tmp_path):
    with PileCase(tmp_path, kind="rtu") as case:
        yield case


def has_event(event):
    return lambda coordinator: event in [proof.event for proof in coordinator.proofs]


def check(case, terms, reason):
    coordinator = case.coordinator
    proofs = [proof for proof in coordinator.proofs if proof.contract == terms.contract_id()]
    kinds = [proof.event for proof in proofs]
    assert kinds.count(p.BEGIN) == kinds.count(p.END) == 1
    assert (kinds[0], kinds[-1], proofs[-1].reason) == (p.BEGIN, p.END, reason)
    assert coordinator.faults == []
    assert proofs[-1].readings[-1].energy_wh == case.truth()["meter_wh"]
    assert case.truth()["coil"] is False


def test_a_session_on_a_board(case, image):
    coordinator = case.coordinator
    with AgentProcess(board(image, case.write_board_config())) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        terms = case.terms(energy_wh=600)
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.END), 60)
        check(case, terms, p.REASON_ENERGY_REACHED)
        head = len(coordinator.messages)
        coordinator.wait(lambda _: any(f"receipt through {head} " in line for line in agent.lines))
        assert not any("Error" in line for line in agent.lines[1:])


def test_a_board_that_loses_power_resumes(case, image):
    coordinator = case.coordinator
    config = case.write_board_config()
    terms = case.terms(energy_wh=3_000)
    with AgentProcess(board(image, config)) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.PERIODIC), 60)
        agent.kill()
    with AgentProcess(board(image, config)) as agent:
        coordinator.wait(lambda _: "contactor closed" in agent.lines, 30)
        case.user_asks(terms)
        coordinator.wait(has_event(p.END), 60)
    check(case, terms, p.REASON_USER)


def test_key_command_and_wrong_configuration(case, image):
    config = case.write_board_config()
    shown = subprocess.run(board(image, config, "key"), capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"public {case.signer.public.hex()}\n" in shown
    config.write_bytes(config.read_bytes()[:-1])
    done = subprocess.run(board(image, config), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, f"{config}: truncated\n")


def test_both_interpreters_make_the_same_proofs(cpython, micropython, tmp_path):
    """The real agent through a whole session on a scripted port: every byte of every proof."""
    chain = Chain()
    case = PileCase(tmp_path)
    case.rig.bus_specs["bus"] = {"kind": "tcp", "host": "127.0.0.1", "port": 502}
    source, config = case.write_config(), tmp_path / "pile.cbor"
    source.write_text(source.read_text().replace(f"rate = {case.clock.rate}\norigin_ms = {case.clock.origin_ms}\n", ""))
    compile_config(source, config)
    terms = case.terms(energy_wh=400, window_start_ms=T0, window_end_ms=T0 + 36_000_000)
    contract = chain.contract(terms)
    start = session_message(USER, chain.chain_id, terms.contract_id(), START, T0 + 12_000)
    script = tmp_path / "script.json"
    messages = {
        "5": [[pile_topic(chain.chain_id, "pile-1", "contract"), contract.hex()]],
        "12": [[pile_topic(chain.chain_id, "pile-1", "session"), start.hex()]],
        "13": [[pile_topic(chain.chain_id, "pile-1", "session"), start.hex()[:-2] + "00"]],
    }
    script.write_text(json.dumps({"start_ms": T0, "messages": messages, "steps": 120}))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    run = HERE / "run_agent_script.py"
    ours = cpython(run, config, script, tmp_path / "a")
    theirs = micropython(run, config, script, tmp_path / "b", heap="512k").stdout
    assert theirs == ours
    proofs = [p.open_proof(bytes.fromhex(line), case.signer.public, chain.chain_id) for line in ours.splitlines()[:-1]]
    events = [proof.event for proof in proofs]
    assert {p.HEARTBEAT, p.BEGIN, p.PERIODIC, p.END} <= set(events)
    assert events.count(p.BEGIN) == events.count(p.END) == 1
    assert ours.splitlines()[-1] == "refused [('bad_signature', 1)]"
