"""The schema that came with SQLAlchemy. What a migration makes is held to evidence/schema.py by a test."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("default_charset", "ascii"), ("collate", "ascii_bin"))
}


def _fixed(length: int) -> TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(sa.BINARY(length), "mysql", "mariadb")


def _bytes(most: int) -> TypeEngine[bytes]:
    return sa.LargeBinary(most).with_variant(sa.VARBINARY(most), "mysql", "mariadb")


def upgrade() -> None:  # noqa: PLR0915 - one statement for each table and index
    """From nothing."""
    op.create_table(
        "accounting_node",
        sa.Column("from_height", BIG, autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("power", BIG, nullable=False),
        sa.Column("stake_micro", BIG, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("from_height", "party"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "announcement",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hash", _fixed(32), nullable=False),
        sa.Column("from_ms", BIG, nullable=False),
        sa.Column("utc_offset_minutes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("height", "position"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("announcement_hash", "announcement", ["hash", "height"])
    op.create_table(
        "block",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("time_ms", BIG, nullable=False),
        sa.Column("hash", _fixed(32), nullable=False),
        sa.Column("proposer", sa.String(length=32), nullable=False),
        sa.Column("txs", sa.Integer(), nullable=False),
        sa.Column("results", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("height"),
        **OPTIONS,
        sqlite_with_rowid=True,
    )
    op.create_index("block_hash", "block", ["hash"])
    op.create_index("block_time", "block", ["time_ms"])
    op.create_table(
        "cancellation",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("contract"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("cancellation_at", "cancellation", ["height"])
    op.create_table(
        "clearing",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("zone", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.Column("capacity_wh", BIG, nullable=False),
        sa.Column("tariff", _fixed(32), nullable=False),
        sa.Column("open_before_wh", BIG, nullable=False),
        sa.Column("open_after_wh", BIG, nullable=False),
        sa.PrimaryKeyConstraint("height", "zone"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("clearing_zone", "clearing", ["zone", "height"])
    op.create_table(
        "confirmation",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("contract", "party"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("confirmation_at", "confirmation", ["height"])
    op.create_table(
        "contract",
        sa.Column("id", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.Column("terms", _bytes(1024), nullable=False),
        sa.Column("bid", _fixed(32), nullable=False),
        sa.Column("piece", sa.Integer(), nullable=True),
        sa.Column("listing", _fixed(32), nullable=False),
        sa.Column("pile", sa.String(length=32), nullable=False),
        sa.Column("kid", _fixed(8), nullable=False),
        sa.Column("zone", sa.String(length=32), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("energy_wh", BIG, nullable=False),
        sa.Column("price_micro_per_kwh", BIG, nullable=False),
        sa.Column("on_curve", sa.SmallInteger(), nullable=False),
        sa.Column("catalog_sell_micro_per_kwh", BIG, nullable=False),
        sa.Column("catalog_buy_micro_per_kwh", BIG, nullable=False),
        sa.Column("window_start_ms", BIG, nullable=False),
        sa.Column("window_end_ms", BIG, nullable=False),
        sa.Column("fee_micro", BIG, nullable=False),
        sa.Column("escrow_micro", BIG, nullable=False),
        sa.Column("bond_micro", BIG, nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("signed_height", BIG, nullable=True),
        sa.Column("signed_leaf", sa.Integer(), nullable=True),
        sa.Column("signed_position", sa.Integer(), nullable=True),
        sa.Column("closed_height", BIG, nullable=True),
        sa.Column("closed_leaf", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("contract_bid", "contract", ["bid", "piece"])
    op.create_index("contract_closed", "contract", ["closed_height"])
    op.create_index("contract_height", "contract", ["height"])
    op.create_index("contract_listing", "contract", ["listing"])
    op.create_index("contract_owner", "contract", ["owner", "height"])
    op.create_index("contract_pile", "contract", ["pile", "window_start_ms"])
    op.create_index("contract_user", "contract", ["user", "height"])
    op.create_index("contract_zone", "contract", ["zone", "window_start_ms"])
    op.create_table(
        "deposit",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("amount_micro", BIG, nullable=False),
        sa.PrimaryKeyConstraint("height", "position"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("deposit_party", "deposit", ["party", "height"])
    op.create_index("deposit_reference", "deposit", ["reference"])
    op.create_table(
        "deviation",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.Column("user", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("contract"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("deviation_at", "deviation", ["height", "leaf"])
    op.create_index("deviation_owner", "deviation", ["owner", "height"])
    op.create_index("deviation_user", "deviation", ["user", "height"])
    op.create_table(
        "dispute",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=True),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("ground", sa.String(length=32), nullable=False),
        sa.Column("claimed_wh", BIG, nullable=False),
        sa.Column("text", sa.String(length=200), nullable=False),
        sa.Column("bond_micro", BIG, nullable=True),
        sa.Column("answer_height", BIG, nullable=True),
        sa.Column("answer_position", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("contract"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("dispute_at", "dispute", ["height", "position"])
    op.create_table(
        "fee_collection",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("amount_micro", BIG, nullable=False),
        sa.PrimaryKeyConstraint("height", "position"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "handover",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("height"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "key_change",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("public", _fixed(65), nullable=True),
        sa.Column("sender", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("height", "position"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("key_change_party", "key_change", ["party", "height"])
    op.create_table(
        "mark",
        sa.Column("only_row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.CheckConstraint("only_row = 1"),
        sa.PrimaryKeyConstraint("only_row"),
        **OPTIONS,
        sqlite_with_rowid=True,
    )
    op.create_table(
        "orders",
        sa.Column("id", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("energy_wh", BIG, nullable=False),
        sa.Column("price_micro_per_kwh", BIG, nullable=False),
        sa.Column("divisible", sa.SmallInteger(), nullable=False),
        sa.Column("explicit", sa.SmallInteger(), nullable=False),
        sa.Column("zone", sa.String(length=32), nullable=True),
        sa.Column("pile", sa.String(length=32), nullable=True),
        sa.Column("window_start_ms", BIG, nullable=False),
        sa.Column("window_end_ms", BIG, nullable=False),
        sa.Column("expires_ms", BIG, nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("ended_height", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("orders_ended", "orders", ["ended_height", "height", "position"])
    op.create_index("orders_height", "orders", ["height", "position"])
    op.create_index("orders_party", "orders", ["party", "height"])
    op.create_table(
        "party",
        sa.Column("id", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("public", _fixed(65), nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "piece",
        sa.Column("name", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("bid", _fixed(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("piece_bid", "piece", ["bid", "number"])
    op.create_table(
        "pile",
        sa.Column("kid", _fixed(8), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("zone", sa.String(length=32), nullable=False),
        sa.Column("rated_power_w", sa.Integer(), nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("retired_height", BIG, nullable=True),
        sa.PrimaryKeyConstraint("kid"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("pile_id", "pile", ["id"], unique=True)
    op.create_index("pile_owner", "pile", ["owner"])
    op.create_index("pile_zone", "pile", ["zone"])
    op.create_table(
        "posting",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("debit", sa.String(length=32), nullable=False),
        sa.Column("credit", sa.String(length=32), nullable=False),
        sa.Column("amount_micro", BIG, nullable=False),
        sa.PrimaryKeyConstraint("contract", "number", "item"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "price",
        sa.Column("zone", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("catalog_micro_per_kwh", BIG, autoincrement=False, nullable=False),
        sa.Column("price_micro_per_kwh", BIG, nullable=False),
        sa.PrimaryKeyConstraint("zone", "height", "catalog_micro_per_kwh"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "proof",
        sa.Column("kid", _fixed(8), autoincrement=False, nullable=False),
        sa.Column("sequence", BIG, autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("hash", _fixed(32), nullable=False),
        sa.Column("contract", _fixed(32), nullable=True),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("first_time_ms", BIG, nullable=True),
        sa.Column("last_time_ms", BIG, nullable=True),
        sa.Column("last_energy_wh", BIG, nullable=True),
        sa.Column("bytes", _bytes(2048), nullable=False),
        sa.PrimaryKeyConstraint("kid", "sequence"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("proof_at", "proof", ["height", "position", "item"])
    op.create_index("proof_contract", "proof", ["contract", "kid", "sequence"])
    op.create_index("proof_hash", "proof", ["hash"])
    op.create_table(
        "punishment",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("leaf", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("offence_height", BIG, nullable=False),
        sa.Column("cost_micro", BIG, nullable=False),
        sa.PrimaryKeyConstraint("height", "leaf"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "receipt",
        sa.Column("pile", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.Column("through_sequence", BIG, nullable=False),
        sa.PrimaryKeyConstraint("pile"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "repeated",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("contract"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ruling",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("arbiter", sa.String(length=32), nullable=False),
        sa.Column("measured_wh", BIG, nullable=False),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("contract", "height", "position"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("ruling_at", "ruling", ["height"])
    op.create_table(
        "signature",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("party", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("contract", "party"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("signature_at", "signature", ["height"])
    op.create_table(
        "stake_posting",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("source", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("debit", sa.String(length=66), nullable=False),
        sa.Column("credit", sa.String(length=66), nullable=False),
        sa.Column("amount_micro", BIG, nullable=False),
        sa.PrimaryKeyConstraint("height", "source", "place", "item"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "statement",
        sa.Column("contract", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.Column("measured_wh", BIG, nullable=False),
        sa.Column("contracted_wh", BIG, nullable=False),
        sa.Column("grid_wh", BIG, nullable=False),
        sa.Column("unpaid_wh", BIG, nullable=False),
        sa.Column("cause", sa.String(length=32), nullable=False),
        sa.Column("digest", _fixed(32), nullable=False),
        sa.Column("basis", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("contract", "number"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("statement_at", "statement", ["height"])
    op.create_table(
        "tariff",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("leaf", sa.Integer(), nullable=False),
        sa.Column("hash", _fixed(32), nullable=False),
        sa.PrimaryKeyConstraint("height"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("tariff_hash", "tariff", ["hash", "height"])
    op.create_table(
        "tariff_period",
        sa.Column("hash", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("from_minute", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("sell_micro_per_kwh", BIG, nullable=False),
        sa.Column("buy_micro_per_kwh", BIG, nullable=False),
        sa.PrimaryKeyConstraint("hash", "from_minute"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tx",
        sa.Column("height", BIG, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", _fixed(32), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("sender", sa.String(length=32), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("height", "position"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("tx_id", "tx", ["id"])
    op.create_index("tx_sender", "tx", ["sender", "height"])
    op.create_table(
        "withdrawal",
        sa.Column("id", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("height", BIG, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("amount_micro", BIG, nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("ended_height", BIG, nullable=True),
        sa.Column("ended_position", sa.Integer(), nullable=True),
        sa.Column("reference", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_index("withdrawal_ended", "withdrawal", ["ended_height", "height"])
    op.create_index("withdrawal_party", "withdrawal", ["party", "height"])
    op.create_table(
        "tally",
        sa.Column("dimension", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("contracts", BIG, nullable=False),
        sa.Column("sessions", BIG, nullable=False),
        sa.Column("agreed_wh", BIG, nullable=False),
        sa.Column("measured_wh", BIG, nullable=False),
        sa.Column("contracted_wh", BIG, nullable=False),
        sa.Column("grid_wh", BIG, nullable=False),
        sa.Column("unpaid_wh", BIG, nullable=False),
        sa.Column("owner_micro", BIG, nullable=False),
        sa.Column("grid_micro", BIG, nullable=False),
        sa.Column("fee_micro", BIG, nullable=False),
        sa.Column("over", BIG, nullable=False),
        sa.Column("over_wh", BIG, nullable=False),
        sa.Column("under", BIG, nullable=False),
        sa.Column("under_wh", BIG, nullable=False),
        sa.Column("unserved", BIG, nullable=False),
        sa.Column("disputed", BIG, nullable=False),
        sa.Column("delay_ms", BIG, nullable=False),
        sa.Column("listed_begun", BIG, nullable=False),
        sa.Column("listed_begun_into_ms", BIG, nullable=False),
        sa.Column("listed_ended", BIG, nullable=False),
        sa.Column("listed_ended_into_ms", BIG, nullable=False),
        sa.Column("used_begun", BIG, nullable=False),
        sa.Column("used_begun_into_ms", BIG, nullable=False),
        sa.Column("used_ended", BIG, nullable=False),
        sa.Column("used_ended_into_ms", BIG, nullable=False),
        sa.PrimaryKeyConstraint("dimension", "name", "slot"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tallied",
        sa.Column("dimension", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=32), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("dimension", "name"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "operated",
        sa.Column("pile", sa.String(length=32), autoincrement=False, nullable=False),
        sa.Column("operator", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("pile"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "offer",
        sa.Column("listing", _fixed(32), autoincrement=False, nullable=False),
        sa.Column("pile", sa.String(length=32), nullable=False),
        sa.Column("from_ms", BIG, nullable=False),
        sa.Column("window_end_ms", BIG, nullable=False),
        sa.PrimaryKeyConstraint("listing"),
        **OPTIONS,
        sqlite_with_rowid=False,
    )
