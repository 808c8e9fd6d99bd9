"""Who takes part: parties and their keys, piles and their capacity (ledger guide, "Roles" and "Keys")."""

from dataclasses import replace

from pile_coordinator.chain import epochs, orders
from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.records import ANONYMOUS, GRID, OPERATOR, KeyRestore, Party, PartyKey, Pile, PileKey, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    PSEUDONYM,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    RotateKey,
)
from pile_shared import cose
from pile_shared.proof import NO_PREVIOUS

NO_KEY = b""


def register_party(state: State, body: RegisterParty) -> None:
    """An operator admits a party."""
    if state.find(Party, body.id) is not None:
        raise Rejection("exists", f"party {body.id} is registered")
    if state.note_rules is not None and body.id.startswith(PSEUDONYM):
        raise Rejection("exists", f"ids that begin with {PSEUDONYM} are those of anonymous orders")
    _take_key(state, body.id, body.public)
    state.put(Party(body.id, body.role, body.public, 0, 0))


def _take_key(state: State, party: str, public: bytes) -> None:
    kid = cose.key_id(public)
    if state.find(PartyKey, kid) is not None or state.find(PileKey, kid) is not None:
        raise Rejection("exists", "this key is or was somebody's")
    state.put(PartyKey(kid, party))


def rotate_key(state: State, journal: Journal, sender: str, body: RotateKey) -> None:
    """A party signs with a new key from now on."""
    _take_key(state, sender, body.public)
    _change_key(state, journal, sender, body.public)


def revoke_key(state: State, journal: Journal, sender: str, body: RevokeKey) -> None:
    """A key is good for nothing any more: by its party, or by who admits parties."""
    party = _party(state, body.party)
    if sender != party.id and state.get(Party, sender).role not in {GRID, OPERATOR}:
        raise Rejection("not_yours", "only a party itself, the grid or an operator revokes its key")
    if party.public == NO_KEY:
        raise Rejection("exists", f"the key of {party.id} is revoked already")
    if party.role in {GRID, OPERATOR} and _is_last(state, party):
        raise Rejection("limit", f"{party.id} is the last {party.role} party with a key: nobody could restore it")
    _change_key(state, journal, party.id, NO_KEY)


def _is_last(state: State, party: Party) -> bool:
    return not any(p.role == party.role and p.public and p.id != party.id for p in state.each(Party))


def restore_key(state: State, journal: Journal, sender: str, body: RestoreKey) -> None:
    """A new key after a revocation, once a grid and an operator party have named the same one."""
    party = _party(state, body.party)
    if party.public != NO_KEY:
        raise Rejection("exists", f"the key of {party.id} is not revoked; it rotates its key itself")
    role = state.get(Party, sender).role
    first = state.find(KeyRestore, party.id)
    if first is None or first.public != body.public or first.by_role == role:
        state.put(KeyRestore(party.id, body.public, role))
        return
    _take_key(state, party.id, body.public)
    _change_key(state, journal, party.id, body.public)
    state.drop(KeyRestore, party.id)


def _change_key(state: State, journal: Journal, party_id: str, public: bytes) -> None:
    """What the old key ordered and nobody has matched yet is withdrawn with it."""
    orders.withdraw_all(state, journal, party_id)
    state.put(replace(state.get(Party, party_id), public=public))


def _party(state: State, party_id: str) -> Party:
    party = state.find(Party, party_id)
    if party is None or party.role == ANONYMOUS:
        raise Rejection("unknown_party", f"no party {party_id}")
    return party


def register_pile(state: State, body: RegisterPile) -> None:
    """An operator admits an owner's pile; its zone's capacity grows."""
    _party(state, body.owner)
    kid = cose.key_id(body.public)
    if state.find(Pile, body.id) is not None:
        raise Rejection("exists", f"pile {body.id} is registered")
    if state.find(PileKey, kid) is not None or state.find(PartyKey, kid) is not None:
        raise Rejection("exists", "this key is or was somebody's")
    state.put(
        Pile(
            id=body.id,
            owner=body.owner,
            public=body.public,
            meter_model=body.meter_model,
            meter_serial=body.meter_serial,
            zone=body.zone,
            rated_power_w=body.rated_power_w,
            last_sequence=0,
            last_hash=NO_PREVIOUS,
            last_time_ms=0,
            last_energy_wh=0,
            anomaly="",
            admitted=0,
            retired=False,
        )
    )
    state.put(PileKey(kid, body.id))
    zone = state.find(Zone, body.zone) or Zone(body.zone, 0, 0, 0, 0, 0, dirty=False)
    epochs.change_capacity(state, zone, body.rated_power_w)


def retire_pile(state: State, journal: Journal, sender: str, body: RetirePile) -> None:
    """A pile is gone: its listings are withdrawn and its zone's capacity shrinks. Its proofs are not taken any more."""
    pile = state.find(Pile, body.pile)
    if pile is None or pile.retired:
        raise Rejection("unknown_pile", f"no pile {body.pile}")
    if sender != pile.owner and state.get(Party, sender).role not in {GRID, OPERATOR}:
        raise Rejection("not_yours", f"{pile.id} belongs to {pile.owner}")
    if state.contracts_on(pile.id):
        raise Rejection("busy", f"a contract is open on {pile.id}; retire it when that is closed")
    for listing in state.listings_of(pile.owner):
        if listing.pile == pile.id:
            orders.end_listing(state, journal, listing, orders.CANCELLED)
    state.put(replace(pile, retired=True))
    epochs.change_capacity(state, state.get(Zone, pile.zone), -pile.rated_power_w)
