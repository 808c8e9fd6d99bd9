"""The light client's loop, the same file on a Raspberry Pi and on a board. Read `Agent.step` first.

    meter --read--> session --prove--> journal --publish--> coordinator --receipt--> retire
    validators --verify--> whose certificates count
    contract, start, stop --verify--> session --energise / de-energise--> contactor

Single-threaded: nothing happens between two lines of `step`. All input is verified before it changes anything, and a
proof is durable before it is published or acted upon. Whatever talks to hardware comes from a port (ports/__init__.py).
"""

from pile_edge.clock import Clock
from pile_edge.control import open_control
from pile_edge.journal import Journal
from pile_edge.light import LightClient
from pile_edge.meters.decode import MeterError, MeterReader
from pile_edge.session import CLOSE, IDLE, OPEN, PHASE_NAMES, PROVE, SAVE, Session, SessionError, contract_of
from pile_edge.settings import Settings
from pile_shared import cose
from pile_shared.certificate import Inclusion, decode_handover, decode_inclusion, validators_hash
from pile_shared.codec import array, decode, encode
from pile_shared.errors import BusError, CertificateError, JournalError, PilechainError, SignatureError
from pile_shared.platform import MICROPYTHON, sha256
from pile_shared.proof import BEGIN, END, EVENT_NAMES, NO_PREVIOUS, REASON_NAMES, Origin, Proof, parse
from pile_shared.reading import FLAG_CONTACTOR_CLOSED, TIME_SYNCHRONISED, Reading
from pile_shared.topics import PILE_DOWN, pile_topic
from pile_shared.topics import parse as parse_topic
from pile_shared.units import MAX_ENERGY_WH, MAX_TIME_MS, check_int

OFFLINE, ONLINE = 0, 1  # what a status message begins with
START, STOP = 1, 2  # actions of a session message
MAX_SESSION_BYTES = 256  # id, two integers, signature: 150
SESSION_AGE_MS = 600_000  # how far a session message's time may be from a synchronised clock
POLL_MS = 50  # real time that one step may wait for messages; bounds how late everything else can be
PUBLISH_BATCH = 4  # records of up to 2 kB in memory at once
PUBLISH_AHEAD = (
    64  # proofs under way without a receipt: a block's worth; more would be sent again and again while nobody listens
)
RESEND_SLOWEST = 16  # times resend_ms between two sendings of what nobody receipts: 20 kB each quarter of an hour
_DURABLE_EVENTS = (BEGIN, END)


