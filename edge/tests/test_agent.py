"""The agent from the outside: its own process, simulated hardware, a real broker, and a test that plays coordinator."""

import json
import subprocess
import sys

import pytest

from pile_edge.ports import cpython as port
from pile_hil.peer import Chain
from pile_hil.pile_case import AgentProcess, PileCase
from pile_shared import proof as p
from pile_shared.certificate import Inclusion, decode_inclusion, validators_hash
from pile_shared.codec import decode, encode
from pile_shared.reading import FLAG_CONTACTOR_CLOSED
from pile_shared.terms import LEAF_CONTRACT


def start_agent(path, *options):
    return AgentProcess([sys.executable, "-m", "pile_edge.cli", "run", "--config", str(path), *options])


@pytest.fixture
def case(tmp_path):
    with PileCase(tmp_path) as case:
        yield case


def events(coordinator, contract=None):
    return [proof.event for proof in coordinator.proofs if contract is None or proof.contract == contract]


def has_event(event):
    return lambda coordinator: event in events(coordinator)


def end_reason(coordinator):
    """Of the END; a heartbeat may have come after it."""
    (end,) = [proof for proof in coordinator.proofs if proof.event == p.END]
    return end.reason


def check_session(case, terms, reason):
    """One BEGIN, one END, and what it says is what flowed."""
    coordinator = case.coordinator
    proofs = [proof for proof in coordinator.proofs if proof.contract == terms.contract_id()]
    kinds = [proof.event for proof in proofs]
    assert kinds[0] == p.BEGIN
    assert kinds[-1] == p.END
    assert kinds.count(p.BEGIN) == kinds.count(p.END) == 1
    assert set(kinds[1:-1]) <= {p.PERIODIC}
    assert proofs[-1].reason == reason
    assert coordinator.faults == []
    truth = case.truth()
    assert truth["coil"] is False
    assert proofs[-1].readings[-1].energy_wh == truth["meter_wh"]
    assert proofs[0].readings[0].flags & FLAG_CONTACTOR_CLOSED == 0
    assert proofs[-1].readings[-1].flags & FLAG_CONTACTOR_CLOSED == 0
    return proofs


def test_a_session_to_the_contracted_energy_and_every_receipt(case):
    coordinator = case.coordinator
    with start_agent(case.write_config()) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        believed = validators_hash(case.chain.validators)
        state, pile, head, firmware, *rest = decode(coordinator.status, 256)
        assert (state, pile, firmware, rest) == (1, "pile-1", port.firmware_hash(), [believed, ""])
        assert head in {0, 1}
        terms = case.terms(energy_wh=1_000)
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.END), 60)
        proofs = check_session(case, terms, p.REASON_ENERGY_REACHED)
        used_wh = proofs[-1].readings[-1].energy_wh - proofs[0].readings[0].energy_wh
        assert 1_000 <= used_wh <= 1_100
        assert len(proofs) > 3
        head = len(coordinator.messages)
        coordinator.wait(lambda _: any(f"receipt through {head} " in line for line in agent.lines))
        assert agent.stop() == 0
    assert agent.lines[-1].endswith(f"retired {len(coordinator.messages)}")
    checked = subprocess.run(
        [sys.executable, "-m", "pile_edge.cli", "verify-journal", "--json", "--config", case.folder / "pile.toml"],
        capture_output=True,
        check=True,
    )
    report = json.loads(checked.stdout)
    assert (report["ok"], report["pending"], report["last"]) == (True, 0, len(coordinator.messages))


def test_kill_in_mid_session_resumes_with_one_begin(case):
    coordinator = case.coordinator
    path = case.write_config()
    terms = case.terms(energy_wh=2_000)
    with start_agent(path) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        case.reserve_and_start(terms)
        coordinator.wait(lambda c: events(c).count(p.PERIODIC) >= 2, 60)
        agent.kill()
    assert case.truth()["coil"] is True  # nobody opened it
    with start_agent(path):
        count = len(coordinator.proofs)
        coordinator.wait(lambda c: p.PERIODIC in [proof.event for proof in c.proofs[count:]], 60)
        case.user_asks(terms)
        coordinator.wait(has_event(p.END), 60)
        check_session(case, terms, p.REASON_USER)


