"""The light client on the pile. Start at agent.py."""
