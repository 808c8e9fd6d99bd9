"""Turns signed readings into money by rules that every participant can recompute. Start at chain/transition.py."""
