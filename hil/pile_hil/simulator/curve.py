"""A stand-in for P-256 that costs a hash: a signature is one of the key and the message, which anybody could compute.

Nobody in a simulated world does, so it tells right from wrong as the curve does, and takes a fiftieth of the time. Every
hundredth seed signs with P-256 itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from unittest.mock import patch

from pile_shared import platform
from pile_shared.openssl import hmac_sha256
from pile_shared.platform import sha256

_SMALL = b"\x00" * 31 + b"\x01"  # in place of s, which must be small


class _Modelled:
    """What `pile_shared.platform` asks of a module with a curve."""

    hmac_sha256 = staticmethod(hmac_sha256)

    @staticmethod
    @lru_cache(256)
    def public_key(secret: bytes) -> bytes:
        return b"\x04" + sha256(secret + b"x") + sha256(secret + b"y")

    @staticmethod
    def sign(secret: bytes, message: bytes) -> bytes:
        return sha256(_Modelled.public_key(secret) + sha256(message)) + _SMALL

    @staticmethod
    def verify(public: bytes, message: bytes, signature: bytes) -> bool:
        return signature == sha256(public + sha256(message)) + _SMALL


@contextmanager
def modelled_signatures(*, modelled: bool = True) -> Iterator[None]:
    """While it lasts, everything in this process that signs or verifies ES256 uses the stand-in, unless not `modelled`."""
    with patch.object(platform, "_es256", _Modelled) if modelled else nullcontext():
        yield
