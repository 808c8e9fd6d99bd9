"""OCMF records: verified by pyocmf, numbered without gaps or repeats whatever is cut, and found again by the command."""

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyocmf import OCMF
from pyocmf.compliance import validate_transaction_pair
from pyocmf.exceptions import PyOCMFError
from pyocmf.utils.xml import OcmfContainer

from pile_edge import ocmf, ocmf_records
from pile_edge.config_file import compile_config, load_config
from pile_edge.ocmf_records import RecordBook, RecordingAgent, list_records, safe_xml
from pile_edge.ports.cpython_storage import Storage
from pile_edge.signers import open_signer
from pile_hil.peer import Chain, secret, session_message
from pile_hil.pile_case import USER, AgentProcess, PileCase
from pile_shared import cose
from pile_shared import proof as p
from pile_shared.errors import ConfigError, JournalError
from pile_shared.reading import TIME_RELATIVE, TIME_SYNCHRONISED, TIME_UNKNOWN, Reading
from pile_shared.topics import pile_topic
from pile_shared.units import MAX_ENERGY_WH, MAX_TIME_MS

T0 = 1_800_000_000_000
SIGNER = cose.SoftwareSigner(secret(71))
KEY = ocmf.public_key_info(SIGNER.public).hex()
ORIGIN = p.Origin("ABB B23", "00012345", "abb-b23", bytes(range(32)))
CONTRACT = bytes(range(32))


def reading(energy_wh, time_ms=T0, status=TIME_SYNCHRONISED):
    return Reading(time_ms, status, b"\x00\x01", energy_wh, 0, 0)


def begin(sequence=1, contract=CONTRACT, **values):
    return p.Proof(sequence, bytes(32), contract, p.BEGIN, [reading(1_234_567, **values)], 0, ORIGIN)


def end(sequence=2, reason=p.REASON_USER, contract=CONTRACT, **values):
    late = reading(1_240_008, **{"time_ms": T0 + 3_600_001, **values})
    return p.Proof(sequence, bytes(32), contract, p.END, [reading(1_234_567), late], reason)


def record(proof, pagination=1, place="valley/pile-1", origin=ORIGIN):
    return ocmf.make_record(proof, pagination, place, origin, SIGNER)


def fields(text):
    return json.loads(text.split("|")[1], parse_float=str)


# --- one record


@pytest.mark.parametrize("reason", range(1, len(p.REASON_NAMES)))
def test_pyocmf_verifies_a_pair_and_finds_it_lawful(reason):
    texts = record(begin(), 7), record(end(reason=reason), 8)
    first, last = (OCMF.from_string(text, strict=True) for text in texts)
    assert first.verify_signature(KEY)
    assert last.verify_signature(KEY)
    assert first.check_eichrecht(last) == []  # no warnings either
    assert validate_transaction_pair(first, last)
    reads = [one.payload.RD[0] for one in (first, last)]
    assert [str(one.RV) for one in reads] == ["1234.567", "1240.008"]
    assert reads[0].RI.is_law_relevant
    assert reads[1].TM.timestamp == datetime(2027, 1, 15, 9, 0, 0, 1000, UTC)


def test_format_version_is_one_the_transparency_software_takes():
    assert fields(record(begin()))["FV"] in ("1.0", "1.1", "1.2", "1.3")


def test_how_it_ended_and_how_sure_the_time_is():
    codes = {reason: fields(record(end(reason=reason)))["RD"][0]["TX"] for reason in range(1, len(p.REASON_NAMES))}
    assert "".join(codes[reason] for reason in sorted(codes)) == "RLLLAAPA"
    for status, letter in zip(range(TIME_UNKNOWN, TIME_RELATIVE + 1), "UISR", strict=True):
        assert fields(record(begin(status=status)))["RD"][0]["TM"] == f"2027-01-15T08:00:00,000+0000 {letter}"


