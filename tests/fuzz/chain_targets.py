"""What a chain is asked to take: transactions, blocks, certificates and statements of others, and ring signatures."""

import sys
from collections.abc import Iterator
from dataclasses import replace

from fuzz.target import ROOT, attempt, target

sys.path.append(str(ROOT / "coordinator/tests"))

from every_phase import Traceless, every_phase
from world import World, key

from pile_coordinator.chain.records import Contract, Party
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.chain.settlement import Statement, decode_statement
from pile_coordinator.chain.state import store_key
from pile_coordinator.chain.transactions import BODIES, decode_transaction, pseudonym
from pile_coordinator.chain.transition import result_of
from pile_coordinator.chain.tree import decode_state_proof, verify_proof
from pile_coordinator.ring import disclosure, signature
from pile_coordinator.ring.group import hashed, public_of, scalar_from
from pile_shared import cose
from pile_shared.codec import array, decode, encode

MAX_TX_BYTES = 4096
EVERY = every_phase()
MARKET = EVERY.market
LENIENT_ENV = replace(World.env(MARKET), verify=lambda *_: True, verify_ring=lambda *_: True)
MARKET.env = lambda *_: LENIENT_ENV  # type: ignore[method-assign]
TRACELESS = Traceless(MARKET)
PARTIES = {party.id: party for party in MARKET.state.each(Party)}


def bodies() -> Iterator[bytes]:
    for misfit in (5, None, b"grid", ["grid"]):
        yield encode(["deposit", misfit, ["user-1", 5, "payment 9"]])
        yield encode([misfit, "grid", ["user-1", 5, "payment 9"]])
    for kind, (sender, values) in EVERY.valid().items():
        yield encode([kind, sender, values])
        yield MARKET.raw(sender, kind, values) if not sender.startswith("anon-") else encode([kind, sender, []])


@target("transactions", seeds=bodies, max_bytes=MAX_TX_BYTES, short_runs=500)
def transaction(data: bytes) -> None:
    """In a block, in every phase of contracts, by anybody whose signature would be right: a typed result, and no trace."""
    assert TRACELESS.code(data) in {"ok", *CODES}
    row = attempt(lambda: array(decode(data, MAX_TX_BYTES), 3))
    if row is not None:
        result = TRACELESS.result(signed(*row))
        assert result.code in {"ok", *CODES}
        if result.code == "ok":
            assert row[0] in BODIES


def signed(kind: object, sender: object, values: object) -> bytes:
    """As somebody would send it, in turn and in time, with what passes here for a signature."""
    party = PARTIES.get(sender) if isinstance(sender, str) else None
    turn = MARKET.sequences.get(sender, 0) + 1 if party else 1
    if party is None and isinstance(values, list) and len(values) > 1 and isinstance(values[1], bytes):
        sender = pseudonym(values[1])  # who spends notes is named by the key in them
    payload = encode([MARKET.chain_id, kind, sender, turn, MARKET.height + 100, values])
    if party is None:
        count = len(values[0]) if isinstance(values, list) and values and isinstance(values[0], list) else 1
        return encode([payload, [bytes(signature.SIGNATURE_BYTES)] * max(1, count)])
    head = cose.sign1(b"", key("nobody"), b"")[: len(cose._START)] + cose.key_id(party.public) + b"\xa0"
    return head + cose._bstr_head(len(payload)) + payload + b"\x58\x40" + bytes(31) + b"\x01" + bytes(31) + b"\x01"


@target("transaction-form", seeds=bodies, max_bytes=MAX_TX_BYTES)
def form(data: bytes) -> None:
    """Any bytes are a transaction within its ranges or a typed refusal; what it says is what was written."""
    for given in (data, *(attempt(lambda: [signed(*array(decode(data, MAX_TX_BYTES), 3))]) or [])):
        tx = attempt(lambda given=given: decode_transaction(given))
        if tx is None:
            continue
        payload = tx.signed.payload if tx.signed is not None else array(decode(given, 1 << 17), 2)[0]
        values = [getattr(tx.body, name) for name in type(tx.body).__match_args__]
        assert encode([tx.chain_id, tx.body.TYPE, tx.sender, tx.sequence, tx.valid_until_height, values]) == payload


# --- what a chain proves ---------------------------------------------------------------------------------------------

KEY, VALUE = store_key(Party, "user-1"), MARKET.rows[store_key(Party, "user-1")]
STATE_PROOF = MARKET.state.prove(Party, "user-1")


def proofs() -> Iterator[bytes]:
    yield STATE_PROOF.encoded()
    yield encode([b"", []])
    yield from (MARKET.state.get(Contract, EVERY.contracts[phase]).statement for phase in ("measured", "disputed"))
    for kind, (sender, values) in list(EVERY.valid().items())[:6]:
        if not sender.startswith("anon-"):
            yield TRACELESS.result(MARKET.raw(sender, kind, values)).leaf(0)
    yield encode([0, 0, bytes(32), "ok", ["admitted", "gap"]])


@target("chain-evidence", seeds=proofs, max_bytes=16_384)
def evidence(data: bytes) -> None:
    """Statements, leaves and proofs of state have one encoding, and no proof shows what is not there."""
    statement: Statement | None = attempt(lambda: decode_statement(data))
    assert statement is None or statement.encoded() == data
    result = attempt(lambda: result_of(data, 0))
    assert result is None or result.leaf(0) == data
    proof = attempt(lambda: decode_state_proof(data))
    if proof is not None:
        assert proof.encoded() == data
        assert verify_proof(MARKET.root, KEY, VALUE, proof) == (proof == STATE_PROOF)
        assert not verify_proof(MARKET.root, KEY, VALUE + b"\x00", proof)
        assert not verify_proof(MARKET.root, KEY, None, proof)


# --- ring signatures -------------------------------------------------------------------------------------------------

SECRETS = [scalar_from(hashed(b"fuzz", bytes((i,)))) for i in range(signature.RING_SIZE)]
RING = b"".join(map(public_of, SECRETS))
CONTEXT, MESSAGE = b"chain and bin", b"a bid"
PUBLIC, IMAGE = RING[: signature.SCALAR_BYTES], signature.key_image(SECRETS[0], CONTEXT)
SIGNATURE = signature.sign(SECRETS[0], RING, 0, CONTEXT, MESSAGE, bytes(32))
DISCLOSURE = disclosure.prove(SECRETS[0], CONTEXT, MESSAGE, bytes(32))


@target("ring", seeds=lambda: [IMAGE + SIGNATURE, PUBLIC + IMAGE + DISCLOSURE], max_bytes=600, short_runs=300)
def ring(data: bytes) -> None:
    """An image and a ring signature, or a disclosure: never raises, and no other than the true one holds."""
    image, signed_by = data[:32], data[32:]
    holds = signature.verify(RING, CONTEXT, image, MESSAGE, signed_by)
    assert holds == (data == IMAGE + SIGNATURE)
    assert not signature.verify(data[:512], CONTEXT, IMAGE, MESSAGE, SIGNATURE) or data[:512] == RING
    public, shown, proof = data[:32], data[32:64], data[64:]
    holds = disclosure.verify_disclosure(public, shown, CONTEXT, MESSAGE, proof)
    assert holds == (data == PUBLIC + IMAGE + DISCLOSURE)
