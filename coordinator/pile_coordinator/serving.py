"""Which of several coordinators at one broker speaks to a pile or wallet: one at a time, and the next when it is silent.

All hear everything and know the same chain; they differ only in who says what it says. No message passes between them but

    party/<party>/serving    retained: the party's id, signed with its key; empty once it has gone (the last will)

Who is present is ordered for each pile or wallet by a hash, the same everywhere. The first speaks at once. The others owe
what it should say, until they hear it on the wire; what they do not hear in time the next in order says. So nobody has to
be believed: a presence that is forged, stale or a lie delays what is said, for one message a minute, and loses nothing, and
two that both think themselves first say the same twice, which piles and wallets pass over.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import cast

from pile_coordinator.chain.records import GRID, OPERATOR, Party
from pile_coordinator.chain.state import State
from pile_shared import cose
from pile_shared.certificate import MAX_INCLUSION_BYTES, Certificate, Validator, decode_header
from pile_shared.codec import array, decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.topics import PARTY_LEVEL, ROOT
from pile_shared.units import check_id

SERVING = "serving"
TURN_S = 5.0  # how long each has before the next in order steps in: a block of a network takes a second or two
MAX_TURNS = 3  # nobody waits longer than so many: those who are further behind speak at once with the third
SILENT_S = 60.0  # how long one who was silent comes last
MAX_OWED = 16_384  # messages of some 1 kB that others should say; beyond it they are said here too
MAX_ASKED = 4096  # messages of wallets whose hashes are remembered
MAX_EARLY = 1024  # piles of which messages are kept that were heard before their block was known here
MAX_SAID_BYTES = (
    16_384  # of a message that is compared: the certificate of 100 nodes and a leaf; others count as not said
)
_EARLY_EACH = 4  # of one pile and kind: a contract and its end may come in one block
_MAX_CERTIFICATES = 64  # verified ones that are remembered: one block's is in many messages
_PRESENCE_BYTES = 256


def serving_topic(chain_id: str, party: str) -> str:
    """Where a coordinator's party says that it serves."""
    return f"{ROOT}/{chain_id}/{PARTY_LEVEL}/{party}/{SERVING}"


