"""Verify workers: processes beside a coordinator, on its machine or others, that check proofs' signatures for it."""
