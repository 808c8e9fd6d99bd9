"""Engines order transactions into blocks and keep them; all drive the same `apply_block`."""