def test_sigterm_opens_the_contactor_and_the_next_start_resumes(case):
    coordinator = case.coordinator
    path = case.write_config()
    terms = case.terms(energy_wh=20_000, overuse_wh=2_000)
    with start_agent(path) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.PERIODIC), 60)
        assert agent.stop() == 0
    assert case.truth()["coil"] is False
    assert p.END not in events(coordinator)
    with start_agent(path) as agent:
        coordinator.wait(lambda _: "contactor closed" in agent.lines)
        case.user_asks(terms)
        coordinator.wait(has_event(p.END), 60)
    check_session(case, terms, p.REASON_USER)


def test_a_silent_meter_ends_the_session(case):
    coordinator = case.coordinator
    with start_agent(case.write_config()):
        coordinator.wait(has_event(p.HEARTBEAT))
        terms = case.terms(energy_wh=20_000, overuse_wh=2_000)
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.PERIODIC), 60)
        case.rig.command({"do": "fault", "pile": "pile-1", "kind": "silence"})
        coordinator.wait(has_event(p.END), 60)
        assert end_reason(coordinator) == p.REASON_METER_SILENT
        assert case.truth()["coil"] is False


def test_forged_and_misdirected_messages_change_nothing(case):
    coordinator, chain = case.coordinator, case.chain
    coordinator.answers = False
    with start_agent(case.write_config()) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        terms = case.terms()
        case.user_asks(terms, 1)  # before the contract is there
        coordinator.send("contract", chain.contract(case.terms(meter_serial="1")))
        coordinator.send("contract", b"\xff" * 100)
        coordinator.send("contract", with_no_s(chain.contract(terms)))
        coordinator.send("receipt", chain.receipt("pile-1", 1, bytes(32)))
        coordinator.send("receipt", chain.receipt("pile-1", 4_000_000, bytes(32)))
        coordinator.send("session", b"start")
        coordinator.wait(lambda _: sum("refused" in line for line in agent.lines) >= 7)
        assert {line.split(": ")[1] for line in agent.lines if line.startswith("refused")} == {
            "unknown_contract",
            "meter",
            "codec",
            "signature",
            "receipt_fork",
            "receipt_ahead",
            "malformed",
        }
        assert case.truth()["coil"] is False


def with_no_s(message):
    """A certificate whose first signature has an s above n: found by fuzzing, when it ended the agent."""
    inclusion = decode_inclusion(message)
    row = inclusion.certificate.attestations[0]
    row[1] = row[1][:32] + b"\xff" * 32
    return inclusion.encoded()


def forged(case, terms):
    """A contract over four times the energy under the certificate of the true one."""
    true = decode_inclusion(case.chain.contract(terms))
    leaf = encode([LEAF_CONTRACT, case.terms(energy_wh=4 * terms.energy_wh).encoded()])
    return Inclusion(true.certificate, leaf, true.index, true.path).encoded()


def by_too_few(case, terms):
    leaf = encode([LEAF_CONTRACT, terms.encoded()])
    return case.chain.inclusion(leaf, signing=(0, 1)).encoded()


def by_a_stale_set(case, terms):
    """The accounting nodes have changed; the old ones certify once more."""
    following = Chain(first_key=2000)
    case.coordinator.send("validators", case.chain.hand_over(following))
    return case.chain.contract(terms)


