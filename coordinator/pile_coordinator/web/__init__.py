"""The HTTP API: what the evidence database knows, for people and programs who hold a token."""
