"""Who is who at the broker, and who may say and hear what there.

A certificate's common name is the broker's name for its owner: a pile's is its id, all others have a kind and a colon before
theirs, which no id can hold. So one rule serves all piles, those of tomorrow too: a pile has what lies below its own name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pile_shared.errors import ConfigError, PilechainError
from pile_shared.record import RECORD, RECORDED
from pile_shared.topics import PARTY_DOWN, PARTY_LEVEL, PARTY_UP, PILE_DOWN, PILE_TOOL, PILE_UP, ROOT
from pile_shared.units import check_id

PILE, USER, GUEST, COORDINATOR, WORKER, FLEET, WATCHER = KINDS = (
    *("pile", "user", "guest", "coordinator", "worker", "fleet", "watcher"),
)
EVERYBODY = "all"  # the one guest: a certificate that many have names nobody
SITE = "site"  # of the commands themselves, for the moment they need
WHO = {
    PILE: "a pile; its id",
    USER: "a party's wallet; the party",
    GUEST: f"who pays anonymously; always {EVERYBODY!r}",
    COORDINATOR: "a coordinator or accounting node",
    WORKER: "a process that verifies proofs for coordinators",
    FLEET: "who sends new software to piles, and hears what they answer",
    WATCHER: "who hears everything and says nothing",
}


@dataclass(frozen=True, slots=True)
class Name:
    """One of KINDS, and an id of it."""

    kind: str
    id: str

    def __str__(self) -> str:
        """As the broker calls it."""
        return self.id if self.kind == PILE else f"{self.kind}:{self.id}"

    @property
    def folder(self) -> str:
        """Where its files are, below the site's folder."""
        return f"{self.kind}s/{self.id}"

    @property
    def stem(self) -> str:
        """What its files are called before the dot; not `pile`, as a pile's own key is pile.key in the same folder."""
        return "tls" if self.kind == PILE else self.kind


def name_of(kind: str, identity: str) -> Name:
    """A name that can be given; ConfigError says what is wrong with it."""
    try:
        check_id(kind, identity)
    except PilechainError as error:
        raise ConfigError(str(error)) from error
    if kind == PILE and identity == PARTY_LEVEL:
        raise ConfigError(f"a pile cannot be called {PARTY_LEVEL}: parties' topics lie below that name")
    if kind == GUEST and identity != EVERYBODY:
        raise ConfigError(f"guests share one certificate, which names nobody: {EVERYBODY}")
    return Name(kind, identity)


def parse_name(text: str) -> Name | None:
    """The name in a certificate; None if it is none of a client of ours."""
    kind, colon, identity = text.partition(":")
    try:
        return name_of(kind, identity) if colon and kind in KINDS and kind != PILE else name_of(PILE, text)
    except ConfigError:
        return None


def access_list(chain_id: str, good: Iterable[Name], revoked: Iterable[Name]) -> str:
    """The broker's access list, in mosquitto's form: what is not allowed in it is refused.

    Args:
        chain_id: of the site's chain; nothing else is said at its broker.
        good: who has a certificate.
        revoked: who has none any more; connections that stand hear and say nothing more.
    """
    top = f"{ROOT}/{chain_id}"
    lines = [
        "# Made by `pilechain site`, and again whenever somebody is added or revoked: changes made here are lost.",
        "# Piles: %u is the name in the certificate. Whoever installs one hears with its certificate what it says.",
        *(f"pattern readwrite {top}/%u/{kind}" for kind in (*PILE_UP, *PILE_TOOL, RECORD)),
        *(f"pattern read {top}/%u/{kind}" for kind in (*PILE_DOWN, RECORDED)),
    ]
    for name in sorted(set(good), key=str):
        rules = _rules(name, top)
        if rules:
            lines += ["", f"user {name}", *rules]
    for name in sorted(set(revoked), key=str):
        lines += ["", f"user {name}", "topic deny #"]
    return "\n".join(lines) + "\n"


def _rules(name: Name, top: str) -> list[str]:
    party = f"{top}/{PARTY_LEVEL}"
    if name.kind in {USER, GUEST}:
        # Brokers cannot tell guests' topics from parties', nor whose pile a session is at: what is said is signed.
        whose = "+" if name.kind == GUEST else name.id
        return [
            *(f"topic write {party}/{whose}/{kind}" for kind in PARTY_UP),
            *(f"topic read {party}/{whose}/{kind}" for kind in PARTY_DOWN),
            f"topic write {top}/+/session",
        ]
    return {
        PILE: [],
        COORDINATOR: [f"topic readwrite {top}/#"],
        WATCHER: [f"topic read {top}/#"],
        WORKER: [
            f"topic read {top}/+/proof",
            f"topic read {party}/+/keys/+",
            f"topic write {party}/+/verified",
        ],
        FLEET: [
            *(f"topic read {top}/+/{kind}" for kind in (*PILE_UP, *PILE_TOOL, "receipt")),
            f"topic write {top}/+/update",
        ],
    }[name.kind]