def of_another_chain(_case, terms):
    return Chain("other-chain").contract(terms)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (forged, "inclusion", "does not contain this: it is forged"),
        (by_too_few, "quorum", "attested by 2 of 3 in power: not more than two thirds"),
        (by_a_stale_set, "validators", "is certified by other accounting nodes than those known here: the operator"),
        (of_another_chain, "chain", "block is of chain other-chain: is this the right broker?"),
    ],
)
def test_what_is_not_certified_does_not_energise_and_the_pile_says_why(case, make, code, words):
    coordinator = case.coordinator
    with start_agent(case.write_config(resend_ms=1_000)) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        terms = case.terms()
        coordinator.send("contract", make(case, terms))
        case.user_asks(terms, 1)
        # In words in the log, as a code in the status.
        coordinator.wait(
            lambda _: any("refused session: unknown_contract: no verified" in line for line in agent.lines)
        )
        (line,) = [line for line in agent.lines if line.startswith("refused contract")]
        assert line.startswith(f"refused contract: {code}: ")
        assert words in line
        coordinator.wait(lambda c: decode(c.status, 256)[5:] == [code])
        assert p.BEGIN not in events(coordinator)
        assert case.truth()["coil"] is False


def test_a_pile_follows_its_accounting_nodes_through_a_restart(case):
    """The second set's contract is charged by, and after a power cut the third's receipts count."""
    coordinator, path = case.coordinator, case.write_config(resend_ms=1_000)
    with start_agent(path) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        second = Chain(first_key=2000, powers=(1, 1, 1, 1))
        coordinator.send("validators", case.chain.hand_over(second))
        case.chain = coordinator.chain = second
        coordinator.wait(lambda c: decode(c.status, 256)[4:] == [validators_hash(second.validators), ""])
        terms = case.terms(energy_wh=20_000, overuse_wh=2_000)
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.PERIODIC), 60)
        agent.kill()
    third = Chain(first_key=3000)
    with start_agent(path) as agent:
        coordinator.send("validators", second.hand_over(third))
        case.chain = coordinator.chain = third
        coordinator.wait(lambda _: any("the accounting nodes are node-0 node-1 node-2" in line for line in agent.lines))
        case.user_asks(terms)
        coordinator.wait(has_event(p.END), 60)
        check_session(case, terms, p.REASON_USER)
        head = len(coordinator.messages)
        coordinator.wait(lambda _: any(f"receipt through {head} " in line for line in agent.lines))


def test_proofs_made_without_a_broker_are_published_after(case):
    coordinator = case.coordinator
    with start_agent(case.write_config()):
        coordinator.wait(has_event(p.HEARTBEAT))
        terms = case.terms(energy_wh=1_500)
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.PERIODIC), 60)
        case.broker.stop()
        try:
            coordinator.wait(lambda _: case.truth()["coil"] is False, 60)  # the session ends by itself
        finally:
            case.broker.start()
        coordinator.wait(has_event(p.END), 60)
        check_session(case, terms, p.REASON_ENERGY_REACHED)


def test_without_receipts_proofs_are_sent_again(case):
    coordinator = case.coordinator
    coordinator.answers = False
    with start_agent(case.write_config(resend_ms=30_000)) as agent:
        coordinator.wait(lambda c: c.repeated >= 2, 30)
        coordinator.answers = True
        coordinator.wait(lambda _: any(line.startswith("receipt through") for line in agent.lines), 30)
    assert coordinator.faults == []


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_dry_run_leaves_nothing_behind_and_switches_nothing(case):
    path = case.write_config(report_ms=5_000, heartbeat_ms=5_000)
    case.folder.joinpath("pile.key").unlink()
    before = files(case.folder)
    case.rig.command({"do": "fault", "pile": "pile-1", "kind": "silence", "on": "relay"})  # it is not asked
    with start_agent(path, "--dry-run") as agent:
        case.coordinator.wait(lambda _: any("heartbeat 2: d284" in line for line in agent.lines))
        assert agent.stop() == 0
    assert any("no key at" in line for line in agent.lines)
    assert "would open the contactor (coil)" in agent.lines
    assert not any("does not open" in line for line in agent.lines)
    assert agent.lines[-1].startswith("dry run: ")
    assert agent.lines[-1].endswith("nothing kept, published or switched")
    assert {name: data for name, data in files(case.folder).items() if "broker" not in name.parts} == {
        name: data for name, data in before.items() if "broker" not in name.parts
    }
    assert case.coordinator.proofs == []


