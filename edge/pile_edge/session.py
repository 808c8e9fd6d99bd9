"""The charging session as a pure state machine: events in, actions out; no clock, no file, no wire.

    idle --user's start--> starting --reading--> charging --a reason to stop--> ending --reading--> idle
                                          power cut: resuming --reading--> charging, or ended with POWER_LOST

`wants_reading_at_ms` tells when the session wants to hear from the meter again; every other event comes when it comes.
Each event returns actions, which the agent carries out in their order, each before the next:

    (OPEN,)                                       open the contactor
    (SAVE, state)                                 make `state` durable (journal.save_state)
    (PROVE, event, contract, reason, readings)    sign a proof and make it durable (journal.append)
    (CLOSE,)                                      close the contactor

The order is what makes a power cut harmless wherever it strikes. A session saves `starting` before its BEGIN, so a BEGIN
on flash always has its contract beside it; it closes the contactor after the BEGIN; it opens it and saves why before its
END. On boot `restore` compares the state with the newest proof and so never begins or ends one twice.
"""

from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import PilechainError
from pile_shared.proof import (
    ALARM,
    BEGIN,
    END,
    HEARTBEAT,
    PERIODIC,
    REASON_ENERGY_REACHED,
    REASON_METER_FAULT,
    REASON_METER_SILENT,
    REASON_PILE_FAULT,
    REASON_POWER_LOST,
    REASON_USER,
    REASON_VEHICLE_FULL,
    REASON_WINDOW_END,
    Proof,
)
from pile_shared.reading import FLAG_POWER_ABSENT, MAX_READINGS, TIME_RELATIVE, Reading
from pile_shared.terms import Terms
from pile_shared.units import MAX_ENERGY_WH, MAX_TIME_MS, check_bytes, check_int

IDLE, STARTING, CHARGING, ENDING, RESUMING = 0, 1, 2, 3, 4
PHASE_NAMES = ("idle", "starting", "charging", "ending", "resuming")

OPEN, SAVE, PROVE, CLOSE = "open", "save", "prove", "close"

MAX_RESERVED = 8  # windows on one pile never overlap; 8 ahead is a day of 3-hour windows, and 3 kB on a board
MAX_CLOSED = (
    6  # remembered so that an old contract message cannot start them again; with a session below STATE_MAX_BYTES
)
MAX_STATE_BYTES = 512  # the journal's bound
RESUME_WAIT_MS = (
    1_800_000  # at rated power that is more than flows while an agent is away that is started again by itself
)
MAX_BATCH = MAX_READINGS - 1  # an END adds its final reading to the batch and must still be one proof
STUCK_WATT_MS = (
    1500 * 3_600_000
)  # what may flow unseen: a register of whole kWh shows 1 kWh late, power is a quarter off
MIN_SAMPLE_MS = (
    1000  # near the limit the session asks for readings faster than sample_ms, but no faster than a slow meter answers
)
FAULT_CODES = ("falling", "implausible", "stuck", "wrong_meter")  # of a meter's errors, those that no retry makes good


class SessionError(PilechainError):
    """A start, stop or reservation that is refused and changes nothing; the code says why."""

    code = "session"


class Timing:
    """Intervals of the agent, in milliseconds of the pile's clock.

    Attributes:
        sample_ms: between readings. report_ms: between periodic proofs. heartbeat_ms: between proofs without a session.
        silent_after_ms: without a good reading, after which the meter counts as silent. full_after_ms: with less than
        full_below_w, after which the vehicle counts as full. resend_ms: without a receipt, after which proofs are sent again.
    """

    def __init__(
        self,
        *,
        sample_ms: int = 10_000,
        report_ms: int = 60_000,
        heartbeat_ms: int = 900_000,
        resend_ms: int = 60_000,
        silent_after_ms: int = 60_000,
        full_after_ms: int = 300_000,
        full_below_w: int = 100,
    ) -> None:
        self.sample_ms = sample_ms
        self.report_ms = report_ms
        self.heartbeat_ms = heartbeat_ms
        self.resend_ms = resend_ms
        self.silent_after_ms = silent_after_ms
        self.full_after_ms = full_after_ms
        self.full_below_w = full_below_w


