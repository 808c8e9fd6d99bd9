"""`pile-edge verify-journal` on journals that the real one wrote, whole and spoilt in every way a disk or a hand could."""

import json
import struct
import subprocess
import sys
import zlib

import pytest

from pile_edge.journal import CURSOR_NAME, Journal
from pile_edge.journal_check import check_journal
from pile_edge.ports.cpython_storage import Storage
from pile_hil.peer import secret
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError
from pile_shared.proof import (
    BEGIN,
    END,
    HEARTBEAT,
    NO_PREVIOUS,
    PERIODIC,
    REASON_USER,
    Origin,
    Proof,
    proof_hash,
)
from pile_shared.reading import TIME_SYNCHRONISED, Reading

PILE, CHAIN = SoftwareSigner(secret(7)), "test-chain"
CONTRACT = b"c" * 32
T0, WH0 = 1_800_000_000_000, 1_000_000
SESSION = [HEARTBEAT, BEGIN, *[PERIODIC] * 12, END, HEARTBEAT]


def reading(i, energy_wh=None):
    wh = WH0 + 10 * i if energy_wh is None else energy_wh
    return Reading(T0 + 1000 * i, TIME_SYNCHRONISED, wh.to_bytes(8, "big"), wh, 7000, 0)


class Writer:
    """Proofs as the agent makes them, each change of which a test can ask for."""

    def __init__(self, folder):
        self.folder = folder
        self.journal = Journal(Storage(str(folder)), capacity_bytes=1 << 20, segment_bytes=2062)
        self.previous = NO_PREVIOUS
        self.sequence = 0

    def add(self, event, *, readings=None, signer=PILE, chain=CHAIN, previous=None, sequence=None, contract=CONTRACT):
        self.sequence += 1
        proof = Proof(
            sequence or self.sequence,
            self.previous if previous is None else previous,
            None if event == HEARTBEAT else contract,
            event,
            readings or [reading(self.sequence)],
            REASON_USER if event == END else 0,
            Origin("B23", "123", "abb-b23", bytes(32)) if event == BEGIN else None,
        )
        message = proof.sign(signer, chain)
        self.journal.append(self.sequence, message)
        self.previous = proof_hash(message)

    def check(self):
        return check_journal(self.folder, PILE.public, CHAIN)

    def segments(self):
        return sorted(path for path in self.folder.iterdir() if path.name != CURSOR_NAME)


@pytest.fixture
def writer(tmp_path):
    return Writer(tmp_path / "journal")


@pytest.fixture
def session(writer):
    for event in SESSION:
        writer.add(event)
    return writer


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_a_good_journal_holds(session):
    session.journal.save_state(b"state")
    before = contents(session.folder)
    report = session.check()
    assert (report.problems, report.notes) == ([], [])
    assert (report.first, report.last, report.records) == (1, 16, 16)
    assert (report.retired, report.pending, report.sessions) == (None, 16, 1)
    assert report.events == {"heartbeat": 2, "begin": 1, "periodic": 12, "end": 1}
    assert (report.from_ms, report.to_ms, report.energy_wh) == (T0 + 1000, T0 + 16_000, 150)
    assert report.segments == len(session.segments()) > 1
    assert report.size_bytes == session.journal.used_bytes
    assert contents(session.folder) == before


def test_more_that_waits_than_a_pile_sends_at_once_is_noted(writer):
    for _ in range(66):
        writer.add(HEARTBEAT)
    writer.journal.retire(2)
    assert writer.check().notes == []
    writer.add(HEARTBEAT)
    (note,) = writer.check().notes
    assert note.startswith("no receipt for proof 3 and what follows: ")
    assert writer.check().problems == []


def test_a_journal_whose_beginning_was_retired(session):
    session.journal.retire(14)
    report = session.check()
    assert report.problems == []
    assert report.first > 1
    assert (report.retired, report.last, report.pending) == (14, 16, 2)


def test_a_torn_tail_is_a_note_and_is_left_alone(session):
    newest = session.segments()[-1]
    whole = newest.read_bytes()
    for cut in (1, 5, len(whole) - 5):
        newest.write_bytes(whole[:-cut])
        before = contents(session.folder)
        report = session.check()
        assert report.problems == []
        assert "the next start cuts them off" in report.notes[0]
        assert contents(session.folder) == before