def test_dry_run_goes_on_from_the_journal_there_is(case):
    """With the pile's own key and next sequence; the proof it shows is not part of the chain, the next real one is."""
    path, coordinator = case.write_config(heartbeat_ms=5_000), case.coordinator
    with start_agent(path) as agent:
        coordinator.wait(lambda c: len(c.proofs) >= 2)
        assert agent.stop() == 0
    journal = files(case.folder / "journal")
    head = int(agent.lines[-1].split("head ")[1].split(",")[0])
    with start_agent(path, "--dry-run") as agent:
        coordinator.wait(lambda _: any(f"heartbeat {head + 1}: d284" in line for line in agent.lines))
        assert agent.stop() == 0
    assert files(case.folder / "journal") == journal
    with start_agent(path):
        coordinator.wait(lambda c: len(c.proofs) > head)
    assert coordinator.faults == []


def test_dry_run_of_a_journal_that_cannot_be_copied_says_so(case):
    """As when each segment is retired before its turn comes."""
    path = case.write_config()
    case.folder.joinpath("journal").mkdir()
    case.folder.joinpath("journal/gone").symlink_to("retired")
    command = [sys.executable, "-m", "pile_edge.cli", "run", "--config", str(path), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "changes faster than it can be copied: stop the pile for a dry run" in done.stderr


def test_a_full_journal_leaves_out_periodic_proofs_but_never_the_end(case):
    coordinator = case.coordinator
    path = case.write_config(report_ms=5_000)
    path.write_text(path.read_text().replace("4096", "2062").replace("65536", "8248"))
    with start_agent(path) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        coordinator.answers = False
        terms = case.terms(energy_wh=1_500)
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.END), 60)
        assert any("left out a periodic" in line for line in agent.lines)
        check_session(case, terms, p.REASON_ENERGY_REACHED)
        coordinator.answers = True
        coordinator.wait(lambda c: len(c.proofs) > len(events(c, terms.contract_id())) + 1, 60)
    assert coordinator.faults == []


def test_another_meter_than_the_registered_one_is_an_alarm_and_starts_nothing(case):
    coordinator = case.coordinator
    path = case.write_config()
    path.write_text(path.read_text().replace('serial = "12345678"', 'serial = "87654321"'))
    with start_agent(path) as agent:
        coordinator.wait(has_event(p.ALARM))
        assert coordinator.proofs[0].reason == p.REASON_METER_FAULT
        case.reserve_and_start(case.terms(meter_serial="87654321"))
        coordinator.wait(lambda _: any("user asks" in line for line in agent.lines))
        coordinator.wait(lambda c: len(c.proofs) > 1)
    assert p.BEGIN not in events(coordinator)
    assert case.truth()["coil"] is False


def test_a_contactor_that_does_not_obey_ends_the_session(case):
    coordinator = case.coordinator
    with start_agent(case.write_config()) as agent:
        coordinator.wait(has_event(p.HEARTBEAT))
        case.rig.command({"do": "fault", "pile": "pile-1", "kind": "exception", "on": "relay"})
        terms = case.terms()
        case.reserve_and_start(terms)
        coordinator.wait(has_event(p.END), 60)
        assert end_reason(coordinator) == p.REASON_PILE_FAULT
        case.rig.command({"do": "fault", "pile": "pile-1", "kind": "none", "on": "relay"})
        coordinator.wait(lambda _: agent.lines.count("contactor open") >= 2)  # it never stopped trying


def test_two_agents_do_not_share_a_journal(case):
    """The second would open the contactor of a session, and sign other proofs of the same numbers."""
    config = case.write_config()
    with start_agent(config) as first:
        case.coordinator.wait(has_event(p.HEARTBEAT))
        with start_agent(config) as second:
            assert second._wait() == 1
        assert second.lines == [f"pile-edge: another agent uses the journal {case.folder}/journal; stop that one first"]
        first.kill()
    with start_agent(config) as third:
        case.coordinator.wait(lambda _: any(line.startswith("connected") for line in third.lines))
