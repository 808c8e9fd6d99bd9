"""How long what the evidence keeps can be, from the bounds of what the chain admits."""

from pile_shared.units import MAX_ID_LENGTH

HASH_BYTES = 32  # of transactions, orders, contracts, proofs, blocks
NAME = MAX_ID_LENGTH  # of parties, piles, zones and tariff periods
WORD = 32  # of the program's own: kinds, states, codes; the longest is "contracted energy reached"
ACCOUNT = 2 + 2 * HASH_BYTES  # "E:" and an order's id in hex; a party's is shorter
PRINTED = 64  # payment references and destinations (transactions.py)
TEXT = 200  # what people wrote, in an objection or a refusal (transactions.py)
