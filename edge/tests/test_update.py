"""Offers of new software and their pieces, without a network: what is refused, and how long a pile asks in vain."""

import pytest

from pile_edge.board.software import Software, open_want, piece, read_update, sign_update, write_update
from pile_edge.update import MAX_OFFER_BYTES, PIECE_BYTES, SILENT_MS, Offer, UpdateError, fetch, open_offer, piece_of
from pile_shared.codec import encode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import BoundsError, ConfigError, PilechainError, SignatureError

KEY = SoftwareSigner((4711).to_bytes(32, "big"))
IMAGE = bytes(i * i & 255 for i in range(5000))
UPDATE = sign_update(Software(IMAGE, 7, bytes(32), "mpy6"), KEY, "north", 5)


def state(active=3, floor=0, failed=0):
    return {"active": 0, "floor": floor, "failed": failed, "trial": None, "slots": [[active, 10, ""], None]}


def test_an_offer_is_what_was_signed():
    offer = open_offer(UPDATE.message, KEY.public, "north")
    assert (offer.target, offer.version, offer.min_version, offer.size_bytes) == ("mpy6", 7, 5, 5000)
    assert len(UPDATE.message) < MAX_OFFER_BYTES


def test_every_changed_byte_of_an_offer_is_noticed():
    for index in range(len(UPDATE.message)):
        changed = bytearray(UPDATE.message)
        changed[index] ^= 1
        with pytest.raises(PilechainError):
            open_offer(bytes(changed), KEY.public, "north")


def test_another_chain_and_another_key():
    with pytest.raises(SignatureError):
        open_offer(UPDATE.message, KEY.public, "south")
    with pytest.raises(SignatureError):
        open_offer(UPDATE.message, SoftwareSigner((4712).to_bytes(32, "big")).public, "north")


@pytest.mark.parametrize(
    ("there", "target", "room_bytes", "code"),
    [
        (state(), "mpy7", 9000, "target"),
        (state(active=7), "mpy6", 9000, "old"),
        (state(active=8), "mpy6", 9000, "old"),
        (state(floor=8), "mpy6", 9000, "old"),
        (state(failed=7), "mpy6", 9000, "failed"),
        (state(), "mpy6", 4999, "too_large"),
    ],
)
def test_what_a_board_does_not_take(there, target, room_bytes, code):
    with pytest.raises(UpdateError) as raised:
        UPDATE.offer.check(there, target, room_bytes)
    assert raised.value.code == code
    UPDATE.offer.check(state(), "mpy6", 5000)


@pytest.mark.parametrize(
    "fields", [("x" * 17, 1, 0, 1), ("m", 0, 0, 1), ("m", 1, 2, 1), ("m", 1, 0, 0), ("m", 1, 0, 1 << 21)]
)
def test_bounds(fields):
    with pytest.raises(BoundsError):
        Offer(*fields, bytes(32))


def test_only_the_next_piece_is_one():
    good = piece(UPDATE, 2048)
    assert piece_of(good, UPDATE.offer, 2048) == IMAGE[2048:4096]
    assert piece_of(good, UPDATE.offer, 0) == b""
    assert piece_of(good + b"\0", UPDATE.offer, 2048) == b""
    assert piece_of(encode([7, 4096, IMAGE[4096:] + b"x"]), UPDATE.offer, 4096) == b""
    assert piece_of(encode([7, 0, bytes(PIECE_BYTES + 1)]), UPDATE.offer, 0) == b""
    assert piece_of(encode([6, 0, b"x"]), UPDATE.offer, 0) == b""
    assert piece_of(encode([7, 0, "x"]), UPDATE.offer, 0) == b""


class Link:
    """Time passes by polls; answers every question but the first `lost` ones."""

    def __init__(self, lost=0, connected_after=0):
        self.now, self.asked, self.lost, self.connected_after = 0, [], lost, connected_after
        self.answers = []

    def publish(self, _topic, payload):
        if self.now < self.connected_after:
            return False
        self.asked.append(open_want(payload)[1])
        if len(self.asked) > self.lost:
            self.answers.append(piece(UPDATE, self.asked[-1]))
        return True

    def poll(self, timeout_ms):
        self.now += timeout_ms
        found, self.answers = self.answers, []
        return [("t", payload) for payload in found]


@pytest.mark.parametrize("link", [Link(), Link(lost=3), Link(connected_after=60_000)])
def test_pieces_come_in_order_whatever_is_lost(link):
    got = bytearray()

    def write(offset, data):
        assert offset == len(got)
        got.extend(data)

    fetch(link, "t", UPDATE.offer, write, lambda: link.now, lambda _: None)
    assert bytes(got) == IMAGE
    assert link.asked == [0] * (link.lost + 1) + [2048, 4096]


def test_a_pile_does_not_ask_for_ever():
    link = Link(lost=10**6)
    with pytest.raises(UpdateError, match="nobody sends"):
        fetch(link, "t", UPDATE.offer, None, lambda: link.now, None)
    assert SILENT_MS < link.now < SILENT_MS + 1000
    assert len(link.asked) == 19


def test_a_file_keeps_what_was_signed(tmp_path):
    path = tmp_path / "x.update"
    write_update(UPDATE, path)
    assert read_update(path, KEY.public).image == IMAGE
    for change, words in (
        (lambda data: data.replace(IMAGE[:50], bytes(50)), "not the one the signature is for"),
        (lambda data: data[:-1], "x.update: "),
        (lambda data: data.replace(b"north", b"south"), "does not verify"),
    ):
        path.write_bytes(change(path.read_bytes()))
        with pytest.raises(ConfigError, match=words):
            read_update(path, KEY.public)
        write_update(UPDATE, path)
