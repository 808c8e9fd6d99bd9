"""Bearer tokens (RFC 6750): made and revoked by command, stored as hashes, looked up at every request.

A token is `pct_<id>_<secret>`: 48 bits that name it, and 256 random bits of which only the SHA-256 is stored. A secret
that nobody chose needs no slow hash. The file belongs to whoever makes tokens; the server only reads it.
"""

import hmac
import re
import secrets
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.chain.records import ROLES
from pile_coordinator.chain.transactions import PSEUDONYM
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import sha256
from pile_shared.units import check_id, check_int

MAX_TOKENS = 10_000  # in one file: a network's parties and their programs; more is a mistake in a script
MAX_DAYS = 3650
DAY_MS = 86_400_000
_TOKEN = re.compile(r"pct_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS token (id TEXT PRIMARY KEY, hash BLOB NOT NULL, party TEXT NOT NULL, role TEXT NOT NULL,"
    " made_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked_ms INTEGER, note TEXT NOT NULL) WITHOUT ROWID"
)


class TokenError(PilechainError):
    """A token that is not one, is unknown, expired or revoked; `code` tells which only to its own log, never to a client."""

    code = "token"


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. Times are unix ms; `revoked_ms` is None while it is not."""

    id: str
    party: str
    role: str
    made_ms: int
    expires_ms: int
    revoked_ms: int | None
    note: str


class Tokens:
    """The file of tokens. Used by any thread."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Open the file at `path`; it is made, for its owner alone, unless `read_only`. ConfigError if that cannot be."""
        self._lock = threading.Lock()
        try:
            if read_only:
                uri = f"{path.resolve().as_uri()}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
                self._db.execute("SELECT count(*) FROM token").fetchone()
            else:
                path.touch(mode=0o600)
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._db.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            hint = "make the first with: pilechain web token add" if read_only else "may this user write there?"
            raise ConfigError(f"{path} is not a file of tokens that can be opened ({error}); {hint}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, party: str, role: str, *, now_ms: int, days: int, note: str = "") -> str:
        """Make a token of `party`, good for 1 to 3650 days; its text, which stands nowhere afterwards.

        Raises:
            BoundsError: a value out of range. TokenError: there are too many, or it would be of an anonymous order.
        """
        check_id("party", party)
        if party.startswith(PSEUDONYM):
            raise TokenError(f"{party} would be the user of an anonymous order, who is nobody here: no token is theirs")
        check_int("days", days, 1, MAX_DAYS)
        if role not in ROLES:
            raise TokenError(f"role must be one of {', '.join(ROLES)}")
        if self._db.execute("SELECT count(*) FROM token").fetchone()[0] >= MAX_TOKENS:
            raise TokenError(f"there are {MAX_TOKENS} tokens; begin a new file")
        name, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        row = (name, _hash(secret), party, role, now_ms, now_ms + days * DAY_MS, None, note[:100])
        self._db.execute("INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return f"pct_{name}_{secret}"

    def all(self) -> list[Token]:
        """Every token there is or was, the newest first."""
        query = "SELECT id, party, role, made_ms, expires_ms, revoked_ms, note FROM token ORDER BY made_ms DESC, id"
        return [Token(*row) for row in self._db.execute(query).fetchall()]

    def revoke(self, name: str, now_ms: int) -> None:
        """End a token by its id, from the next request on; TokenError if there is none that is not revoked."""
        query = "UPDATE token SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL"
        if self._db.execute(query, (now_ms, name)).rowcount != 1:
            raise TokenError(f"no token {name!r} that is not revoked already; see: pilechain web token list")

    def check(self, text: str, now_ms: int) -> Token:
        """The token of this text; TokenError if it is none that is good now."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            raise TokenError("not a token", "malformed")
        name, secret = found.groups()
        query = "SELECT hash, party, role, made_ms, expires_ms, revoked_ms, note FROM token WHERE id = ?"
        with self._lock:
            row = self._db.execute(query, (name,)).fetchone()
        if not hmac.compare_digest(row[0] if row else b"\x00" * 32, _hash(secret)):
            raise TokenError("unknown token", "unknown")
        token = Token(name, *row[1:])
        if token.revoked_ms is not None:
            raise TokenError("revoked token", "revoked")
        if now_ms >= token.expires_ms:
            raise TokenError("expired token", "expired")
        return token


def _hash(secret: str) -> bytes:
    return sha256(secret.encode())
