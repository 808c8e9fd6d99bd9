"""Keys in files: 64 hex digits, readable by their owner only."""

import os
from pathlib import Path

from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import random_bytes


def make_key(path: Path) -> SoftwareSigner:
    """Make a new P-256 key in a file of mode 0600 that must not exist yet; ConfigError otherwise."""
    signer = None
    while signer is None:
        secret = random_bytes(32)
        try:
            signer = SoftwareSigner(secret)
        except PilechainError:
            continue  # outside [1, n - 1]: one draw in 2^32
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; a key is never overwritten, choose another name") from error
    with os.fdopen(handle, "w") as file:
        file.write(secret.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return signer


def load_key(path: Path) -> SoftwareSigner:
    """The key in a file; ConfigError if it is missing, malformed, or readable by others."""
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; make a key with: pilechain wallet --key {path} new") from error
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        return SoftwareSigner(bytes.fromhex(text.strip()))
    except (ValueError, PilechainError) as error:
        raise ConfigError(f"{path} does not hold a P-256 key (64 hex digits)") from error
