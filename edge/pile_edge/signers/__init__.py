"""Keys and where they live, chosen by a URI. A signer has `public` (65 bytes), `kid` (8 bytes) and `sign(message)`."""

from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError
from pile_shared.platform import MICROPYTHON

TYPE_CHECKING = False  # there is no typing module on a board; checkers take this name for true
if TYPE_CHECKING:
    from pile_edge.signers.hardware import HardwareSigner


def open_signer(uri: str) -> "SoftwareSigner | HardwareSigner":
    """The signer a URI names. A missing key file is made; a key in a chip only by `pile-edge key --make`.

    Args:
        uri: `file:<path>`, a 32-byte secret in a file only its owner may read; on CPython also
            `tpm2:<handle>[@<device>]` and `atecc:<slot>[@<bus>[:<address>]]`.

    Raises:
        ConfigError: unknown kind of signer, a key file that is damaged or that others may read, or a chip without the key.
        SignerError: a chip that cannot be reached or refuses.
    """
    kind, _, rest = uri.partition(":")
    if kind == "file" and rest:
        from pile_edge.signers.file import open_file_signer

        return open_file_signer(rest)
    if not MICROPYTHON:
        from pile_edge.signers.hardware import open_hardware_signer

        return open_hardware_signer(uri)
    raise ConfigError('signer must be "file:<path>", not ' + repr(uri))
