"""Certificates by many hands: each accounting node signs a block's header, and more than two thirds of the power make it one.

Nodes tell each other their signatures over MQTT, `pilechain/1/<chain>/node/<party>/<kind>`:

    attestation   [height, hash of the header, signature]: this node attests the block
    missing       height: this node has no certificate from this height on; who has signed sends it again
    certificate   [header, attestations], retained: the last block that this node knows certified
    wanted        a question for blocks that this node lacks, answered on the topic history/<party> (engines/history.py)

Nothing here needs the broker to be honest: a signature that does not verify is passed over, and a header of another hash
than ours at the same height is a matter for people. Whatever is lost is asked for again.
"""

from pile_coordinator.engines.engine import Block, Publish
from pile_shared import cose
from pile_shared.certificate import Certificate, Validator, attest
from pile_shared.codec import array, decode, encode
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import es256_verify, sha256
from pile_shared.topics import ROOT
from pile_shared.units import MAX_TIME_MS, check_bytes, check_id, check_int

ATTESTATION, MISSING, CERTIFICATE = "attestation", "missing", "certificate"
NODE_LEVEL = "node"
ASK_AGAIN_S = 2.0  # a signature takes a few milliseconds; one that was lost holds up receipts
MAX_ANSWERED = 64  # signatures that one question brings: 20 kB, and the next question may come after ASK_AGAIN_S
MAX_AHEAD = 256  # heights beyond ours whose signatures are kept: a node that is slower than the others by minutes
_MESSAGE_BYTES = 256


def node_topic(chain_id: str, party: str, kind: str) -> str:
    """The topic of one kind of message from an accounting node."""
    return f"{ROOT}/{chain_id}/{NODE_LEVEL}/{party}/{kind}"


def node_topics(chain_id: str) -> tuple[str, ...]:
    """What a node listens to."""
    return tuple(node_topic(chain_id, "+", kind) for kind in (ATTESTATION, MISSING))


def parse_node_topic(chain_id: str, topic: str) -> tuple[str, str] | None:
    """(party, kind) of an accounting node's topic on this chain; None for any other topic."""
    parts = topic.split("/")
    if len(parts) != 6 or "/".join(parts[:4]) != f"{ROOT}/{chain_id}/{NODE_LEVEL}":
        return None
    try:
        return check_id("party", parts[4]), parts[5]
    except PilechainError:
        return None


class Attestations:
    """Signatures under blocks that are not certified yet. Used by one thread.

    Attributes:
        publish: sends to the other nodes; nothing is sent before it is set.
    """

    def __init__(self, chain_id: str, own: tuple[str, cose.SoftwareSigner]) -> None:
        """Collect for one chain; `own` is party and attestation key of this node."""
        self._chain_id = chain_id
        self._aad = cose.purpose(cose.HEADER, chain_id)
        self.publish: Publish = lambda *_: None
        self._party, self._signer = own
        self._waiting: dict[int, tuple[bytes, list[Validator]]] = {}  # hash of each block's header, who attests it
        self._signatures: dict[int, dict[bytes, tuple[bytes, bytes]]] = {}  # height -> key -> (header hash, signature)
        self._known: dict[str, bytes] = {}  # attestation key by party, of the newest set

    def know(self, validators: list[Validator]) -> None:
        """Whose signatures to take for blocks that have not been committed here yet."""
        self._known = {validator.party: validator.public for validator in validators}

    def sign(self, block: Block, validators: list[Validator]) -> None:
        """A block was committed here that `validators` attest: do so, if this node is among them, and tell the others."""
        height, header = block.header.height, block.certificate.header_bytes
        self._waiting[height] = sha256(header), validators
        if any(validator.public == self._signer.public for validator in validators):
            signature = attest(header, self._signer, self._chain_id)
            self._signatures.setdefault(height, {})[self._signer.public] = (sha256(header), signature)
            self._tell(height, sha256(header), signature)

    def answer(self, block: Block, validators: list[Validator]) -> None:
        """Send the own signature under an old block again, to a node that lacks its certificate."""
        header = block.certificate.header_bytes
        if any(validator.public == self._signer.public for validator in validators):
            self._tell(block.header.height, sha256(header), attest(header, self._signer, self._chain_id))

    def _tell(self, height: int, digest: bytes, signature: bytes) -> None:
        self.publish(node_topic(self._chain_id, self._party, ATTESTATION), encode([height, digest, signature]), False)

    def ask(self, height: int) -> None:
        """Say that certificates are missing here from a height on."""
        self.publish(node_topic(self._chain_id, self._party, MISSING), encode(height), False)

    def offer(self, party: str, payload: bytes, certified: int) -> str:
        """Take a node's attestation; "" or why it was refused. Blocks up to `certified` need none any more."""
        try:
            height, digest, signature = array(decode(payload, _MESSAGE_BYTES), 3)
            check_int("height", height, 1, MAX_TIME_MS)
            check_bytes("header hash", digest, 32, 32)
            check_bytes("signature", signature, cose.SIGNATURE_BYTES, cose.SIGNATURE_BYTES)
        except PilechainError as error:
            return error.code
        if height <= certified:
            return ""
        if height > certified + MAX_AHEAD:
            return "too_far_ahead"
        expected, validators = self._waiting.get(height, (digest, None))
        public = self._known.get(party) if validators is None else _key_of(validators, party)
        if public is None:
            return "unknown_node"
        message = cose.to_be_signed(cose.key_id(public), digest, self._aad)
        if cose.low_s(signature) != signature or not es256_verify(public, message, signature):
            return "bad_signature"
        if digest != expected:
            return "other_header"  # two chains of one name, or a node that lies: people must know
        self._signatures.setdefault(height, {})[public] = (digest, signature)
        return ""

    def certificate(self, height: int) -> list[list[object]] | None:
        """The attestations of a block, if they are more than two thirds of the power; they are forgotten here then.

        No more than it takes, the most powerful first: a board verifies each for a second or so, in a small memory.
        """
        digest, validators = self._waiting[height]
        found = self._signatures.get(height, {})
        signed = [
            (-v.power, place, v) for place, v in enumerate(validators) if found.get(v.public, (b"",))[0] == digest
        ]
        whole, power, enough = sum(validator.power for validator in validators), 0, []
        for _, place, validator in sorted(signed, key=lambda row: row[:2]):
            power += validator.power
            enough.append((place, found[validator.public][1]))
            if 3 * power > 2 * whole:
                del self._waiting[height], self._signatures[height]
                return [[place, signature] for place, signature in sorted(enough)]
        return None

    def publish_certificate(self, certificate: Certificate) -> None:
        """Leave the newest certificate at the broker for whoever comes."""
        self.publish(node_topic(self._chain_id, self._party, CERTIFICATE), encode(certificate.fields()), True)


def _key_of(validators: list[Validator], party: str) -> bytes | None:
    return next((validator.public for validator in validators if validator.party == party), None)


def only_attester(keys: dict[str, cose.SoftwareSigner]) -> tuple[str, cose.SoftwareSigner]:
    """The one attestation key of a node; ConfigError unless there is exactly one."""
    if len(keys) != 1:
        raise ConfigError("with the comet engine [attestation] names one accounting node: the one that runs here")
    ((party, signer),) = keys.items()
    return party, signer
