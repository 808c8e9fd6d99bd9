"""Why a transaction changes nothing.

The codes below stand in order of precedence: where several apply, the first is given. Form comes before authority, since
it needs no state, and authority before what the transaction asks for. A rejection never changes the state, not even the
sender's sequence, so the same bytes may be sent again until `valid_until_height` has passed.
"""

from pile_shared.errors import PilechainError

CODES = (
    "oversized",  # longer than MAX_TX_BYTES
    "malformed",  # not a COSE_Sign1 over the deterministic encoding of a transaction, nor that with ring signatures
    "unknown_type",  # no such transaction type
    "bounds",  # a field is outside its range; the message names it
    "wrong_chain",  # signed for another chain
    "unknown_sender",  # the sender is not a registered party
    "unknown_note",  # no such bin of notes, or it is not full or not old enough yet
    "spent",  # a note with this key image was spent already
    "revoked",  # the sender's key was revoked
    "bad_signature",  # not signed by the sender's key, or by nobody of the ring with this key image
    "expired",  # valid_until_height has passed
    "too_far",  # valid_until_height is further ahead than MAX_VALIDITY_BLOCKS
    "replayed",  # this sequence was used already
    "sequence_gap",  # an earlier sequence of this sender is missing
    "wrong_role",  # the sender's role does not allow this type
    "unknown_party",
    "unknown_zone",
    "unknown_pile",
    "unknown_order",  # no such open listing or resting bid
    "unknown_contract",  # no such open contract
    "unknown_withdrawal",  # no such open withdrawal
    "unknown_candidate",  # no such candidate for accounting node
    "not_yours",  # only its owner may do this
    "exists",  # the id, key or payment reference is taken
    "window",  # the window is empty, past, too long or too far ahead, or nothing could begin in it any more
    "energy",  # not whole lots
    "band",  # an ask that no period's band contains
    "limit",  # as many of something as there may be: open orders of a party, money, candidates, stakes; or too few keys
    "phase",  # the contract or candidate is in another phase than this needs, or its party has done this already
    "late",  # the time for this has passed
    "funds",  # the account does not cover it
    "busy",  # a contract is open on this pile
    "digest",  # not the digest of the settlement to confirm
    "evidence",  # not the user's stop command of this contract, or no proof of a double attestation
)


class Rejection(PilechainError):  # noqa: N818 - a rejection is a result, not a fault
    """A transaction that is refused, with one of CODES and a message for its sender."""

    def __init__(self, code: str, message: str) -> None:
        assert code in CODES, code
        super().__init__(message, code)


class BrokenInvariantError(PilechainError):
    """Money or energy does not add up. The node must stop before commit; the message names the account or order."""

    code = "invariant"