class Contract:
    """What the session needs of a verified contract's terms: who may start it, when, and how much."""

    def __init__(
        self,
        contract_id: bytes,
        user_public: bytes,
        start_ms: int,
        end_ms: int,
        energy_wh: int,
        most_wh: int,
        begin_by_ms: int | None = None,
    ) -> None:
        self.contract_id = check_bytes("contract", contract_id, 32, 32)
        self.user_public = check_bytes("user key", user_public, 65, 65)
        self.start_ms = check_int("window start", start_ms, 0, MAX_TIME_MS)
        self.end_ms = check_int("window end", end_ms, 0, MAX_TIME_MS)
        self.energy_wh = check_int("energy", energy_wh, 0, MAX_ENERGY_WH)
        self.most_wh = check_int("energy with over-use", most_wh, 0, MAX_ENERGY_WH)
        self.begin_by_ms = (
            end_ms if begin_by_ms is None else begin_by_ms
        )  # of no use once begun, so not kept in the state

    def fields(self) -> list[object]:
        """As kept in the saved state."""
        return [self.contract_id, self.user_public, self.start_ms, self.end_ms, self.energy_wh, self.most_wh]


def contract_of(contract_id: bytes, terms: Terms) -> Contract:
    """The session's extract of contract terms; `most_wh` is Q + O (ledger guide, "Contract")."""
    return Contract(
        contract_id,
        terms.user_public,
        terms.window_start_ms,
        terms.window_end_ms,
        terms.energy_wh,
        terms.energy_wh + terms.overuse_wh,
        min(terms.window_start_ms + terms.begin_grace_ms, terms.window_end_ms),
    )