@pytest.mark.filterwarnings("ignore::pyocmf.exceptions.SpecWarning")
def test_every_byte_counts():
    text = record(begin())
    payload = text.split("|")[1]
    for index in range(0, len(payload), 7):
        changed = payload[:index] + chr(ord(payload[index]) ^ 1) + payload[index + 1 :]
        try:
            is_good = OCMF.from_string(text.replace(payload, changed)).verify_signature(KEY)
        except (PyOCMFError, ValueError):  # it is no OCMF any more
            is_good = False
        assert not is_good, index
    other = ocmf.public_key_info(cose.SoftwareSigner(secret(72)).public).hex()
    assert not OCMF.from_string(text).verify_signature(other)


printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=32)


@settings(max_examples=60, deadline=None)
@example(serial='a|b"c\\d&e<', model="| |", time_ms=0, energy_wh=0)
@example(serial="1", model="1", time_ms=MAX_TIME_MS - 1, energy_wh=MAX_ENERGY_WH)
@given(
    serial=printable, model=printable, time_ms=st.integers(0, MAX_TIME_MS - 1), energy_wh=st.integers(0, MAX_ENERGY_WH)
)
def test_any_meter_any_time_any_register(serial, model, time_ms, energy_wh):
    """Bars, quotes, backslashes and ampersands in a meter's name included."""
    origin = p.Origin(model, serial, "abb-b23", bytes(32))
    proof = p.Proof(1, bytes(32), CONTRACT, p.BEGIN, [reading(energy_wh, time_ms)], 0, origin)
    text = record(proof, 9_999_999_999, "v" * 32 + "/" + "p" * 32, origin)
    assert text.isascii()
    assert text.count("|") == 2
    assert len(text) <= 1_024 < ocmf.MAX_RECORD_BYTES
    made = OCMF.from_string(text, strict=True)
    assert made.verify_signature(KEY)
    assert (serial, model, "T9999999999") == (made.payload.MS, made.payload.MM, made.payload.PG)
    assert energy_wh == made.payload.RD[0].RV * 1000
    at = made.payload.RD[0].TM.timestamp
    assert (at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000 == pytest.approx(time_ms, abs=0.5)


@pytest.mark.parametrize("r", [1, 0x7F, 0x80, 1 << 247, 1 << 255])
def test_der_is_what_cryptography_writes(r):
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    raw = r.to_bytes(32, "big") + (r + 1).to_bytes(32, "big")
    assert ocmf.der_signature(raw) == encode_dss_signature(r, r + 1)


def test_the_key_is_what_cryptography_writes():
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    numbers = load_der_public_key(bytes.fromhex(KEY)).public_numbers()
    assert b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big") == SIGNER.public


# --- the folder


def keep(book, proof):
    pagination = book.next_pagination(proof.sequence)
    if pagination is not None:
        book.add(proof, pagination, record(proof, pagination))
    return pagination


def test_numbers_go_on_and_each_proof_has_one(tmp_path):
    folder = str(tmp_path / "ocmf")
    book = RecordBook(folder)
    assert [keep(book, begin(4)), keep(book, end(9)), keep(book, end(9))] == [4, 5, None]
    (tmp_path / "ocmf/note.txt").write_text("somebody's")
    assert keep(RecordBook(folder), begin(20)) == 6
    assert [(one.pagination, one.sequence, one.kind) for one in list_records(folder)] == [
        (4, 4, "begin"),
        (5, 9, "end"),
        (6, 20, "begin"),
    ]
    for one in (tmp_path / "ocmf").iterdir():
        one.unlink()
    assert keep(RecordBook(folder), end(21)) == 21  # above all that was ever used


def test_the_oldest_go_first(tmp_path):
    folder = str(tmp_path)
    book = RecordBook(folder, max_records=3)
    for sequence in range(1, 8):
        keep(book, begin(sequence))
    assert [one.pagination for one in list_records(folder)] == [5, 6, 7]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"OCMF records in .*file cannot be written"):
        RecordBook(str(tmp_path / "file"))


