"""The pure state machine: parties, prices, contracts, money. Read `transition.py` first.

Nothing here reaches a clock, a file, a socket, a thread or randomness (tests/test_boundaries.py enforces it): what comes
from outside enters through `Env`, so that everyone who applies the same blocks holds the same state, bit by bit.
"""
