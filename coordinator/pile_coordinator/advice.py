"""What each refusal means and what to do next, in one place: the last line of every failed `pilechain wallet`."""

# By code. Those of transactions are chain/rejections.py's, in its order; the others come from the way to the chain.
NEXT: dict[str, str] = {
    "oversized": "The message is longer than the chain takes: send fewer proofs in one transaction.",
    "malformed": "The coordinator could not read it: use the same release as the coordinator.",
    "unknown_type": "This chain does not know the transaction: use the same release as the coordinator.",
    "bounds": "A value is outside its range: the message names it and what it may be.",
    "wrong_chain": "It was signed for another chain: give the genesis file of this one with --genesis.",
    "unknown_sender": "No such party: check --party, or have an operator admit you with `register-party`.",
    "revoked": "Your key was revoked: have a grid and an operator party each send `restore-key` with a new one.",
    "bad_signature": "Not signed with your present key: check --key; after `rotate-key` it is the new file.",
    "expired": "It waited too long for a block: send it again.",
    "too_far": "It may wait for a block too long: send it again with this wallet.",
    "replayed": "Another transaction of yours took its number: look at `orders`, and send again if it is not there.",
    "sequence_gap": "An earlier transaction of yours is missing: send again; use one wallet per party at a time.",
    "wrong_role": "Your role may not do this: `--help` says who may.",
    "unknown_party": "No such party: check its id, or admit it with `register-party`.",
    "unknown_zone": "No pile is registered in this zone: check --zone.",
    "unknown_pile": "No such pile, or not in this zone, or it is retired: check --pile and --zone.",
    "unknown_order": "No such open order: it was matched, ended or withdrawn; see `orders`.",
    "unknown_contract": "No such open contract: it has closed or was never made; see `show`.",
    "unknown_withdrawal": "It was paid out or refused already: see `withdrawals`.",
    "unknown_candidate": "No such candidate for accounting node: see `stake`.",
    "not_yours": "It belongs to somebody else: check the id and --party.",
    "exists": "It is taken: choose another id, make a new key, or check that this payment was not booked already.",
    "window": "The time does not fit: check --start, --end, --expires or --from against the present time (UTC).",
    "energy": "Energy is traded in lots of 100 Wh: round --energy.",
    "band": "No tariff period allows this ask: choose one between the buying price and the top of the band; see `tariff`.",
    "limit": "A bound is reached, the message names it: withdraw open orders with `cancel` or `unlist`, or use less money.",
    "funds": "The account does not cover it: see `account` and `quote`; ask for less, or deposit first.",
    "phase": "The contract or candidate is at another point of its life: see `show` or `stake`, and what it waits for.",
    "late": "The time for this has passed: a user calls off before the cut-off, an owner before the window.",
    "busy": "Somebody is in the way just now: for a pile, wait until its contracts close; else send again in a moment.",
    "digest": "You signed another settlement: look at `show`, then `confirm` again.",
    "evidence": "It does not prove it: answer with the stop command the coordinator kept (no --stop), or show both headers.",
    "unknown_note": "No such note to spend: see `notes`; a bin must be full and aged first, and some chains issue no notes.",
    "spent": "This note was spent: see `notes`, and use one purse for each party.",
    # not from the chain
    "link": "Check --broker, that the coordinator runs, and that --party and --key are yours: strangers get no answer.",
    "no_evidence": "Nothing came of this order yet, or its contract is open: see `orders` and `show`.",
    "weak": "Wait for better notes (--wait 3600), buy more with `buy-notes`, or take it with --accept-weak.",
    "funds_notes": "Buy more with `buy-notes`, or wait for bins to fill and age; `notes` shows what there is.",
    "amount": "Choose an amount that notes can make up; `notes` shows the denominations.",
    "purse": "The purse cannot do this: the message says why; `notes` shows what is in it.",
    "query": "Check what you asked for; `--help` shows the form.",
    "no_stop": "The coordinator heard no stop command of this contract: answer with --stop FILE, or wait for the arbiters.",
    "ambiguous": "This order has several contracts: name one of those listed.",
    "other_key": "The contract was signed with an earlier key of yours: give that file with --old-key.",
    "config": "Correct the file or option that the message names.",
    "usage": "It was called in a way that it does not know: `--help` after the action shows how.",
}


def next_step(code: str) -> str:
    """One line on what a refusal means and what to do; for a code we do not know, where to look."""
    return NEXT.get(code, "See the coordinator's log for the reason.")