def test_xml_as_the_transparency_software_opens_it(tmp_path):
    book = RecordBook(str(tmp_path / "ocmf"))
    second = bytes(reversed(range(32)))
    for proof in (begin(3), end(4), begin(8, contract=second), end(9, contract=second)):
        keep(book, proof)
    path = tmp_path / "bill.xml"
    path.write_text(safe_xml(list_records(str(tmp_path / "ocmf")), SIGNER.public))
    container = OcmfContainer.from_xml(path, strict=True)
    assert [(one.transaction_id, one.context) for one in container] == [
        (3, "Transaction.Begin"),
        (3, "Transaction.End"),
        (5, "Transaction.Begin"),
        (5, "Transaction.End"),
    ]
    assert all(one.verify_signature() for one in container)
    assert [result.issues for result in container.check_eichrecht()] == [[], []]


# --- the agent


class PowerCut(BaseException):
    """Nothing catches it."""


class CutFs:
    """The os module until its n-th call; that one does half of what it should, or nothing, and is the last."""

    def __init__(self, calls):
        self.left = calls

    def __getattr__(self, name):
        def call(*args, **options):
            self.left -= 1
            if self.left == 0:
                if name == "write":
                    os.write(args[0], args[1][: len(args[1]) // 2])
                raise PowerCut
            return getattr(os, name)(*args, **options)

        return call


class Port:
    """Scripted: one second passes at each poll; 5 Wh a second flow while the contactor is closed."""

    connected = True
    inflight = 0

    def __init__(self, folder, fs, messages):
        self.folder, self.fs, self.messages = folder, fs, messages
        self.step_file = folder / "step"
        self.step = int(self.step_file.read_text()) if self.step_file.exists() else 0
        self.energy_wh = 1_234_560 + 5 * self.step
        self.is_on = False

    def wall_ms(self):
        return T0 + 1000 * self.step

    def ticks_ms(self):
        return 1000 * self.step

    def ticks_diff(self, new, old):
        return new - old

    def time_status(self):
        return TIME_SYNCHRONISED

    def log(self, text):
        pass

    def alive(self):
        """No watchdog here."""

    def keep(self, validators):
        """Keys need no tables here."""

    def reported(self):
        """No software is on trial here."""

    def collect(self):
        pass

    def close(self):
        pass

    def firmware_hash(self):
        return bytes(32)

    def open_bus(self, _section):
        return self

    def open_storage(self, path):
        return Storage(path, self.fs)

    def open_signer(self, uri):
        return open_signer(uri)

    def open_link(self, *_args, **_options):
        return self

    def read(self, unit, _function, address, _count):
        if unit == 2:
            return bytes((int(self.is_on),))
        if address == 20480:
            return (self.energy_wh // 10).to_bytes(8, "big")
        if address == 23316:
            return (1_800_000 if self.is_on else 0).to_bytes(4, "big")
        return (12345678).to_bytes(4, "big")

    def write_coil(self, _unit, _address, on):
        self.is_on = on

    def poll(self, _timeout_ms):
        self.step += 1
        self.step_file.write_text(str(self.step))
        self.energy_wh += 5 if self.is_on else 0
        return list(self.messages.get(self.step, []))

    def publish(self, *_args, **_options):
        return True


@pytest.fixture
def scripted(tmp_path):
    """A pile with a contract, a start and a stop to come."""
    chain, case = Chain(), PileCase(tmp_path)
    case.rig.bus_specs["bus"] = {"kind": "tcp", "host": "127.0.0.1", "port": 502}
    text = case.write_config().read_text()
    clock = f"rate = {case.clock.rate}\norigin_ms = {case.clock.origin_ms}\n"
    assert clock in text
    terms = case.terms(energy_wh=4_000, window_start_ms=T0, window_end_ms=T0 + 36_000_000)
    contract = pile_topic(chain.chain_id, "pile-1", "contract"), chain.contract(terms)
    session = pile_topic(chain.chain_id, "pile-1", "session")
    asks = [
        session_message(USER, chain.chain_id, terms.contract_id(), action, T0 + at * 1000, 0)
        for action, at in ((1, 5), (2, 18))
    ]
    # The broker keeps contracts and repeats the stop; a start lost with the power is asked for again.
    script = {
        4: [contract],
        5: [(session, asks[0])],
        18: [(session, asks[1])],
        24: [contract],
        25: [(session, asks[0])],
    }
    script |= {step: [(session, asks[1])] for step in (32, 36)}

    def run(folder, fs):
        path = folder / "pile.toml"
        path.write_text(text.replace(clock, ""))
        (folder / "pile.key").write_bytes((tmp_path / "pile.key").read_bytes())
        (folder / "pile.key").chmod(0o600)
        config = load_config(path)
        agent = RecordingAgent(config, Port(folder, fs, script))
        while agent._port.step < 40:
            agent.step()
        return agent

    return run


def proofs_of(agent):
    """Everything in the journal, of which nothing has a receipt."""
    return [p.parse(message)[1] for _, message in agent.journal.pending(0, 1000)]


def test_a_power_cut_at_any_file_operation_leaves_no_gap_and_no_number_twice(scripted, tmp_path, monkeypatch):
    def run(folder, calls):
        fs = CutFs(calls)
        monkeypatch.setattr(ocmf_records, "Storage", partial(Storage, fs=fs))
        try:
            return scripted(folder, fs), fs
        except PowerCut:
            return None, fs

    def fresh(name):
        folder = tmp_path / name
        folder.mkdir()
        return folder

    agent, fs = run(fresh("whole"), 10**6)
    calls = 10**6 - fs.left
    assert [proof.event for proof in proofs_of(agent) if proof.contract].count(p.END) == 1
    seen_cut_between = 0
    for cut in range(1, calls + 1):
        folder = fresh(str(cut))
        agent, _ = run(folder, cut)
        assert agent is None
        before = {one.pagination: one.text() for one in list_records(str(folder / "journal-ocmf"))}
        agent, _ = run(folder, 10**6)
        assert agent is not None
        after = list_records(str(folder / "journal-ocmf"))
        marked = [proof for proof in proofs_of(agent) if proof.event in {p.BEGIN, p.END}]
        assert [one.sequence for one in after] == [proof.sequence for proof in marked], cut
        paginations = [one.pagination for one in after]
        assert paginations == list(range(paginations[0], paginations[0] + len(after))), cut
        for one in after:
            assert before.get(one.pagination, one.text()) == one.text()
            assert OCMF.from_string(one.text(), strict=True).verify_signature(
                ocmf.public_key_info(agent._signer.public).hex()
            )
        seen_cut_between += len(before) < len(after)
    assert seen_cut_between > 10


class FullFs:
    """The os module on a disk that is full between two steps of the script in `folder`."""

    def __init__(self, folder, full):
        self.step_file, self.full = folder / "step", full

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, fd, data):
        if self.step_file.exists() and int(self.step_file.read_text()) in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)


@pytest.mark.parametrize("full", [range(5, 12), range(5, 23), range(17, 23), range(17, 99)])
def test_on_a_full_disk_records_come_later_and_the_agent_goes_on(scripted, tmp_path, monkeypatch, full):
    """Whichever of the two finds no room, for however long: each proof has its record in the end, in order."""
    folder = tmp_path / "full"
    folder.mkdir()
    fs = FullFs(folder, full)
    monkeypatch.setattr(ocmf_records, "Storage", partial(Storage, fs=fs))
    agent = scripted(folder, os)
    assert not agent._port.is_on
    fs.full = ()
    agent = scripted(folder, os)  # the next start, at the latest
    marked = [proof.sequence for proof in proofs_of(agent) if proof.event in {p.BEGIN, p.END}]
    records = list_records(str(folder / "journal-ocmf"))
    assert [one.sequence for one in records] == marked
    assert [one.kind for one in records] == ["begin", "end"]
    assert records[1].pagination == records[0].pagination + 1


def test_a_real_agent_makes_them_and_the_command_shows_them(tmp_path):
    with PileCase(tmp_path) as case:
        coordinator, path = case.coordinator, case.write_config()
        with AgentProcess([sys.executable, "-m", "pile_edge.cli", "run", "--config", str(path)]) as agent:
            coordinator.wait(lambda c: p.HEARTBEAT in [proof.event for proof in c.proofs])
            assert pile_edge("ocmf", "--config", path, "--json").stdout == "[]\n"
            assert pile_edge("ocmf", "--config", path).stdout == "no session has left a record yet\n"
            terms = case.terms(energy_wh=1_000)
            case.reserve_and_start(terms)
            coordinator.wait(lambda c: p.END in [proof.event for proof in c.proofs], 60)
            assert agent.stop() == 0
        proofs = [proof for proof in coordinator.proofs if proof.event in {p.BEGIN, p.END}]
    contract = terms.contract_id().hex()
    told = json.loads(pile_edge("ocmf", "--config", path, contract, "--json").stdout)
    assert [one["kind"] for one in told] == ["begin", "end"]
    assert [one["sequence"] for one in told] == [proof.sequence for proof in proofs]
    for one, proof in zip(told, proofs, strict=True):
        made = OCMF.from_string(one["ocmf"], strict=True)
        assert made.verify_signature(ocmf.public_key_info(case.signer.public).hex())
        assert proof.readings[-1].energy_wh == made.payload.RD[0].RV * 1000
        assert f"{case.chain.chain_id}/pile-1" == made.payload.GS
        assert contract[:40] == made.payload.ID
    shown = pile_edge("ocmf", "--config", path, contract[:8]).stdout
    assert shown.splitlines() == [one["ocmf"] for one in told]
    table = pile_edge("ocmf", "--config", path).stdout
    assert f"T{told[0]['pagination']}" in table
    xml = tmp_path / "bill.xml"
    assert pile_edge("ocmf", "--config", path, contract[:8], "--xml", xml).stdout == f"{xml}: 2 records\n"
    (result,) = OcmfContainer.from_xml(xml, strict=True).check_eichrecht()
    assert result.issues == []
    for wrong, message in (("abc", "at least 4 digits"), ("ffffffffff", "no session begins with ffffffffff")):
        refused = pile_edge("ocmf", "--config", path, wrong)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_the_folder_may_be_named_and_a_board_has_none(tmp_path):
    case = PileCase(tmp_path)
    case.rig.bus_specs["bus"] = {"kind": "tcp", "host": "127.0.0.1", "port": 502}
    path = case.write_config()
    assert load_config(path).ocmf_path == f"{tmp_path}/journal-ocmf"
    text = path.read_text()
    path.write_text(text + '[ocmf]\npath = "records"\n')
    assert load_config(path).ocmf_path == f"{tmp_path}/records"
    with pytest.raises(ConfigError, match="a board has no room for OCMF records"):
        compile_config(path, tmp_path / "pile.cbor")
    path.write_text(text + "[ocmf]\nfolder = 1\n")
    with pytest.raises(ConfigError, match="ocmf must be a section with path"):
        load_config(path)
    empty = pile_edge("ocmf", "--config", case.write_config(), "--xml", tmp_path / "x.xml")
    assert empty.returncode == 2
    assert "no OCMF records" in empty.stderr
    assert not (tmp_path / "x.xml").exists()


def pile_edge(*arguments):
    command = [sys.executable, "-m", "pile_edge.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "COLUMNS": "160"}
    )
