"""Notes: who pays with them, the bins they hide in, what was bought and what was spent. Nothing of it was on a chain before."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("default_charset", "ascii"), ("collate", "ascii_bin"))
}


def _fixed(length: int) -> TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(sa.BINARY(length), "mysql", "mariadb")


def upgrade() -> None:
    """From 0001."""
    op.create_table(
        "pseudonym",
        sa.Column("id", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("public", _fixed(65), nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("source", _fixed(32), nullable=False),
        sa.Column("gone_height", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("pseudonym_source", "pseudonym", ["source"])
    op.create_table(
        "note_purchase",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("denomination", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("notes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("height", "position", "denomination"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "note_bin",
        sa.Column("denomination", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", BIG, autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("denomination", "number"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("note_bin_at", "note_bin", ["height"])
    op.create_table(
        "note_spend",
        sa.Column("source", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("denomination", sa.Integer(), nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("image", _fixed(32), nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("source", "item"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("note_spend_image", "note_spend", ["image"])
    op.create_index("note_spend_bin", "note_spend", ["denomination", "number"])
    op.create_index("note_spend_at", "note_spend", ["height"])
