"""Certificates by many hands: each accounting node signs a block's header, and more than two thirds of the power make it one.

Nodes tell each other their signatures over MQTT, `pilechain/1/<chain>/node/<party>/<kind>`:

    attestation   [header, signature]: this node attests the block
    missing       height: this node has no certificate from this height on; who has them, or has signed, sends that again
    certificate   [header, attestations], retained: the last block that this node knows certified; or one that was missing
    wanted        a question for blocks that this node lacks, answered on the topic history/<party> (engines/history.py)

Nothing here needs the broker to be honest: a signature that does not verify is passed over. The header travels whole, since
its hash says neither of which height it is nor, to the chain, what was attested: so whoever attests two headers of one height
has handed over the proof of it. Whatever is lost is asked for again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from pile_coordinator.chain.transactions import DoubleAttestation
from pile_coordinator.engines.engine import Block, Publish
from pile_shared import cose
from pile_shared.certificate import (
    MAX_HEADER_BYTES,
    MAX_VALIDATORS,
    Certificate,
    Header,
    Validator,
    attest,
    decode_header,
)
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import es256_verify, sha256
from pile_shared.topics import ROOT
from pile_shared.units import check_bytes, check_id, check_int

ATTESTATION, MISSING, CERTIFICATE = "attestation", "missing", "certificate"
NODE_LEVEL = "node"
ASK_AGAIN_S = 2.0  # a signature takes a few milliseconds; one that was lost holds up receipts
MAX_ANSWERED = 64  # signatures that one question brings: 30 kB, and the next question may come after ASK_AGAIN_S
MAX_AHEAD = 256  # heights beyond ours whose signatures are kept: a node that is slower than the others by minutes
MAX_BEHIND = 64  # certified heights whose signatures are kept: of older ones a certificate has those of two thirds
MAX_SAID = 2  # headers of one height kept for one node before it is known which is the block's: two are a proof
_MESSAGE_BYTES = MAX_HEADER_BYTES + cose.SIGNATURE_BYTES + 8
_CERTIFICATE_BYTES = MAX_HEADER_BYTES + MAX_VALIDATORS * (cose.SIGNATURE_BYTES + 5) + 8
OTHER_HEADER, DOUBLE = "other_header", "double_attestation"
Recall = Callable[[int], tuple[Certificate, list[Validator]] | None]
"""A certified block's certificate and who might attest it, by height; None for one that is kept no more."""


def node_topic(chain_id: str, party: str, kind: str) -> str:
    """The topic of one kind of message from an accounting node."""
    return f"{ROOT}/{chain_id}/{NODE_LEVEL}/{party}/{kind}"


def node_topics(chain_id: str) -> tuple[str, ...]:
    """What a node listens to."""
    return tuple(node_topic(chain_id, "+", kind) for kind in (ATTESTATION, MISSING, CERTIFICATE))


def parse_node_topic(chain_id: str, topic: str) -> tuple[str, str] | None:
    """(party, kind) of an accounting node's topic on this chain; None for any other topic."""
    parts = topic.split("/")
    if len(parts) != 6 or "/".join(parts[:4]) != f"{ROOT}/{chain_id}/{NODE_LEVEL}":
        return None
    try:
        return check_id("party", parts[4]), parts[5]
    except PilechainError:
        return None


@dataclass(frozen=True, slots=True)
class Said:
    """That a node attests a header: its bytes, their SHA-256, and the node's signature, which was checked."""

    header: bytes
    digest: bytes
    signature: bytes


