"""A party's wallet: signs transactions, asks questions, checks every answer's signature. Talks MQTT, like everything here."""

import time
from collections.abc import Callable
from dataclasses import astuple
from typing import Self, cast

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.rejections import CODES, Rejection
from pile_coordinator.chain.transactions import Body, Confirm, Object, PlaceBid, sign_transaction
from pile_coordinator.mqtt import MAX_MESSAGE_BYTES, Broker, Connection
from pile_shared import cose, topics
from pile_shared.codec import array, decode, encode
from pile_shared.errors import LinkError, PilechainError
from pile_shared.platform import random_bytes, sha256

VALID_BLOCKS = 600
RESEND_S = 3.0
GRACE_S = 0.5  # how long an answer of another coordinator waits for that of the one that answered last
DEFAULT_TIMEOUT_S = 20.0

START, STOP = 1, 2  # session commands to a pile


class WalletError(PilechainError):
    """The coordinator refused; `code` is its code."""

    code = "wallet"


class Wallet:
    """One party's connection to a coordinator. Use as a context manager."""

    def __init__(
        self,
        genesis: Genesis,
        party: str,
        signer: cose.SoftwareSigner,
        broker: Broker,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        client_id: str = "",
    ) -> None:
        """Act as `party`; answers must be signed by a grid or operator party of `genesis` and come within `timeout_s`.

        `client_id` is what the broker knows the connection by; made from the party's name if it is empty.
        """
        self._timeout_s = timeout_s
        self.chain_id = genesis.chain_id
        self.party = party
        self._signer = signer
        self._trusted = {
            cose.key_id(public): public for _, role, public in genesis.parties if role in {"grid", "operator"}
        }
        down = [topics.party_topic(self.chain_id, party, kind) for kind in topics.PARTY_DOWN]
        client_id = client_id or f"wallet-{party}-{random_bytes(4).hex()}"
        self._connection = Connection(broker, client_id, down, persistent=False)
        self._coordinator: bytes | None = None  # the key of the one that answered last

    @property
    def kid(self) -> bytes:
        """The id of this wallet's key."""
        return cose.key_id(self._signer.public)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there; whether a coordinator is, only a question shows."""
        return self._connection.is_connected

    def ask(self, question: str, *arguments: object, timeout_s: float | None = None) -> object:
        """The coordinator's answer to a question (desk.py), within the wallet's time if `timeout_s` is None.

        Raises:
            WalletError: it refuses.
            LinkError: nobody answers.
        """
        nonce = random_bytes(16)
        payload = encode(self._row(nonce, question, list(arguments)))
        message = cose.sign1(payload, self._signer, cose.purpose(cose.QUERY, self.chain_id))

        def ours(kind: str, row: list[object]) -> bool:
            return kind == "answer" and len(row) == 3 and row[0] == nonce

        _, code, value = self._exchange("query", message, ours, timeout_s)
        if code != "ok":
            raise WalletError(str(value), str(code))
        return value

    def _row(self, nonce: bytes, question: str, arguments: list[object]) -> list[object]:
        return [self.party, nonce, question, arguments]

    def quote(self, bid: PlaceBid) -> dict[str, object]:
        """What would become of a bid if nothing else arrived (desk.py); limit 0 asks for the least at which it fills now."""
        return cast("dict[str, object]", self.ask("quote", *astuple(bid)))

    def contract(self, order: bytes) -> dict[str, object]:
        """A contract by its id, or by that of the bid it came from."""
        return cast("dict[str, object]", self.ask("contract", order))

    def contract_id(self, order: bytes) -> bytes:
        """The id of a contract that is named by itself or by its bid."""
        found = self.contract(order)["id"]
        if not isinstance(found, bytes):
            raise WalletError("the coordinator's answer names no contract", "malformed")
        return found

    # --- transactions ------------------------------------------------------------------------------------------------

    def prepare(self, body: Body) -> bytes:
        """The signed transaction with this party's next number, and nothing sent: whatever is done with it, it counts once.

        Of several with one number the chain takes one; the same bytes sent again are answered again.
        """
        account = cast("dict[str, int]", self.ask("account"))
        until = account["height"] + VALID_BLOCKS
        return sign_transaction(self._signer, self.chain_id, self.party, account["sequence"] + 1, until, body)

    def submit(self, tx: bytes) -> tuple[bytes, int]:
        """Send what `prepare` gave and wait for its block: (transaction id, height). Rejection if it is refused."""
        tx_id = sha256(tx)

        def ours(kind: str, row: list[object]) -> bool:
            return kind == "result" and len(row) == 4 and row[0] == tx_id

        _, height, code, text = self._exchange("tx", tx, ours)
        if code in CODES:
            raise Rejection(code, cast("str", text))
        if code != "ok":
            raise WalletError(str(text), str(code))
        return tx_id, cast("int", height)

    def send(self, body: Body) -> tuple[bytes, int]:
        """Sign and send a transaction and wait for its block: (transaction id, height). Rejection if it is refused."""
        return self.submit(self.prepare(body))

    def confirm(self, contract: bytes, digest: bytes | None = None) -> tuple[bytes, int]:
        """Sign the settlement of a measured contract: the one that was looked at, else as the coordinator states it."""
        found = self.contract(contract)
        stated = found["digest"]
        if not isinstance(stated, bytes):
            raise WalletError(f"the contract is {found['phase']}; there is no settlement to confirm yet", "phase")
        return self.send(Confirm(cast("bytes", found["id"]), digest or stated))

    def object_to(self, order: bytes, ground: str, text: str, claimed_wh: int | None = None) -> tuple[bytes, int]:
        """Object to the settlement of a measured contract (transactions.Object); without a claim, to the cause as metered."""
        found = self.contract(order)
        wh = cast("int", found["measured_wh"]) if claimed_wh is None else claimed_wh
        return self.send(Object(cast("bytes", found["id"]), ground, wh, text))

    # --- sessions ----------------------------------------------------------------------------------------------------

    def session(
        self, order: bytes, action: int, *, limit_wh: int | None = None, old: cose.SoftwareSigner | None = None
    ) -> dict[str, object]:
        """START or STOP the session of a contract, and what was told to whom: pile and contract.

        Args:
            order: id of the contract, or of its bid.
            action: START or STOP.
            limit_wh: stop by itself after this much; as contracted if None.
            old: the key that the contract was signed with, if this party has changed its key since.

        Raises:
            WalletError: `phase` if no session can be, `other_key` if the contract was signed with another key.
        """
        found = self.contract(order)
        kid = found["session_kid"]
        if kid is None:
            raise WalletError(f"the contract is {found['phase']}", "phase")
        if kid != (cose.key_id(old.public) if old else self.kid):
            raise WalletError(
                "the pile takes start and stop only by the key that the contract was signed with", "other_key"
            )
        time_ms = cast("dict[str, int]", self.ask("account"))["time_ms"]
        pile, contract = cast("str", found["pile"]), cast("bytes", found["id"])
        most_wh = cast("int", found["energy_wh"]) if limit_wh is None else limit_wh
        self.command(pile, contract, action, time_ms, most_wh, signer=old)
        return {"pile": pile, "contract": contract}

    def command(
        self,
        pile: str,
        contract: bytes,
        action: int,
        time_ms: int,
        limit_wh: int,
        *,
        signer: cose.SoftwareSigner | None = None,
    ) -> None:
        """Tell a pile to START or STOP a session, directly: it knows this key from the contract.

        `signer` is the earlier key of a party that has changed its key since the contract was signed.
        """
        payload = encode([contract, action, time_ms, limit_wh])
        message = cose.sign1(payload, signer or self._signer, cose.purpose(cose.SESSION, self.chain_id))
        self._connection.wait_connected(self._timeout_s)
        self._connection.publish(topics.pile_topic(self.chain_id, pile, "session"), message)

    def _exchange(
        self,
        kind: str,
        message: bytes,
        ours: Callable[[str, list[object]], bool],
        timeout_s: float | None = None,
    ) -> list[object]:
        """Send until the reply comes; sending twice is safe, as the coordinator recognises what it has seen.

        Where several answer, the one that answered last is believed, so that a question never comes to one that has not seen
        the block of the transaction before it; another only if that one stays silent for GRACE_S longer. As a rule one answers.
        """
        within_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + within_s
        self._connection.wait_connected(within_s)
        other: tuple[float, bytes, list[object]] | None = None  # until when it waits, whose answer, and what
        send_at = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() >= send_at:
                self._connection.publish(topics.party_topic(self.chain_id, self.party, kind), message)
                send_at = time.monotonic() + RESEND_S
            received = self._connection.get(0.2)
            if other is not None and time.monotonic() >= other[0]:
                self._coordinator = other[1]
                return other[2]
            if received is None:
                continue
            kid, row = self._opened(received[1])
            if row is None or not ours(received[0].rsplit("/", 1)[1], row):
                continue
            if self._coordinator in {None, kid}:
                self._coordinator = kid
                return row
            if other is None:
                other = time.monotonic() + GRACE_S, kid, row
        raise LinkError(f"no coordinator answered within {within_s:g} s; is `pilechain run` up for {self.chain_id}?")

    def _opened(self, message: bytes) -> tuple[bytes, list[object] | None]:
        """Whose key signed a reply, and its content if that is a coordinator we trust: forged replies are as good as none."""
        try:
            envelope, detached = array(decode(message, MAX_MESSAGE_BYTES), 2)
            signed = cose.parse1(envelope, len(envelope))
            public = self._trusted.get(signed.kid)
            if public is None:
                return signed.kid, None
            signed.verify(public, cose.purpose(cose.REPLY, self.chain_id))
            content = signed.payload if detached is None else detached
            if detached is not None and sha256(detached) != signed.payload:
                return signed.kid, None
            return signed.kid, cast("list[object]", decode(content, MAX_MESSAGE_BYTES))
        except (PilechainError, TypeError):
            return b"", None
