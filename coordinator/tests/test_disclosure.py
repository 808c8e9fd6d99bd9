"""A driver's word that an anonymous order was theirs: nobody else can say it, of no other order, in no other words."""

import pytest
from world import key

from pile_coordinator.chain import notes
from pile_coordinator.disclosure import MAX_TEXT, PURPOSE, DisclosureError, check_against, disclose
from pile_coordinator.ring.group import public_of
from pile_coordinator.ring.keys import base_secret
from pile_coordinator.ring.signature import key_image
from pile_shared import cose
from pile_shared.codec import decode, encode
from pile_shared.errors import BoundsError
from pile_shared.platform import sha256

CHAIN, BIN, ORDER, PLACE = "demo-1", notes.bin_id(6, 3), sha256(b"order"), 5
SECRETS = [base_secret(bytes(32), CHAIN, i) for i in range(16)]
RING = b"".join(public_of(secret) for secret in SECRETS)
IMAGE = key_image(SECRETS[PLACE], notes.context(CHAIN, BIN))
ROW = ("version", "chain", "order", "party", "public", "bin", "place", "key", "image", "text", "proof")


def made(secret=SECRETS[PLACE], place=PLACE, party="dan", order=ORDER, chain=CHAIN, name=BIN, text="the tax office"):
    return disclose(key(party), chain, order, party, secret, name, place, text)


def checked(data):
    return check_against(data, CHAIN, ORDER, BIN, IMAGE, RING)


def resigned(data, signer, **changed):
    """The row with other values, well signed by somebody."""
    row = dict(zip(ROW, decode(cose.parse1(data, 2048).payload, 2048), strict=True)) | changed
    return cose.sign1(encode(list(row.values())), key(signer), cose.purpose(PURPOSE, CHAIN))


def test_it_names_party_key_order_and_words():
    found = checked(made())
    assert (found.party, found.public, found.order, found.text) == ("dan", key("dan").public, ORDER, "the tax office")
    assert found.fingerprint == sha256(key("dan").public).hex()
    assert len(made()) < 700


@pytest.mark.parametrize(
    ("party", "changed", "why"),
    [
        (
            "eva",
            {"party": "eva", "public": key("eva").public},
            "did not have the secret",
        ),  # passed on under another name
        ("dan", {"party": "eva"}, "did not have the secret"),
        ("eva", {"party": "eva"}, "signed by the party"),
        ("dan", {"text": "the police"}, "did not have the secret"),
        ("dan", {"order": sha256(b"another")}, "about order"),
        ("dan", {"chain": "demo-2"}, "of demo-2"),
        ("dan", {"place": PLACE + 1}, "not at that place"),
        ("dan", {"place": 16}, "0 to 15"),
        ("dan", {"place": PLACE + 1, "key": public_of(SECRETS[PLACE + 1])}, "did not have the secret"),
        ("dan", {"bin": notes.bin_id(6, 4)}, "another note"),
        ("dan", {"image": key_image(SECRETS[1], notes.context(CHAIN, BIN))}, "another note"),
        ("dan", {"proof": bytes(64)}, "did not have the secret"),
        ("dan", {"proof": bytes(63)}, "64"),
        ("dan", {"version": 2}, "version"),
        ("dan", {"text": "é"}, "text"),
        ("dan", {"party": 1}, "party"),
    ],
)
def test_what_is_forged_transferred_or_altered_is_refused(party, changed, why):
    with pytest.raises(DisclosureError, match=why):
        checked(resigned(made(), party, **changed))


def test_who_owns_another_note_of_the_bin_shows_nothing():
    """Their image is not the order's, whatever they write."""
    with pytest.raises(DisclosureError, match="another note"):
        checked(made(SECRETS[1], 1, party="eva"))
    with pytest.raises(DisclosureError, match="did not have the secret"):
        checked(resigned(made(SECRETS[1], 1, party="eva"), "eva", image=IMAGE))


def test_every_byte_counts():
    data = made()
    for i in range(len(data)):
        with pytest.raises(DisclosureError):
            checked(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
    for length in (0, 1, 100, len(data) - 1):
        with pytest.raises(DisclosureError):
            checked(data[:length])


def test_the_words_are_bounded():
    assert checked(made(text="x" * MAX_TEXT)).text == "x" * MAX_TEXT
    for text in ("", "x" * (MAX_TEXT + 1), "für"):
        with pytest.raises(BoundsError):
            made(text=text)
