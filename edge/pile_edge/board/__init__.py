"""From sources to what a board has in flash: linked, compiled, packed. On the host; nothing here goes on a board."""