class Attestations:
    """Signatures under blocks, of which certificates are made, and who gave one to two headers. Used by one thread.

    Attributes:
        publish: sends to the other nodes; nothing is sent before it is set.
        accuse: hears the proof when a node attests two headers of a height whose block is here.
    """

    def __init__(self, chain_id: str, own: tuple[str, cose.SoftwareSigner], recall: Recall = lambda _: None) -> None:
        """Collect for one chain; `own` is party and attestation key of this node, `recall` finds what was certified."""
        self._chain_id = chain_id
        self._aad = cose.purpose(cose.HEADER, chain_id)
        self.publish: Publish = lambda *_: None
        self.accuse: Callable[[DoubleAttestation], None] = lambda _: None
        self._party, self._signer = own
        self._recall = recall
        self._blocks: dict[int, tuple[bytes, list[Validator]]] = {}  # hash of each block's header, who attests it
        self._heard: dict[int, dict[bytes, list[Said]]] = {}  # height -> key -> what it attests
        self._known: dict[str, bytes] = {}  # attestation key by party, of the newest set

    def know(self, validators: list[Validator]) -> None:
        """Whose signatures to take for blocks that have not been committed here yet."""
        self._known = {validator.party: validator.public for validator in validators}

    def sign(self, block: Block, validators: list[Validator], *, is_silent: bool = False) -> None:
        """A block was committed here that `validators` attest: do so, if this node is among them, and tell the others.

        One that `is_silent` attests nothing, and certifies the block by the others' signatures alone.
        """
        height, header = block.header.height, block.certificate.header_bytes
        self._blocks[height] = sha256(header), validators
        if not is_silent and any(validator.public == self._signer.public for validator in validators):
            said = Said(header, sha256(header), attest(header, self._signer, self._chain_id))
            self._heard.setdefault(height, {})[self._signer.public] = [said]
            self._tell(said)
        for validator in validators:
            self._judge(validator.party, self._heard.get(height, {}).get(validator.public, []))

    def answer(self, certificate: Certificate, validators: list[Validator]) -> None:
        """Send the own signature under a block again that has no certificate here either."""
        header = certificate.header_bytes
        if any(validator.public == self._signer.public for validator in validators):
            self._tell(Said(header, sha256(header), attest(header, self._signer, self._chain_id)))

    def _tell(self, said: Said) -> None:
        self.publish(node_topic(self._chain_id, self._party, ATTESTATION), encode([said.header, said.signature]), False)

    def ask(self, height: int) -> None:
        """Say that certificates are missing here from a height on."""
        self.publish(node_topic(self._chain_id, self._party, MISSING), encode(height), False)

    def offer(self, party: str, payload: bytes, certified: int) -> str:
        """Take a node's attestation; "" or why it was refused. `certified` is the last certified height here."""
        try:
            header_bytes, signature = array(decode(payload, _MESSAGE_BYTES), 2)
            check_bytes("signature", signature, cose.SIGNATURE_BYTES, cose.SIGNATURE_BYTES)
            header = decode_header(check_bytes("header", header_bytes, 1, MAX_HEADER_BYTES))
        except PilechainError as error:
            return error.code
        if header.chain_id != self._chain_id:
            return "wrong_chain"
        if header.height > certified + MAX_AHEAD:
            return "too_far_ahead"
        return self._take(party, header, Said(header_bytes, sha256(header_bytes), signature), certified)

    def offer_certificate(self, payload: bytes, certified: int) -> str:
        """Look into a certificate that somebody published, if its block has none here or is another than ours.

        It is as good as the signatures in it: each counts as if its node had sent it, for the block or against the node.

        Returns:
            "" or why it was refused.
        """
        try:
            header_bytes, attestations = array(decode(payload, _CERTIFICATE_BYTES), 2)
            header = decode_header(check_bytes("header", header_bytes, 1, MAX_HEADER_BYTES))
            if header.chain_id != self._chain_id:
                return "wrong_chain"
            found = self._block(header.height)
            if found is None or (found[0] == sha256(header_bytes) and header.height <= certified):
                return ""  # ours, or one that this node cannot judge
            outcomes = [
                self._offer_place(found[1], array(row, 2), header_bytes, certified)
                for row in items(attestations, len(found[1]))
            ]
        except PilechainError as error:
            return error.code
        return next((outcome for outcome in (DOUBLE, OTHER_HEADER) if outcome in outcomes), "")

    def _offer_place(self, validators: list[Validator], row: list[object], header: bytes, certified: int) -> str:
        place = check_int("validator index", row[0], 0, len(validators) - 1)
        return self.offer(validators[place].party, encode([header, row[1]]), certified)

    def _block(self, height: int) -> tuple[bytes, list[Validator]] | None:
        """The hash of our block's header and who attests it; None for a block that is not here, or not any more."""
        if height in self._blocks:
            return self._blocks[height]
        recalled = self._recall(height)
        return None if recalled is None else (sha256(recalled[0].header_bytes), recalled[1])

    def _take(self, party: str, header: Header, said: Said, certified: int) -> str:
        height = header.height
        ours = self._block(height)
        if ours is None and height <= certified:
            return ""  # long ago: nobody can be punished for it any more
        public = self._known.get(party) if ours is None else _key_of(ours[1], party)
        if public is None:
            return "unknown_node"
        heard = self._heard.get(height, {}).get(public) or self._attested(height, public)
        is_ours = ours is not None and ours[0] == said.digest
        is_old = height <= certified - MAX_BEHIND
        if any(one.digest == said.digest for one in heard) or (is_old and is_ours):
            return ""
        message = cose.to_be_signed(cose.key_id(public), said.digest, self._aad)
        if cose.low_s(said.signature) != said.signature or not es256_verify(public, message, said.signature):
            return "bad_signature"
        heard = [*heard, said]
        if not is_old and (is_ours or len(heard) <= MAX_SAID):
            self._heard.setdefault(height, {})[public] = heard
        if ours is None or (is_ours and len(heard) == 1):
            return ""
        self._judge(party, heard)
        return DOUBLE if len(heard) > 1 else OTHER_HEADER

    def _attested(self, height: int, public: bytes) -> list[Said]:
        """What a node is known to attest by a certificate that is stored here; after a restart nothing else is left."""
        recalled = self._recall(height)
        if recalled is None:
            return []
        certificate, validators = recalled
        header = certificate.header_bytes
        rows = cast("list[tuple[int, bytes]]", certificate.attestations)
        return [Said(header, sha256(header), said) for place, said in rows if validators[place].public == public]

    def _judge(self, party: str, heard: list[Said]) -> None:
        """Two headers of one height: the proof goes to whoever tells the chain."""
        if len(heard) > 1:
            first, second = heard[0], heard[-1]
            self.accuse(DoubleAttestation(party, first.header, first.signature, second.header, second.signature))

    def certificate(self, height: int) -> list[list[object]] | None:
        """The attestations of a block, if they are more than two thirds of the power.

        No more than it takes, the most powerful first: a board verifies each for a second or so, in a small memory.
        """
        digest, validators = self._blocks[height]
        signed = {
            public: one.signature
            for public, heard in self._heard.get(height, {}).items()
            for one in heard
            if one.digest == digest
        }
        ranked = sorted((-v.power, place, v.public) for place, v in enumerate(validators) if v.public in signed)
        whole, power, enough = sum(validator.power for validator in validators), 0, []
        for minus_power, place, public in ranked:
            power -= minus_power
            enough.append((place, signed[public]))
            if 3 * power > 2 * whole:
                self._forget(height - MAX_BEHIND)
                return [[place, signature] for place, signature in sorted(enough)]
        return None

    def _forget(self, until: int) -> None:
        for kept in (self._blocks, self._heard):
            for height in [height for height in kept if height <= until]:
                del kept[height]

    def publish_certificate(self, certificate: Certificate, *, retained: bool = True) -> None:
        """Tell a certificate: the newest, which is left at the broker for whoever comes, or one that a node lacks."""
        self.publish(node_topic(self._chain_id, self._party, CERTIFICATE), encode(certificate.fields()), retained)


def _key_of(validators: list[Validator], party: str) -> bytes | None:
    return next((validator.public for validator in validators if validator.party == party), None)


def only_attester(keys: dict[str, cose.SoftwareSigner]) -> tuple[str, cose.SoftwareSigner]:
    """The one attestation key of a node; ConfigError unless there is exactly one."""
    if len(keys) != 1:
        raise ConfigError("with the comet engine [attestation] names one accounting node: the one that runs here")
    ((party, signer),) = keys.items()
    return party, signer
