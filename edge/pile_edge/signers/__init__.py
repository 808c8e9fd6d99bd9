"""Keys and where they live, chosen by a URI. A signer has `public` (65 bytes), `kid` (8 bytes) and `sign(message)`."""

from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError


def open_signer(uri: str) -> SoftwareSigner:
    """The signer a URI names; a missing key is made on the device.

    Args:
        uri: `file:<path>`, a 32-byte secret in a file only its owner may read.

    Raises:
        ConfigError: unknown kind of signer, or a key file that is damaged or that others may read.
    """
    kind, _, rest = uri.partition(":")
    if kind == "file" and rest:
        from pile_edge.signers.file import open_file_signer

        return open_file_signer(rest)
    raise ConfigError('signer must be "file:<path>", not ' + repr(uri))
