"""Records leave a pile in order, each until it is answered by an accounting node it believes, whatever is cut."""

import errno
import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pile_edge.agent import RESEND_SLOWEST
from pile_edge.ocmf import make_record
from pile_edge.ocmf_records import RecordBook
from pile_edge.ocmf_sending import PACE_MS, RecordSender
from pile_hil.peer import secret
from pile_shared import cose
from pile_shared.errors import JournalError, PilechainError, SignatureError
from pile_shared.proof import BEGIN, END, REASON_USER, Origin, Proof
from pile_shared.reading import TIME_SYNCHRONISED, Reading
from pile_shared.record import STORED, decode_record, encode_record, sign_answer

CHAIN, PILE = "valley", "pile-1"
SIGNER, NODE = cose.SoftwareSigner(secret(71)), cose.SoftwareSigner(secret(72))
ORIGIN = Origin("ABB B23", "1", "abb-b23", bytes(32))
RESEND_MS = 60_000
ALL = 1 << 32


def fill(book, sequences, pagination=1):
    """Records of these proofs; their messages."""
    messages = []
    for number, sequence in enumerate(sequences):
        event = END if number % 2 else BEGIN
        reading = Reading(sequence, TIME_SYNCHRONISED, bytes(2), sequence, 0, 0)
        proof = Proof(
            sequence, bytes(32), bytes(32), event, [reading], REASON_USER * (number % 2), None if number % 2 else ORIGIN
        )
        text = make_record(proof, pagination + number, f"{CHAIN}/{PILE}", ORIGIN, SIGNER)
        book.add(proof, pagination + number, text)
        messages.append(encode_record(sequence, text))
    return messages


class Link:
    """What was published, and whether anything can be."""

    def __init__(self):
        self.connected, self.takes, self.sent = True, True, []

    def publish(self, topic, payload):
        assert topic == f"pilechain/1/{CHAIN}/{PILE}/record"
        if self.takes:
            self.sent.append(payload)
        return self.takes


@pytest.fixture
def pile(tmp_path):
    book = RecordBook(str(tmp_path / "ocmf"))
    return SimpleNamespace(
        book=book, link=Link(), sender=RecordSender(book, CHAIN, PILE, RESEND_MS), folder=tmp_path / "ocmf"
    )


def answer(message, outcome=STORED, signer=NODE, pile=PILE):
    return sign_answer(CHAIN, pile, message, outcome, signer)


def hear(pile, message, **how):
    return pile.sender.hear(answer(message, **how), [NODE.public])


def test_one_at_a_time_oldest_first_at_a_pace_and_only_what_the_chain_has(pile):
    messages = fill(pile.book, [3, 9, 12])
    pile.sender.send(pile.link, 0, 2)
    assert pile.link.sent == []  # the begin proof has no receipt yet
    pile.sender.send(pile.link, 0, 9)
    pile.sender.send(pile.link, 1, 9)
    assert pile.link.sent == messages[:1]
    assert "T1 stored" in hear(pile, messages[0])
    pile.sender.send(pile.link, PACE_MS - 1, 9)
    assert pile.link.sent == messages[:1]
    pile.sender.send(pile.link, PACE_MS, 9)
    assert pile.link.sent == messages[:2]
    hear(pile, messages[1])
    pile.sender.send(pile.link, 10 * PACE_MS, 11)
    assert pile.link.sent == messages[:2]
    pile.sender.send(pile.link, 10 * PACE_MS, 12)
    assert pile.link.sent == messages


def test_without_an_answer_it_is_sent_ever_more_rarely_and_at_once_after_a_reconnect(pile):
    (message,) = fill(pile.book, [1])
    times, now_ms = [], 0
    while len(times) < 8:
        before = len(pile.link.sent)
        pile.sender.send(pile.link, now_ms, ALL)
        if len(pile.link.sent) > before:
            times.append(now_ms)
        now_ms += 1000
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == [RESEND_MS * factor for factor in (1, 2, 4, 8, 16, 16, 16)]
    assert RESEND_SLOWEST == 16
    pile.link.connected = False
    pile.sender.send(pile.link, now_ms, ALL)
    pile.link.connected = True
    pile.sender.send(pile.link, now_ms, ALL)
    assert pile.link.sent == [message] * 9
    pile.link.takes = False  # a full window: later
    pile.sender.send(pile.link, now_ms + 16 * RESEND_MS, ALL)
    pile.link.takes = True
    pile.sender.send(pile.link, now_ms + 16 * RESEND_MS, ALL)
    assert pile.link.sent == [message] * 10


