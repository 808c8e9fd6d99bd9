"""Every revision of the schema, the first being the one that came with SQLAlchemy."""
