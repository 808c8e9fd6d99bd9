"""A key in a file: 32 bytes, made here at first use, readable by its owner only. The weakest signer, and always available."""

import os

from pile_shared.cose import SoftwareSigner
from pile_shared.errors import BoundsError, ConfigError
from pile_shared.platform import MICROPYTHON, random_bytes

SECRET_BYTES = 32
_TRIES = 8  # a random secret lies outside [1, n - 1] once in 2^32


def open_file_signer(path: str) -> SoftwareSigner:
    """The signer whose secret is in `path`; the file is made if it is missing.

    Raises:
        ConfigError: the file is damaged, cannot be read or written, or can be read by others than its owner.
    """
    try:
        return _load(path)
    except OSError as error:
        if error.errno != 2:  # ENOENT, on both interpreters
            raise ConfigError("signer: cannot read key file " + path + ": " + str(error))
    try:
        return _make(path)
    except OSError as error:
        raise ConfigError("signer: cannot make key file " + path + ": " + str(error))


def _load(path: str) -> SoftwareSigner:
    # A board has no users and no modes; its flash is its own.
    if not MICROPYTHON and os.stat(path).st_mode & 0o077:
        raise ConfigError("signer: key file " + path + " can be read by others; run: chmod 600 " + path)
    with open(path, "rb") as file:
        secret = file.read(SECRET_BYTES + 1)
    try:
        return SoftwareSigner(secret)
    except BoundsError as error:
        raise ConfigError("signer: key file " + path + " is damaged: " + error.message)


def _make(path: str) -> SoftwareSigner:
    for _ in range(_TRIES):
        secret = random_bytes(SECRET_BYTES)
        try:
            signer = SoftwareSigner(secret)
        except BoundsError:
            continue
        _write(path, secret)
        return signer
    raise ConfigError("signer: the random generator gives no usable key")


def _write(path: str, secret: bytes) -> None:
    """Write a new file in one step, durable on return: a power cut leaves no key or a whole one."""
    temporary = path + ".tmp"
    if MICROPYTHON:
        with open(temporary, "wb") as file:
            file.write(secret)
            file.flush()
    else:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, secret)
            os.fsync(fd)
        finally:
            os.close(fd)
    os.rename(temporary, path)
    if not MICROPYTHON:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(
                folder
            )  # the name too: what signs and is gone after a power cut is a pile that must be registered anew
        finally:
            os.close(folder)
