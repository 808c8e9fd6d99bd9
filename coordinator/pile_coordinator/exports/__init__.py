"""What leaves the system, and in whose format: pure functions from a verified order certificate to bytes (docs/exports.md)."""