class Servers:
    """Who serves here, and who of them speaks to whom. Used by one thread.

    Attributes:
        announced: whether this coordinator has told the others that it serves. Before, it speaks only if nobody else does.
        settled: whether the broker has had time to say who else is there. Before, somebody may be.
    """

    def __init__(
        self, chain_id: str, party: str, *, settled: bool = True, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Be `party` among the coordinators of a chain; `now_s` is a clock that only runs forward."""
        self._chain_id = chain_id
        self._party = party
        self._aad = cose.purpose(cose.SERVING, chain_id)
        self._now_s = now_s
        self._others: set[str] = set()
        self._doubted: set[str] = set()
        self._silent_s: dict[str, float] = {}  # by party: when it may come first again
        self.announced = False
        self.settled = settled

    def presence(self, signer: cose.SoftwareSigner) -> bytes:
        """What says that this coordinator serves."""
        return cose.sign1(encode(self._party), signer, self._aad)

    @property
    def takes_part(self) -> bool:
        """Whether this coordinator has a place in the order: it has announced itself, or is alone."""
        return self.announced or (self.settled and not self._others)

    def doubt(self) -> None:
        """The broker will say again who is present: until `settle` those who were count as present."""
        self.settled = False
        self._doubted = set(self._others)

    def settle(self) -> None:
        """Who has not been heard of since `doubt` has gone."""
        self._others -= self._doubted
        self.settled = True

    def hear(self, state: State, topic: str, payload: bytes) -> str | None:
        """Take a presence: "" or why it was refused; None if the topic is another.

        Only a party that may submit proofs counts, by its signature; that it has gone anybody may say, as that only makes
        others speak.
        """
        parts = topic.split("/")
        if len(parts) != 6 or parts[5] != SERVING or topic != serving_topic(self._chain_id, parts[4]):
            return None
        try:
            party = check_id("party", parts[4])
            if party == self._party:
                return ""
            if not payload:
                self._others.discard(party)
                return ""
            found = state.find(Party, party)
            if found is None or found.role not in {GRID, OPERATOR}:
                return "unknown_sender"
            signed = cose.parse1(payload, _PRESENCE_BYTES)
            signed.verify(found.public, self._aad)
        except PilechainError as error:
            return error.code
        if signed.payload != encode(party):
            return "not_yours"
        self._others.add(party)
        self._doubted.discard(party)
        return ""

    def _before(self, who: str) -> list[str]:
        """Who of the others comes before this coordinator, for a pile or party: by a hash; those who were silent last."""
        now_s, own = self._now_s(), _weight(self._party, who)
        awake = [party for party in self._others if self._silent_s.get(party, 0.0) <= now_s]
        return [party for party in awake if not self.announced or _weight(party, who) < own]

    def rank(self, who: str) -> int:
        """How many others come first in speaking to a pile or party; 0 if this coordinator does."""
        known = len(self._before(who)) if self._others else 0
        return known if self.announced or self.settled else max(1, known)

    def wait_s(self, who: str) -> float:
        """How long the others have before this coordinator does what is theirs for a pile or party."""
        return min(self.rank(who), MAX_TURNS) * TURN_S

    def stood_in(self, who: str) -> list[str]:
        """This coordinator had to speak for those before it: who they are. They come last for a while."""
        silent = self._before(who)
        for party in silent:
            self._silent_s[party] = self._now_s() + SILENT_S
        return silent


def _weight(party: str, who: str) -> bytes:
    """Rendezvous hashing (Thaler, Ravishankar 1998): who comes or goes moves no more than its own share."""
    return sha256(f"{party}/{who}".encode())


class Unsaid:
    """What others should say to piles, and have not yet been heard to say. Used by one thread.

    Attributes:
        missed: piles that others had to be told something by while this coordinator could not hear whether they did.
    """

    def __init__(
        self,
        servers: Servers,
        chain_id: str,
        validators: Callable[[int], list[Validator] | None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep it for one coordinator.

        Args:
            servers: who speaks to whom.
            chain_id: the chain.
            validators: who attests a height, if that is known; what they do not attest counts as not said.
            now_s: a clock that only runs forward.
        """
        self._servers = servers
        self._chain_id = chain_id
        self._validators = validators
        self._now_s = now_s
        self._owed: dict[tuple[str, str], dict[bytes, float]] = {}  # by (pile, kind): each message, and since when
        self._count = 0
        self.missed: set[str] = set()
        self._early: OrderedDict[tuple[str, str], deque[bytes]] = OrderedDict()
        self._verified: OrderedDict[bytes, None] = OrderedDict()

    def owe(self, pile: str, kind: str, message: bytes, *, news: bool) -> bool:
        """Another should say this; False if there is no room to remember it, so that it has to be said now.

        Args:
            pile: to whom.
            kind: of topic.
            message: as this coordinator would say it.
            news: of a block, which another may have known before. An answer to a pile is said after it asked.
        """
        if not self._servers.takes_part:
            self.missed.add(pile)
            return True
        if news and self._was_early(pile, kind, message):
            if kind != "contract":  # what came before it is covered
                self._settle(pile, kind, list(self._owed.get((pile, kind), ())))
            return True
        if self._count >= MAX_OWED:
            return False
        owed = self._owed.setdefault((pile, kind), {})
        self._count += message not in owed
        owed.setdefault(message, self._now_s())
        return True

    def doubt(self) -> None:
        """What was said while there was no connection was not heard: of what is owed only the piles are kept."""
        self.missed |= {pile for pile, _ in self._owed}
        self._owed.clear()
        self._count = 0

    def heard(self, pile: str, kind: str, message: bytes) -> None:
        """Somebody said this to a pile: what is owed of the same is settled, once its certificate is verified."""
        if len(message) > MAX_SAID_BYTES:
            return
        owed = list(self._owed.get((pile, kind), ()))
        place = next((place for place, own in enumerate(owed) if self._is_same(own, message)), None)
        if place is not None:
            self._settle(pile, kind, owed[place : place + 1] if kind == "contract" else owed[: place + 1])
        elif self._servers.takes_part and self._servers.rank(pile) > 0:
            self._early.setdefault((pile, kind), deque(maxlen=_EARLY_EACH)).append(message)
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)

    def _settle(self, pile: str, kind: str, messages: list[bytes]) -> None:
        owed = self._owed.get((pile, kind), {})
        for message in messages:
            del owed[message]
        self._count -= len(messages)
        if not owed:
            self._owed.pop((pile, kind), None)

    def due(self) -> list[tuple[str, str, bytes]]:
        """What nobody said in time, or has become this coordinator's to say: (pile, kind, message); it is owed no more.

        A receipt covers those before it, and a pile that is told its newest handover says what it lacks: one is enough.
        """
        now_s, rows = self._now_s(), []
        for (pile, kind), owed in list(self._owed.items()):
            wait_s = self._servers.wait_s(pile)
            late = [message for message, since_s in owed.items() if now_s - since_s >= wait_s]
            if late and kind != "contract":
                late = list(owed)
                rows.append((pile, kind, late[-1]))
            else:
                rows += [(pile, kind, message) for message in late]
            if late:
                self._settle(pile, kind, late)
        return rows

    def _was_early(self, pile: str, kind: str, message: bytes) -> bool:
        waiting = self._early.get((pile, kind), deque())
        found = next((said for said in waiting if self._is_same(message, said)), None)
        if found is not None:
            waiting.remove(found)
            if not waiting:
                del self._early[(pile, kind)]
        return found is not None

    def _is_same(self, own: bytes, said: bytes) -> bool:
        """Whether a reader learns the same from both: they may differ in who attests the block, if enough do."""
        if own == said:
            return True
        try:
            (certified, *rest), (ours, *mine) = _parts(said), _parts(own)
            header, attestations = array(certified, 2)
            if encode(rest) != encode(mine) or header != array(ours, 2)[0] or not isinstance(attestations, list):
                return False
            self._verify(array(ours, 2)[0], attestations)
        except PilechainError:
            return False
        return True

    def _verify(self, header: object, attestations: list[object]) -> None:
        """CertificateError unless enough attest the header; each certificate is verified once."""
        assert isinstance(header, bytes)
        digest = sha256(encode([header, attestations]))
        if digest in self._verified:
            return
        validators = self._validators(decode_header(header).height) or []
        Certificate(header, cast("list[list[object]]", attestations)).verify(self._chain_id, validators)
        self._verified[digest] = None
        if len(self._verified) > _MAX_CERTIFICATES:
            self._verified.popitem(last=False)


def _parts(message: bytes) -> list[object]:
    """An inclusion or a handover, whose first part is its certificate."""
    row = decode(message, MAX_INCLUSION_BYTES)
    return row if isinstance(row, list) and row else [None]


class Heard:
    """How often a wallet has sent the same: it does until it is answered, and each time one coordinator more answers."""

    def __init__(self, most: int = MAX_ASKED) -> None:
        """Remember the last `most` messages."""
        self._times: OrderedDict[bytes, int] = OrderedDict()
        self._most = most

    def times(self, payload: bytes) -> int:
        """How often it came before."""
        digest = sha256(payload)
        before = self._times.pop(digest, 0)
        self._times[digest] = before + 1
        for old in list(islice(self._times, max(0, len(self._times) - self._most))):
            del self._times[old]
        return before