def test_only_an_answer_to_these_bytes_by_a_believed_node_counts(pile):
    first, second = fill(pile.book, [1, 2])
    other = encode_record(1, decode_record(first)[1].replace("ABB", "ABC"))
    pile.sender.send(pile.link, 0, ALL)
    for wrong, code in (
        (answer(first, signer=SIGNER), "unknown_key"),
        (answer(first, pile="pile-2"), "pile"),
        (answer(other), "record"),
        (answer(second), "record"),
        (answer(first)[:-1] + b"\x00", "bad_signature"),
        (b"", "malformed"),
        (b"\xff" * 1000, "oversized"),
    ):
        with pytest.raises(SignatureError) as refused:
            pile.sender.hear(wrong, [NODE.public])
        assert refused.value.code == code
    assert not (pile.folder / "receipted").exists()
    assert "stored" in hear(pile, first)
    assert hear(pile, first) == ""  # again, or late: nothing is under way
    pile.sender.send(pile.link, PACE_MS, ALL)
    assert hear(pile, first) == ""
    assert pile.link.sent == [first, second]


def test_a_refusal_for_good_is_said_and_the_next_one_goes_out(pile):
    first, second = fill(pile.book, [1, 2])
    pile.sender.send(pile.link, 0, ALL)
    assert "T1 is refused for good: record_differs; it stays" in hear(pile, first, outcome="record_differs")
    pile.sender.send(pile.link, PACE_MS, ALL)
    assert pile.link.sent == [first, second]
    assert len(list(pile.folder.glob("*.ocmf"))) == 2


@given(st.lists(st.booleans(), max_size=12))
def test_a_power_cut_before_or_after_any_answer_has_each_sent_in_order_and_none_left_out(tmp_path_factory, cuts):
    """`cuts`: whether the power goes before the answer comes; the coordinator keeps what it has heard."""
    folder = tmp_path_factory.mktemp("cuts")
    messages, heard = fill(RecordBook(str(folder)), [2, 5, 6, 11]), []
    for is_cut in [*cuts, *[False] * 5]:
        link, sender = Link(), RecordSender(RecordBook(str(folder)), CHAIN, PILE, RESEND_MS)
        sender.send(link, 0, ALL)
        heard += link.sent
        if link.sent and not is_cut:
            sender.hear(answer(link.sent[0]), [NODE.public])
    assert list(dict.fromkeys(heard)) == messages
    assert [messages.index(message) for message in heard] == sorted(messages.index(message) for message in heard)
    assert len(heard) <= 4 + sum(cuts)


def test_without_its_mark_a_pile_sends_all_again(pile):
    messages = fill(pile.book, [1, 2])
    pile.book.retire(2)
    assert RecordBook(str(pile.folder)).next_unsent(ALL) is None
    for text in ("", "two", "-1"):
        (pile.folder / "receipted").write_text(text)
        assert RecordBook(str(pile.folder)).next_unsent(ALL).pagination == 1
    (pile.folder / "receipted").unlink()
    sender = RecordSender(RecordBook(str(pile.folder)), CHAIN, PILE, RESEND_MS)
    sender.send(pile.link, 0, ALL)
    assert pile.link.sent == messages[:1]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 3000])
def test_a_record_that_somebody_changed_is_passed_over_and_said(pile, content):
    first, second = fill(pile.book, [1, 2])
    path = next(pile.folder.glob("T0000000001-*"))
    path.write_bytes(content)
    assert "is not sent, it was changed" in pile.sender.send(pile.link, 0, ALL)
    pile.sender.send(pile.link, PACE_MS, ALL)
    assert pile.link.sent == [second] != [first]


def test_on_a_full_disk_the_answer_counts_until_the_next_start(pile, monkeypatch):
    first, second = fill(pile.book, [1, 2])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    pile.sender.send(pile.link, 0, ALL)
    monkeypatch.setattr(pile.book._storage, "replace", full)
    with pytest.raises(JournalError) as told:
        hear(pile, first)
    assert told.value.code == "full"
    pile.sender.send(pile.link, PACE_MS, ALL)
    assert pile.link.sent == [first, second]
    assert RecordBook(str(pile.folder)).next_unsent(ALL).pagination == 1


def test_records_beyond_the_bound_go_oldest_first_answered_or_not(tmp_path):
    book = RecordBook(str(tmp_path / "ocmf"), max_records=3)
    messages = fill(book, [1, 2, 3, 4, 5])
    assert book.next_unsent(ALL).pagination == 3
    link = Link()
    RecordSender(book, CHAIN, PILE, RESEND_MS).send(link, 0, ALL)
    assert link.sent == messages[2:3]


@given(st.binary(max_size=300))
def test_whatever_comes_as_an_answer_is_refused_by_a_typed_error(tmp_path_factory, data):
    book = RecordBook(str(tmp_path_factory.mktemp("book")))
    sender = RecordSender(book, CHAIN, PILE, RESEND_MS)
    with pytest.raises(PilechainError):
        sender.hear(data, [NODE.public])
