"""How Alembic reaches the evidence database: over the connection that the program has open."""

from alembic import context

from pile_coordinator.evidence.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
