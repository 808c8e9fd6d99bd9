"""Keeping a chain for years: a mirror of each block elsewhere, backups, and coming back from them."""
