"""What this node has attested, kept where the ledger's loss does not reach: beside CometBFT's last vote.

A ledger that is made again may differ from the one that was lost, which may be why it was deleted; whoever attested both
would be punished for lying. So nothing up to the highest block that was ever attested here is attested by another ledger.
"""

import os
from pathlib import Path

from pile_shared.errors import ConfigError

NAME = "attested_state"
_FORM = "%016d %016d\n"


class Attested:
    """A file of two heights, in one sector of the disk.

    Attributes:
        silent_until: up to this height another ledger than the present one was attested: this one is not.
    """

    def __init__(self, folder: Path, height: int) -> None:
        """Open the file in `folder`; `height` is that of the present ledger's last block.

        Raises:
            ConfigError: the file cannot be used.
        """
        self._path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            words = os.read(self._file, 64).split()
            self._attested, self.silent_until = (int(word) for word in words) if words else (0, 0)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self._path} cannot be used: {error}; it says what this node has attested. Without it a node whose ledger"
                " has changed may be punished: restore it, or delete it if `data` was never lost or set back"
            ) from error
        if height < self._attested:
            self.silent_until = self._attested
            self._write()

    def note(self, height: int) -> None:
        """Blocks up to this one are about to be attested: remember that, durably."""
        if height > self._attested:
            self._attested = height
            self._write()

    def _write(self) -> None:
        os.pwrite(self._file, (_FORM % (self._attested, self.silent_until)).encode(), 0)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
