"""Every row of an evidence database, in the order of the keys: two databases with the same evidence give the same."""

import sqlalchemy as sa

from pile_coordinator.evidence.schema import metadata

Content = dict[str, list[tuple[object, ...]]]


def content(db: sa.Connection) -> Content:
    found: Content = {}
    for table in metadata.sorted_tables:
        ordered = sa.select(table).order_by(*table.primary_key.columns)
        found[table.name] = [tuple(row) for row in db.execute(ordered)]
    return found
