"""Migrations of the evidence database, run by Alembic."""
