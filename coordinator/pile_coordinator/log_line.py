"""What the processes of a coordinator log with; apart from them, so that to log a line loads none of them."""

import sys
import time


def log(text: str) -> None:
    """One line for people, with the time of day."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
