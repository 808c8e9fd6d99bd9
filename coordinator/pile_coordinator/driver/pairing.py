"""Which browsers may use the page: each brings, once, a code that somebody read from the terminal, and gets a cookie for it.

A code has 50 bits, is good once and for CODE_S, and MAX_TRIES wrong ones void it: guessing meets one in 2^47 per code, and
WAIT_S pass before the next is tried. The cookie has 256 bits; the file of devices holds its SHA-256 only, mode 0600,
so that paired browsers stay paired when the process is restarted, and who reads the file has no cookie.
"""

import hmac
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import random_bytes, sha256

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: nothing looks like anything else
CODE_LENGTH = 10
CODE_S = 600
MAX_TRIES = 5
WAIT_S = 60
MAX_DEVICES = 8  # the one paired first goes when a ninth comes
DEVICE_S = 90 * 24 * 3600  # then it is paired again
TOKEN_BYTES = 32
_MAX_FILE_BYTES = 16_384
_LOOKS_LIKE = str.maketrans("OIL", "011", " -")


class PairingError(PilechainError):
    """The code is not good; `code` is `wrong_code`, or `wait` while no code is taken at all."""

    code = "wrong_code"


class Pairing:
    """Codes and devices of one page. May be used from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        date_s: Callable[[], float] = time.time,
    ) -> None:
        """Take the devices in a file, which need not be there yet; ConfigError if it holds something else.

        Args:
            path: of the file of devices.
            clock_s: seconds that always go on, for the life of codes.
            date_s: unix time, for the life of devices.
        """
        self._path, self._clock_s, self._date_s = path, clock_s, date_s
        self._lock = threading.Lock()
        self._devices = self._load()
        self._code, self._until_s = "", 0.0
        self._tries, self._wait_until_s = 0, 0.0

    # --- codes -------------------------------------------------------------------------------------------------------

    def new_code(self) -> str:
        """A new code, like 7K3QX-0MV9D; the one before is void, and so are wrong tries of it."""
        with self._lock:
            self._code = "".join(ALPHABET[byte % len(ALPHABET)] for byte in random_bytes(CODE_LENGTH))
            self._until_s, self._tries = self._clock_s() + CODE_S, 0
            return f"{self._code[:5]}-{self._code[5:]}"

    def pair(self, typed: str) -> str:
        """The token for the cookie of a browser that brings the code, in any case and grouping.

        Raises:
            PairingError: `wait` within WAIT_S of MAX_TRIES wrong ones, `wrong_code` for a wrong, used or old one.
        """
        with self._lock:
            now_s = self._clock_s()
            if now_s < self._wait_until_s:
                raise PairingError("too many wrong codes", "wait")
            is_good = bool(self._code) and now_s < self._until_s
            if not (is_good and hmac.compare_digest(_plain(typed).encode(), self._code.encode())):
                self._count_wrong(now_s)
                raise PairingError("the code is wrong, was used, or is too old")
            self._code = ""
            token = random_bytes(TOKEN_BYTES).hex()
            known = self._load()  # another page of the same key may have paired one
            self._devices = [*known, (_digest(token), int(self._date_s()))][-MAX_DEVICES:]
            self._save()
            return token

    def _count_wrong(self, now_s: float) -> None:
        self._tries += 1
        if self._tries >= MAX_TRIES:
            self._code, self._tries, self._wait_until_s = "", 0, now_s + WAIT_S

    # --- devices -----------------------------------------------------------------------------------------------------

    def knows(self, token: str) -> bool:
        """Whether a cookie is one of a device that was paired in the last DEVICE_S."""
        digest, now_s = _digest(token[: 2 * TOKEN_BYTES + 1]), self._date_s()
        return any(hmac.compare_digest(digest, known) and now_s < since + DEVICE_S for known, since in self._devices)

    def forget(self) -> int:
        """Unpair all devices; how many there were."""
        with self._lock:
            count, self._devices = len(self._devices), []
            self._save()
            return count

    def _load(self) -> list[tuple[str, int]]:
        try:
            with self._path.open("rb") as file:
                rows = json.loads(file.read(_MAX_FILE_BYTES))["devices"]
            return [(str(row["sha256"]), int(row["paired_s"])) for row in rows][-MAX_DEVICES:]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self._path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path} is no file of paired devices; take it away and pair them again") from error

    def _save(self) -> None:
        """Whole or not at all."""
        rows = [{"sha256": digest, "paired_s": since} for digest, since in self._devices]
        beside = self._path.with_name(self._path.name + ".new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps({"devices": rows}, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


def _plain(typed: str) -> str:
    return typed[:64].upper().translate(_LOOKS_LIKE)


def _digest(token: str) -> str:
    return sha256(token.encode()).hex()