class Agent:
    """One pile: its meter, contactor, key, journal and link.

    Attributes:
        session: the state machine. journal: the proofs. link: the connection. refused: bad messages, by error code.
    """

    def __init__(self, config: Settings, port, link=None, control=None) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Open everything, contactor first, and go on where the journal says a restart interrupted it.

        Args:
            config: Of this pile.
            port: What the interpreter provides; see ports/__init__.py.
            link: Used instead of the configured one, for a dry run.
            control: The same.

        Raises:
            ConfigError, JournalError: from the key file or the journal.
        """
        self.config = config
        self._port = port
        self._log = port.log
        self._bus = port.open_bus(config.bus)
        self._control = open_control(config.control, self._bus) if control is None else control
        self._clock = Clock(port, rate=config.rate, origin_ms=config.origin_ms)
        self._energised = True  # until the relay has said otherwise
        self._must_open = True
        self._open_again_ms = 0
        self._open_contactor()
        self._signer = port.open_signer(config.signer)
        storage = port.open_storage(config.journal_path)
        self.journal = Journal(
            storage,
            capacity_bytes=config.journal_capacity_bytes,
            segment_bytes=config.journal_segment_bytes,
        )
        self._light = LightClient(
            chain_id=config.chain_id,
            validators=config.validators,
            pile_id=config.pile_id,
            public=self._signer.public,
            meter_serial=config.meter_serial,
            storage=storage,
        )
        config.validators = []  # the light client's from here on, who may replace them
        profile = config.profile
        self._origin = Origin(profile.model, config.meter_serial, profile.id, port.firmware_hash())
        self._meter = MeterReader(
            self._bus, profile, config.unit, clock_ms=self._clock.now_ms, max_power_w=config.rated_power_w
        )
        self.session = Session(config.timing)
        self.refused: dict[str, int] = {}
        self._refusal = ""
        self._todo: list[tuple] = []  # type: ignore[type-arg]
        self._is_identified = False
        self._troubled = ""
        self._retry_ms = 0  # when to try again what a full journal refused; 0 while nothing waits
        self._left_out = 0
        self._restore()
        self._proof_topic = pile_topic(config.chain_id, config.pile_id, "proof")
        self._status_topic = pile_topic(config.chain_id, config.pile_id, "status")
        self._published = self._retired()
        self._progress_ms = self._clock.now_ms()
        self._resend_ms = config.timing.resend_ms  # more while no receipt comes
        self._was_connected = self._reported = False
        self._asked_ms = 0
        self.link = self._open_link() if link is None else link  # type: ignore[no-untyped-call]
        config.bus = config.control = config.mqtt = {}  # read; a board has better uses for the place
        config.signer = config.journal_path = ""
        self._port.collect()

    def step(self) -> None:
        """One turn: hear, measure, let time pass, act, publish. Takes POLL_MS when nothing happens.

        While the journal is too full for the end of a session, nothing else may happen: only receipts are heard.

        Raises:
            JournalError: `storage` or `corrupt`: nothing can be proved any more, so nothing may go on.
        """
        heard = self.link.poll(POLL_MS)
        while heard:
            self._hear(heard)
        if self._todo and self._clock.now_ms() >= self._retry_ms:
            self._act([])
        if not self._todo and self._clock.now_ms() >= self.session.wants_reading_at_ms:
            self._measure()
        if not self._todo:
            self._act(self.session.tick(self._clock.now_ms()))
        self._keep_contactor()
        self._publish()
        if self.session.phase == IDLE:
            self._port.keep(self._light.validators)
        self._port.alive()

    def run(self, is_stopping) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - callable giving bool
        """Step until told to stop; then open the contactor. A running session stays as saved and resumes at the next start."""
        self._log("pile " + self.config.pile_id + " on chain " + self.config.chain_id + ": running")
        try:
            while not is_stopping():
                self.step()
        finally:
            self.close()

    def close(self) -> None:
        """Open the contactor and give everything back."""
        self._open_contactor()
        self.link.close()
        self._bus.close()
        self._log("stopped while " + PHASE_NAMES[self.session.phase] + ", " + self._head_text())

    # --- boot

    def _restore(self) -> None:
        """Take up the chain of proofs and an interrupted session."""
        newest = self.journal.last()
        proof = None
        if newest is not None:
            signed, proof = parse(newest[1])
            if signed.kid != self._signer.kid:
                raise JournalError("the journal is another key's: bring that key back, or move the journal away", "key")
        if proof is not None and proof.readings:
            reading = proof.readings[-1]
            self._clock.start_at(reading.time_ms)
            self._meter.resume(reading.energy_wh, reading.time_ms)
        actions = self.session.restore(self.journal.state, proof, self._clock.now_ms())
        if self.session.phase != IDLE:
            self._log("restarted during a session: " + self._head_text())
        self._act(actions)

    def _open_link(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - a port's type
        config = self.config
        return self._port.open_link(
            config.mqtt,
            client_id="pile-" + config.pile_id,
            subscriptions=[pile_topic(config.chain_id, config.pile_id, kind) for kind in PILE_DOWN],
            will=(self._status_topic, encode([OFFLINE, config.pile_id, 0])),
        )

    # --- messages

    def _hear(self, heard: list[tuple[str, bytes]]) -> None:
        """Take the first message and act on it; a bad one is counted, logged, and changes nothing.

        It is taken off the list, and let go once it is parsed: a board has to verify signatures where it was.
        """
        topic, payload = heard.pop(0)
        kind = topic[-40:]
        try:
            chain_id, _, pile_id, kind = parse_topic(topic)
            if (chain_id, pile_id) != (self.config.chain_id, self.config.pile_id):
                raise SignatureError("message for another pile", "topic")
            if kind == "session":
                self._hear_session(payload)
            elif kind == "update":
                self._hear_update(payload)
            elif kind == "validators":
                certificate, following = decode_handover(payload)
                payload = b""
                if self._light.follow(certificate, following):
                    self._refusal = ""
                    self._reported = False  # saying whom we believe now brings the next handover, if there is one
                    names = " ".join([validator.party for validator in self._light.validators])
                    self._log("from block " + str(self._light.height + 1) + " on the accounting nodes are " + names)
            elif kind in {"receipt", "contract"}:
                inclusion = decode_inclusion(payload)
                payload = b""
                if kind == "receipt":
                    self._hear_receipt(inclusion)
                else:
                    self._hear_contract(inclusion)
        except MemoryError:
            self._port.collect()
            self.refused["memory"] = self.refused.get("memory", 0) + 1
            self._log("refused " + kind + ": no memory to verify it")
            self._ask_again("memory")
        except PilechainError as error:
            if isinstance(error, JournalError) and error.code != "full":
                raise
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            self._log("refused " + kind + ": " + error.code + ": " + error.message)
            if isinstance(error, CertificateError) or "receipt" in error.code:
                self._ask_again(error.code)
        self._port.collect()

    def _ask_again(self, refusal: str) -> None:
        """Say again, at most once per resend_ms, that we are online, whom we believe and why not: it brings what we missed."""
        self._refusal = refusal
        now_ms = self._clock.now_ms()
        if now_ms - self._asked_ms >= self._resend_ms:
            self._asked_ms = now_ms
            self._reported = False

    def _hear_contract(self, inclusion: Inclusion) -> None:
        terms, contract_id, outcome = self._light.open_contract(inclusion)
        now_ms = self._clock.now_ms()
        if terms is None:
            self._log("contract " + contract_id[:4].hex() + " closed: " + outcome)
            self._act(self.session.release(contract_id, now_ms))
        else:
            self._act(self.session.reserve(contract_of(contract_id, terms), now_ms))
            self._log("contract " + contract_id[:4].hex() + " reserves " + str(terms.energy_wh) + " Wh")

    def _hear_receipt(self, inclusion: Inclusion) -> None:
        """Retire what the chain has, but only if it has exactly what this journal has."""
        opened = self._light.open_receipt(inclusion, self._retired())
        if opened is None:
            return
        through, digest = opened
        head = self.journal.head
        if head is None or through > head[0]:
            raise SignatureError("receipt for proof " + str(through) + ", which was never made", "receipt_ahead")
        own = head[1] if through == head[0] else sha256(self.journal.pending(through - 1, 1)[0][1])
        if own != digest:
            raise SignatureError("receipt for another proof " + str(through) + " than ours", "receipt_fork")
        self.journal.retire(through)
        self._published = max(self._published, through)
        self._progress_ms = self._clock.now_ms()
        self._resend_ms = self.config.timing.resend_ms
        if "receipt" in self._refusal:
            self._refusal = ""
            self._reported = False
        self._port.reported()
        self._act([])  # what waited for room
        self._log("receipt through " + str(through) + " of " + str(head[0]))

    def _hear_session(self, payload: bytes) -> None:
        """A user's start or stop: by the key the contract names, about now, for a contract verified before."""
        signed = cose.parse1(payload, MAX_SESSION_BYTES)
        contract_id, action, asked_ms, limit_wh = array(decode(signed.payload, MAX_SESSION_BYTES), 4)
        check_int("action", action, START, STOP)
        check_int("time", asked_ms, 0, MAX_TIME_MS)
        check_int("limit", limit_wh, 0, MAX_ENERGY_WH)
        contract = self.session.find(contract_id)
        signed.verify(contract.user_public, cose.purpose(cose.SESSION, self.config.chain_id))
        if self._todo:
            raise SessionError("the journal is full: no session before receipts come", "busy")
        now_ms = self._clock.now_ms()
        if self._clock.status() == TIME_SYNCHRONISED and abs(asked_ms - now_ms) > SESSION_AGE_MS:
            raise SignatureError("session message is " + str((now_ms - asked_ms) // 1000) + " s old", "stale")
        self._log("user asks to " + ("start " if action == START else "stop ") + contract_id[:4].hex())
        if action == START:
            self._act(self.session.start(contract_id, limit_wh, asked_ms, now_ms))
        else:
            self._act(self.session.stop(contract_id, asked_ms, now_ms))

    def _hear_update(self, payload: bytes) -> None:
        """An offer of new software by the key the configuration pins. It is put in place once this agent has stopped."""
        if self.session.phase != IDLE:
            raise SessionError("no new software during a session: offer it again later", "busy")
        signed = cose.parse1(payload, MAX_SESSION_BYTES)
        signed.verify(self.config.update_public, cose.purpose(cose.UPDATE, self.config.chain_id))
        self._port.take_offer(array(decode(signed.payload, MAX_SESSION_BYTES), 6)[2], payload)

    # --- meter

    def _measure(self) -> None:
        """Read the meter once and tell the session what came of it."""
        try:
            if not self._is_identified:
                self._identify()
            sample = self._meter.read()
        except BusError as error:
            if error.code != self._troubled:
                self._log("meter: " + error.code + ": " + error.message)
            self._troubled = error.code
            self._act(self.session.trouble(error.code, self._clock.now_ms()))
            return
        if self._troubled:
            self._log("meter: answers again")
            self._troubled = ""
        flags = FLAG_CONTACTOR_CLOSED if self._energised else 0
        # The time after the exchange: what the register shows had flowed by then.
        now_ms, status = self._clock.now_ms(), self._clock.status()
        self._act(self.session.reading(Reading(now_ms, status, sample.raw, sample.energy_wh, sample.power_w, flags)))

    def _identify(self) -> None:
        """Once after boot: if the meter tells its serial number, it must be the registered one."""
        serial = self._meter.serial()
        if serial is not None and str(serial) != self.config.meter_serial.lstrip("0"):
            raise MeterError("meter says it is number " + str(serial), "wrong_meter")
        self._is_identified = True

    # --- what the session wants

    def _act(self, actions: list[tuple]) -> None:  # type: ignore[type-arg]
        """Carry out actions in order. What a full journal refuses waits, with all that follows, for receipts."""
        self._todo.extend(actions)
        while self._todo:
            action = self._todo[0]
            try:
                if action[0] == PROVE:
                    self._prove(action)
                elif action[0] == SAVE:
                    self.journal.save_state(action[1])
                self._retry_ms = 0
            except JournalError as error:
                if error.code != "full":
                    raise
                if (PROVE, BEGIN) in [other[:2] for other in self._todo]:
                    self._todo = self.session.abandon_start()
                    continue
                if action[0] == PROVE and action[1] not in _DURABLE_EVENTS:
                    self._log(
                        "journal is full: left out a " + EVENT_NAMES[action[1]] + " proof; the next one covers it"
                    )
                elif action[0] == PROVE or not self._energised or self._must_open:
                    if not self._retry_ms:
                        self._log("journal is full: the end of a session waits for receipts")
                    self._retry_ms = self._clock.now_ms() + self.config.timing.sample_ms
                    return
                # Else a SAVE while a session's current flows. Nothing may keep that from being measured and stopped; what
                # could not be saved, that another contract is closed, the next SAVE says too.
            self._todo.pop(0)
            if action[0] == OPEN:
                self._open_contactor()
            elif action[0] == CLOSE:
                self._close_contactor()

    def _prove(self, action: tuple) -> None:  # type: ignore[type-arg]
        """Sign a proof and make it durable; JournalError `full` if there is no room, or it is one of those to leave out."""
        _, event, contract, reason, readings = action
        keep = event in _DURABLE_EVENTS
        if not keep:
            self._left_out += 1
            if not 0 < self.journal.thinning <= self._left_out:
                raise JournalError("thinned", "full")
        sequence, previous = self.journal.head or (0, NO_PREVIOUS)
        origin = self._origin if event == BEGIN else None
        proof = Proof(sequence + 1, previous, contract, event, readings, reason, origin)
        message = proof.sign(self._signer, self.config.chain_id)
        self.journal.append(sequence + 1, message, keep=keep)
        if not keep:
            self._left_out = 0
        self._proved(proof, len(message))
        self._port.collect()

    def _proved(self, proof: Proof, size_bytes: int) -> None:
        """A proof is durable; on CPython a begin or end also gets its OCMF record (ocmf_records)."""
        text = "proof " + str(proof.sequence) + " " + EVENT_NAMES[proof.event]
        if proof.reason:
            text += " (" + REASON_NAMES[proof.reason] + ")"
        if proof.readings:
            text += " " + str(proof.readings[-1].energy_wh) + " Wh " + str(proof.readings[-1].power_w) + " W"
        self._log(text + ", " + str(len(proof.readings)) + " readings, " + str(size_bytes) + " bytes")

    # --- contactor

    def _close_contactor(self) -> None:
        self._energised = True  # from here on current may flow, whatever the relay answers
        self._must_open = False
        try:
            self._control.energise()
        except BusError as error:
            self._log("contactor does not close: " + error.message)
            self._todo.extend(self.session.fail(self._clock.now_ms()))
            return
        self._log("contactor closed")

    def _open_contactor(self) -> None:
        try:
            self._control.de_energise()
        except BusError as error:
            self._must_open = True
            self._open_again_ms = self._clock.now_ms() + self.config.timing.sample_ms
            self._log("contactor does not open: " + error.message)
            return
        if self._energised:
            self._log("contactor open")
        self._energised = self._must_open = False

    def _keep_contactor(self) -> None:
        """The heartbeat; and try again to open a contactor that did not obey, for as long as it takes."""
        if self._must_open:
            if self._clock.now_ms() >= self._open_again_ms:
                self._open_contactor()
                if self._must_open:
                    self._fail()
        elif not MICROPYTHON:  # what needs a heartbeat is not for boards
            self._beat()

    def _beat(self) -> None:
        try:
            self._control.keep()
        except BusError as error:
            self._log("contactor: " + error.message)
            self._open_contactor()
            self._fail()

    def _fail(self) -> None:
        """Have the session say that the contactor does not obey, unless what it says last still waits for room."""
        if not self._todo:
            self._act(self.session.fail(self._clock.now_ms()))

    # --- link

    def _publish(self) -> None:
        """Send what is durable and not yet receipted; from the oldest again after a reconnect or when receipts stay out."""
        link, now_ms, retired = self.link, self._clock.now_ms(), self._retired()
        if not link.connected:
            self._was_connected = self._reported = False
            return
        if not self._reported:
            head = self.journal.head
            believed = validators_hash(self._light.validators)
            newest, firmware = 0 if head is None else head[0], self._origin.firmware
            status = encode([ONLINE, self.config.pile_id, newest, firmware, believed, self._refusal])
            if not link.publish(self._status_topic, status, retain=True):
                return
            self._reported = True
        if not self._was_connected:
            self._log("connected, " + self._head_text())
            self._was_connected = True
            self._go_back(retired, now_ms)
        if self._published > retired and now_ms - self._progress_ms >= self._resend_ms:
            self._go_back(retired, now_ms)
        while self._published - retired < PUBLISH_AHEAD:
            records = self.journal.pending(self._published, PUBLISH_BATCH)
            if not records:
                return
            for sequence, record in records:
                if not link.publish(self._proof_topic, record):
                    return
                if self._published == retired:
                    self._progress_ms = now_ms
                self._published = sequence

    def _go_back(self, retired: int, now_ms: int) -> None:
        """Send from the oldest again. While no receipt comes, each time after twice as long; from the second time on say so."""
        resend_ms = self.config.timing.resend_ms
        if self._published > retired and now_ms - self._progress_ms >= self._resend_ms:
            self._log("no receipt for proof " + str(retired + 1) + ": sent again")
            if self._resend_ms > resend_ms and not self._refusal:
                self._refusal = "unreceipted"
                self._reported = False
            self._resend_ms = min(2 * self._resend_ms, RESEND_SLOWEST * resend_ms)
        self._published = retired
        self._progress_ms = now_ms

    def _retired(self) -> int:
        return self.journal.retired_through or 0

    def _head_text(self) -> str:
        head = self.journal.head
        return "head " + str(0 if head is None else head[0]) + ", retired " + str(self._retired())
