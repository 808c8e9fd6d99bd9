"""For all tests: how long an example of hypothesis takes says something about the machine, nothing about the code."""

import os
import tempfile

from hypothesis import settings

settings.register_profile("pilechain", deadline=None)
settings.load_profile("pilechain")

# Locks of serial lines that tests make lie in a folder of their own, gone with this process.
_locks = tempfile.TemporaryDirectory(prefix="pile-edge-locks-")
os.environ["PILE_EDGE_LOCKS"] = _locks.name