def test_any_spoilt_byte_is_noticed(session):
    session.journal.retire(1)
    for path in session.folder.iterdir():
        whole = path.read_bytes()
        for at in range(0, len(whole), 37):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            report = session.check()
            assert report.problems or report.notes
            # In the last record of the newest segment it looks like a torn tail; all else was acknowledged once.
            assert report.problems or path == session.segments()[-1]
        path.write_bytes(whole)
    assert session.check().problems == []


def test_a_missing_segment_is_noticed(session):
    for _ in range(20):
        session.add(HEARTBEAT)
    first, second, _third, *_ = session.segments()
    second.unlink()
    assert any("sequence" in problem and "after" in problem for problem in session.check().problems)
    first.unlink()
    report = session.check()
    assert report.problems == []  # nothing tells what there was before: no receipt, no record


def test_unreceipted_records_that_are_gone_are_noticed(session):
    session.journal.retire(2)
    session.segments()[0].unlink()
    assert any("are missing, and no receipt covers them" in problem for problem in session.check().problems)


def test_a_lost_end_is_noticed(session):
    session.journal.retire(1)
    session.segments()[-1].unlink()
    assert any("proofs up to 16 were written, the segments end at" in problem for problem in session.check().problems)


def mend(path, offset, record):
    """Put another record of the same length in place, with a CRC that is right."""
    data = path.read_bytes()
    length, sequence = struct.unpack_from(">HQ", data, offset)
    assert length == len(record)
    body = struct.pack(">HQ", length, sequence) + record
    path.write_bytes(data[:offset] + body + struct.pack(">I", zlib.crc32(body)) + data[offset + len(body) + 4 :])


def test_a_record_changed_with_its_crc_breaks_signature_and_chain(session):
    path = session.segments()[0]
    record = bytearray(session.journal.pending(-1, 1)[0][1])
    record[60] ^= 1
    mend(path, 0, bytes(record))
    problems = session.check().problems
    assert any("proof 1: bad_signature" in problem for problem in problems)
    assert any("proof 2 does not follow the one before" in problem for problem in problems)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"signer": SoftwareSigner(secret(8))}, "unknown_key"),
        ({"chain": "other"}, "bad_signature"),
        ({"previous": bytes(32)}, "chain of hashes is broken"),
        ({"sequence": 99}, "proof 99 in the record of 15"),
        ({"readings": [reading(15, WH0)]}, "energy falls from"),
        ({"readings": [reading(2, WH0 + 500)]}, "time runs back by 12000 ms"),
        ({"contract": b"d" * 32}, "the end of another session"),
    ],
)
def test_a_signed_proof_that_does_not_fit_is_noticed(writer, how, words):
    for event in SESSION[:-2]:
        writer.add(event)
    writer.add(END, **how)
    (problem,) = writer.check().problems
    assert words in problem


def test_two_begins_are_noticed(writer):
    writer.add(BEGIN)
    writer.add(BEGIN, contract=b"d" * 32)
    assert any("begins before" in problem for problem in writer.check().problems)


def test_a_list_of_problems_is_bounded(session):
    report = check_journal(session.folder, SoftwareSigner(secret(9)).public, CHAIN)
    assert len(report.problems) == 16
    for event in [HEARTBEAT] * 120:
        session.add(event, signer=SoftwareSigner(secret(8)))
    assert len(session.check().problems) == 100


def test_no_journal_is_told(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="no journal here"):
            check_journal(folder, PILE.public, CHAIN)


# --- the command


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pile_edge.cli", "verify-journal", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(session):
    told = ("--journal", session.folder, "--public", PILE.public.hex(), "--chain", CHAIN)
    done = command(*told)
    assert (done.returncode, "16: 1 to 16" in done.stdout) == (0, True)
    assert "every record, hash and signature checks" in done.stdout
    row = json.loads(command(*told, "--json").stdout)
    assert (row["ok"], row["records"], row["sessions"]) == (True, 16, 1)
    wrong = command(*told[:-1], "other-chain")
    assert wrong.returncode == 1
    assert wrong.stdout.count("bad_signature") == 16
    row = json.loads(command(*told[:-1], "other-chain", "--json").stdout)
    assert (row["ok"], len(row["problems"])) == (False, 16)


def test_wrong_arguments(tmp_path):
    assert command().returncode == 2
    assert "needs --config, or" in command().stderr
    done = command("--journal", tmp_path, "--public", "04", "--chain", "x")
    assert (done.returncode, "130 hexadecimal digits" in done.stderr) == (2, True)
    done = command("--journal", tmp_path, "--public", PILE.public.hex(), "--chain", "x")
    assert (done.returncode, "no journal here" in done.stderr) == (2, True)
