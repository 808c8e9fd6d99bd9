"""The evidence database: written from committed blocks only, and rebuilt from them at any time."""