class Session:
    """One pile's reservations and its one session."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.phase = IDLE
        self.reserved: list[Contract] = []
        self.wants_reading_at_ms = 0
        self._closed: list[bytes] = []
        self._contract: Contract | None = None
        self._limit_wh = 0
        self._begin_wh = 0
        self._reason = 0
        self._asked_ms = (
            0  # the user's time in the start message: a stop must be later, else it is a replay from before
        )
        self._last: Reading | None = None  # the newest good reading ever: nothing after it may be lower or earlier
        self._batch: list[Reading] = []  # good readings that no proof carries yet
        self._good_ms = 0  # when the meter last answered, or was first asked
        self._proved_ms = 0
        self._alarm_ms: dict[int, int] = {}  # by reason: when an alarm was raised last
        self._low_since_ms: int | None = None
        self._has_drawn = False
        self._unseen_watt_ms = 0  # power over the time since the energy register last moved

    @property
    def contract(self) -> Contract | None:
        """The contract of the session that is starting, charging, ending or resuming."""
        return self._contract

    @property
    def last_reading(self) -> Reading | None:
        """The newest good reading."""
        return self._last

    def find(self, contract_id: bytes) -> Contract:
        """The reserved or running contract of that id; SessionError `unknown_contract`."""
        for contract in self.reserved:
            if contract.contract_id == contract_id:
                return contract
        if self._contract is not None and self._contract.contract_id == contract_id:
            return self._contract
        raise SessionError("no verified contract " + _short(contract_id), "unknown_contract")

    # --- boot

    def restore(self, state: bytes, newest: Proof | None, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """Go on after a restart from the saved state and the newest proof in the journal; both may be missing."""
        self._good_ms = self._proved_ms = self.wants_reading_at_ms = now_ms
        if newest is not None and newest.readings:
            self._last = newest.readings[-1]
        if state:
            self._load(state)
        if self.phase == IDLE:
            self._proved_ms = now_ms - self.timing.heartbeat_ms  # show at once that the pile is back
            return [(OPEN,)]
        assert self._contract is not None
        own = newest if newest is not None and newest.contract == self._contract.contract_id else None
        if self.phase == STARTING and own is None:
            self._forget()
            return [(OPEN,), (SAVE, self.state())]
        if own is not None and own.event == END:
            return [(OPEN,), self._close_contract()]
        self._has_drawn = self._last is not None and self._last.energy_wh > self._begin_wh
        if self.phase != ENDING:
            self.phase = RESUMING
        return [(OPEN,)]

    def state(self) -> bytes:
        """The state to save: at most MAX_STATE_BYTES."""
        contract = None if self._contract is None else self._contract.fields()
        phase = CHARGING if self.phase == RESUMING else self.phase
        return encode(
            [phase, contract, self._limit_wh, self._begin_wh, self._reason, self._asked_ms, self._closed],
        )

    def _load(self, state: bytes) -> None:
        row = array(decode(state, MAX_STATE_BYTES), 7)
        self.phase = check_int("phase", row[0], IDLE, ENDING)
        self._contract = None if row[1] is None else Contract(*array(row[1], 6))
        if (self._contract is None) != (self.phase == IDLE):
            raise SessionError("saved state has a phase without a contract or the reverse", "state")
        self._limit_wh, self._begin_wh, self._reason, self._asked_ms = row[2:6]
        self._closed = items(row[6], MAX_CLOSED)

    # --- contracts

    def reserve(self, contract: Contract, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """Take a verified contract, unless it was closed, has passed, or there are MAX_RESERVED; a repeat changes nothing."""
        self._drop_passed(now_ms)
        if contract.contract_id in self._closed:
            raise SessionError("contract " + _short(contract.contract_id) + " is closed", "closed")
        if contract.end_ms <= now_ms:
            raise SessionError("window of contract " + _short(contract.contract_id) + " has passed", "window")
        held = [other.contract_id for other in self.reserved]
        if self._contract is not None:
            held.append(self._contract.contract_id)
        if contract.contract_id in held:
            return []
        if len(self.reserved) >= MAX_RESERVED:
            raise SessionError("already " + str(MAX_RESERVED) + " contracts reserve this pile", "full")
        self.reserved.append(contract)
        self.reserved.sort(key=lambda one: one.start_ms)
        return []

    def release(self, contract_id: bytes, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """The chain closed a contract: drop its reservation; if it is charging, stop, for nobody pays for it any more."""
        if self._contract is not None and self._contract.contract_id == contract_id:
            if self.phase in {CHARGING, RESUMING}:
                return self._stop(REASON_PILE_FAULT, now_ms)
            return []
        kept = [contract for contract in self.reserved if contract.contract_id != contract_id]
        if len(kept) == len(self.reserved):
            return []
        self.reserved = kept
        self._remember_closed(contract_id)
        return [(SAVE, self.state())]

    # --- the user

    def start(self, contract_id: bytes, limit_wh: int, asked_ms: int, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """The user asks to charge up to `limit_wh` (0: the contracted energy); SessionError if it cannot begin now."""
        if self.phase != IDLE:
            raise SessionError("the pile is " + PHASE_NAMES[self.phase], "busy")
        contract = self.find(contract_id)
        if not contract.start_ms <= now_ms < contract.end_ms:
            raise SessionError("outside the window of contract " + _short(contract_id), "window")
        if now_ms > contract.begin_by_ms:
            raise SessionError("too late to begin contract " + _short(contract_id), "too_late")
        if not 0 <= limit_wh <= contract.most_wh:
            raise SessionError("limit must be 0 to " + str(contract.most_wh) + " Wh", "limit")
        self.reserved.remove(contract)
        self._contract = contract
        self._limit_wh = limit_wh or contract.energy_wh
        self._asked_ms = asked_ms
        self.phase = STARTING
        self.wants_reading_at_ms = now_ms
        return []

    def stop(self, contract_id: bytes, asked_ms: int, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """The user asks to stop; SessionError if that session does not run or the message is older than its start."""
        if self._contract is None or self._contract.contract_id != contract_id:
            raise SessionError("contract " + _short(contract_id) + " is not charging", "not_charging")
        if asked_ms < self._asked_ms:
            raise SessionError("the stop was signed before the start", "replay")
        if self.phase == STARTING:
            return self.abandon_start()
        if self.phase == ENDING:
            return []
        return self._stop(REASON_USER, now_ms)

    def abandon_start(self) -> list[tuple]:  # type: ignore[type-arg]
        """Undo a start that has no durable BEGIN; the contract stays reserved and may be started again."""
        assert self._contract is not None
        self.reserved.insert(0, self._contract)
        self._forget()
        return [(SAVE, self.state())]

    def fail(self, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """The contactor does not obey: end the session, or without one raise an alarm."""
        if self.phase == IDLE:
            return self._prove_idle(ALARM, REASON_PILE_FAULT, now_ms)
        return self._stop(REASON_PILE_FAULT, now_ms) if self.phase in {CHARGING, RESUMING} else []

    # --- the clock

    def tick(self, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """Time has passed: windows end, proofs fall due."""
        self._drop_passed(now_ms)
        if self.phase == CHARGING:
            assert self._contract is not None
            if now_ms >= self._contract.end_ms:
                return self._stop(REASON_WINDOW_END, now_ms)
            if now_ms - self._proved_ms >= self.timing.report_ms and self._batch:
                return self._report(now_ms)
        elif self.phase == IDLE and now_ms - self._proved_ms >= self.timing.heartbeat_ms:
            has_news = self._batch or now_ms - self._good_ms >= self.timing.silent_after_ms
            if has_news and self._last is not None and self._last.time_status == TIME_RELATIVE:
                # It does not know the time, and so neither its windows.
                return self._prove_idle(ALARM, REASON_PILE_FAULT, now_ms)
            return self._prove_idle(HEARTBEAT, 0, now_ms) if has_news else []
        return []

    # --- the meter

    def reading(self, reading: Reading) -> list[tuple]:  # type: ignore[type-arg]
        """A good reading came. One that is lower than the last is none, nor one that stands still under load: see `trouble`."""
        now_ms = reading.time_ms
        if self._last is not None and reading.energy_wh < self._last.energy_wh:
            return self.trouble("falling", now_ms)
        if self.phase == CHARGING:
            assert self._last is not None  # a session has a BEGIN, and a BEGIN has a reading
            if reading.energy_wh != self._last.energy_wh:
                self._unseen_watt_ms = 0
            self._unseen_watt_ms += max(0, min(reading.power_w, self._last.power_w)) * (now_ms - self._last.time_ms)
            if self._unseen_watt_ms >= STUCK_WATT_MS and reading.energy_wh == self._last.energy_wh:
                return self.trouble("stuck", now_ms)
        late_ms = min(max(0, now_ms - self.wants_reading_at_ms), self.timing.sample_ms)
        self._last = reading
        self._good_ms = now_ms
        self.wants_reading_at_ms = now_ms + self.timing.sample_ms
        if self.phase == STARTING:
            return self._begin(reading)
        if self.phase == CHARGING:
            return self._charge(reading, late_ms)
        if self.phase == RESUMING:
            return self._resume(reading)
        if self.phase == ENDING:
            return self._end(reading)
        self._batch = [reading]
        if reading.power_w >= self.timing.full_below_w:  # the contactor is open and current flows: it is welded
            return self._prove_idle(ALARM, REASON_PILE_FAULT, now_ms)
        return []

    def trouble(self, code: str, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """The meter gave no good reading, after the bus's own retries; `code` is the error's."""
        self.wants_reading_at_ms = now_ms + self.timing.sample_ms
        is_fault = code in FAULT_CODES
        is_silent = now_ms - self._good_ms >= self.timing.silent_after_ms
        reason = REASON_METER_FAULT if is_fault else REASON_METER_SILENT
        if self.phase == STARTING:
            return self.abandon_start()
        if self.phase == ENDING:
            return self._end(None)
        if not is_fault and not is_silent:
            return []
        if self.phase == CHARGING:
            return self._stop(reason, now_ms)
        if self.phase == RESUMING:
            # A pile that lost the time does not know how long ago its last proof was: what flowed since may be more than
            # the time it knows of allows. The contactor is open, so waiting makes it possible and costs nobody a Wh.
            if code == "implausible" and now_ms - self._good_ms < RESUME_WAIT_MS:
                return []
            self._reason = REASON_POWER_LOST
            return self._end(None)
        return self._prove_idle(ALARM, reason, now_ms)

    # --- what the phases do

    def _begin(self, reading: Reading) -> list[tuple]:  # type: ignore[type-arg]
        assert self._contract is not None
        self._begin_wh = reading.energy_wh
        self._proved_ms = reading.time_ms
        self._batch = []
        starting = self.state()
        self.phase = CHARGING
        begin = (PROVE, BEGIN, self._contract.contract_id, 0, [reading])
        return [(SAVE, starting), begin, (SAVE, self.state()), (CLOSE,)]

    def _charge(self, reading: Reading, late_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """Go on or stop.

        `late_ms` is how much later than wanted this reading came, as the next one will: at the limit the session stops
        now if that is nearer to it than a reading later.
        """
        self._batch.append(reading)
        left_wh = self._begin_wh + self._limit_wh - reading.energy_wh
        if left_wh * 7_200_000 <= reading.power_w * late_ms:
            return self._stop(REASON_ENERGY_REACHED, reading.time_ms)
        if self._is_full(reading):
            return self._stop(REASON_VEHICLE_FULL, reading.time_ms)
        if reading.power_w > 0:
            until_limit_ms = left_wh * 3_600_000 // reading.power_w - late_ms
            self.wants_reading_at_ms = reading.time_ms + min(self.timing.sample_ms, max(MIN_SAMPLE_MS, until_limit_ms))
        if len(self._batch) >= MAX_BATCH or reading.time_ms - self._proved_ms >= self.timing.report_ms:
            return self._report(reading.time_ms)
        return []

    def _is_full(self, reading: Reading) -> bool:
        """Whether a vehicle that had been drawing has drawn next to nothing for full_after_ms."""
        if reading.flags & FLAG_POWER_ABSENT:
            return False
        if reading.power_w >= self.timing.full_below_w:
            self._has_drawn = True
            self._low_since_ms = None
            return False
        if self._low_since_ms is None:
            self._low_since_ms = reading.time_ms
        return self._has_drawn and reading.time_ms - self._low_since_ms >= self.timing.full_after_ms

    def _report(self, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        assert self._contract is not None
        batch, self._batch = self._batch, []
        self._proved_ms = now_ms
        return [(PROVE, PERIODIC, self._contract.contract_id, 0, batch)]

    def _resume(self, reading: Reading) -> list[tuple]:  # type: ignore[type-arg]
        assert self._contract is not None
        if reading.time_ms >= self._contract.end_ms:
            self._reason = REASON_POWER_LOST
            return self._end(reading)
        self.phase = CHARGING
        actions = self._charge(reading, 0)
        if self.phase == CHARGING:
            actions.append((CLOSE,))
        return actions

    def _stop(self, reason: int, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """Open the contactor and remember why; the END follows with the final reading."""
        self.phase = ENDING
        self._reason = reason
        self.wants_reading_at_ms = now_ms
        return [(OPEN,), (SAVE, self.state())]

    def _end(self, final: Reading | None) -> list[tuple]:  # type: ignore[type-arg]
        assert self._contract is not None
        readings, self._batch = self._batch, []
        if final is not None:
            readings.append(final)
        if not readings:
            assert self._last is not None  # a session has a BEGIN, and a BEGIN has a reading
            readings.append(self._last)
        self._proved_ms = readings[-1].time_ms
        return [(PROVE, END, self._contract.contract_id, self._reason, readings), self._close_contract()]

    def _close_contract(self) -> tuple:  # type: ignore[type-arg]
        assert self._contract is not None
        self._remember_closed(self._contract.contract_id)
        self._forget()
        return (SAVE, self.state())

    def _prove_idle(self, event: int, reason: int, now_ms: int) -> list[tuple]:  # type: ignore[type-arg]
        """A proof without a session. Of alarms one for each reason in heartbeat_ms."""
        if event == ALARM:
            if now_ms - self._alarm_ms.get(reason, now_ms - self.timing.heartbeat_ms) < self.timing.heartbeat_ms:
                return []
            self._alarm_ms[reason] = now_ms
        readings, self._batch = self._batch, []
        if not readings and self._last is not None:
            readings.append(self._last)  # so that the newest proof always tells the next boot where the register stood
        self._proved_ms = now_ms
        return [(PROVE, event, None, reason, readings)]

    def _forget(self) -> None:
        self.phase = IDLE
        self._contract = None
        self._limit_wh = self._begin_wh = self._reason = self._asked_ms = 0
        self._low_since_ms = None
        self._has_drawn = False
        self._unseen_watt_ms = 0

    def _remember_closed(self, contract_id: bytes) -> None:
        self._closed.append(contract_id)
        if len(self._closed) > MAX_CLOSED:
            self._closed.pop(0)

    def _drop_passed(self, now_ms: int) -> None:
        if self.reserved and min([contract.end_ms for contract in self.reserved]) <= now_ms:
            self.reserved = [contract for contract in self.reserved if contract.end_ms > now_ms]


def _short(contract_id: bytes) -> str:
    return contract_id[:4].hex()
