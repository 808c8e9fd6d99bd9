"""The session as a table of situations, then under random events with power cuts between any two actions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pile_edge.session import (
    CHARGING,
    CLOSE,
    ENDING,
    IDLE,
    MAX_BATCH,
    MAX_RESERVED,
    MAX_STATE_BYTES,
    OPEN,
    PROVE,
    RESUME_WAIT_MS,
    RESUMING,
    SAVE,
    STARTING,
    Contract,
    Session,
    SessionError,
    Timing,
)
from pile_shared import proof as p
from pile_shared.reading import FLAG_POWER_ABSENT, TIME_RELATIVE, TIME_SYNCHRONISED, Reading

T0 = 1_800_000_000_000
HOUR_MS = 3_600_000
TIMING = Timing(
    sample_ms=10_000,
    report_ms=60_000,
    heartbeat_ms=900_000,
    silent_after_ms=30_000,
    full_after_ms=120_000,
    full_below_w=100,
)
USER = b"\x04" + bytes(64)


def contract(number=1, start_ms=T0, hours=2, energy_wh=10_000, most_wh=11_000):
    return Contract(bytes([number]) * 32, USER, start_ms, start_ms + hours * HOUR_MS, energy_wh, most_wh)


def reading(time_ms, energy_wh, power_w=0, flags=0):
    return Reading(time_ms, 2, energy_wh.to_bytes(8, "big"), energy_wh, power_w, flags)


class PowerCutError(Exception):
    pass


class Pile:
    """Carries actions out as the agent does: a journal, a contactor, and a power cut after `cut_after` actions."""

    def __init__(self):
        self.now_ms = T0
        self.energy_wh = 50_000
        self.closed = False
        self.proofs = []
        self.state = b""
        self.cut_after = None
        self.boot()

    def boot(self):
        self.cut_after = None
        self.session = Session(TIMING)
        self.act(self.session.restore(self.state, self.proofs[-1] if self.proofs else None, self.now_ms))

    def act(self, actions):
        for action in actions:
            if self.cut_after == 0:
                raise PowerCutError
            if self.cut_after is not None:
                self.cut_after -= 1
            if action[0] == SAVE:
                assert len(action[1]) <= MAX_STATE_BYTES
                self.state = action[1]
            elif action[0] == OPEN:
                self.closed = False
            elif action[0] == CLOSE:
                assert self.running() is not None, "energised without a running contract"
                self.closed = True
            else:
                self.prove(*action[1:])

    def prove(self, event, contract_id, reason, readings):
        origin = p.Origin("B23", "123", "abb-b23", bytes(32)) if event == p.BEGIN else None
        proof = p.Proof(len(self.proofs) + 1, bytes(32), contract_id, event, list(readings), reason, origin)
        assert len(proof.payload()) < p.MAX_PROOF_BYTES
        self.proofs.append(proof)

    def running(self):
        """The contract that has a BEGIN and no END."""
        begun = [x.contract for x in self.proofs if x.event == p.BEGIN]
        ended = [x.contract for x in self.proofs if x.event == p.END]
        left = [x for x in begun if x not in ended]
        assert len(left) <= 1
        return left[0] if left else None

    def read(self, power_w=0, flags=0):
        self.act(self.session.reading(reading(self.now_ms, self.energy_wh, power_w, flags)))

    def after(self, ms, energy_wh=0, power_w=0):
        """Time passes, energy flows, the meter is read."""
        self.now_ms += ms
        self.energy_wh += energy_wh
        self.read(power_w)
        self.act(self.session.tick(self.now_ms))

    def tick(self, ms):
        self.now_ms += ms
        self.act(self.session.tick(self.now_ms))

    def silence(self, ms, code="timeout"):
        self.now_ms += ms
        self.act(self.session.trouble(code, self.now_ms))

    def events(self):
        return [(proof.event, proof.reason) for proof in self.proofs if proof.contract is not None]

    def charging(self, limit_wh=0):
        """A pile in the middle of a session, 1000 Wh in."""
        self.act(self.session.reserve(contract(), self.now_ms))
        self.act(self.session.start(contract().contract_id, limit_wh, self.now_ms, self.now_ms))
        self.read()
        assert self.closed
        self.after(10_000, 1_000, 5_000)
        return self


def stop_by_user(pile):
    pile.act(pile.session.stop(contract().contract_id, pile.now_ms, pile.now_ms))


def stop_when_full(pile):
    for _ in range(13):
        pile.after(10_000, 0, 20)


def stop_at_limit(pile):
    pile.after(10_000, 9_000, 5_000)


def stop_at_window_end(pile):
    pile.tick(2 * HOUR_MS)


def stop_for_silence(pile):
    for _ in range(3):
        assert pile.closed
        pile.silence(10_000)


def stop_for_fall(pile):
    pile.energy_wh -= 1
    pile.read()


def stop_for_implausible(pile):
    pile.silence(1_000, "implausible")


def stop_when_stuck(pile):
    """1,500 Wh by the meter's own power and not one more on its register; 1,499 may be a coarse register."""
    pile.after(1_079_000, 0, 5_395)  # of which 5,000 W all the time
    assert pile.closed
    pile.after(1_000, 0, 5_395)


def stop_for_contactor(pile):
    pile.act(pile.session.fail(pile.now_ms))


def stop_because_closed(pile):
    pile.act(pile.session.release(contract().contract_id, pile.now_ms))


STOPS = [
    (stop_by_user, p.REASON_USER),
    (stop_when_full, p.REASON_VEHICLE_FULL),
    (stop_at_limit, p.REASON_ENERGY_REACHED),
    (stop_at_window_end, p.REASON_WINDOW_END),
    (stop_for_silence, p.REASON_METER_SILENT),
    (stop_for_fall, p.REASON_METER_FAULT),
    (stop_for_implausible, p.REASON_METER_FAULT),
    (stop_when_stuck, p.REASON_METER_FAULT),
    (stop_for_contactor, p.REASON_PILE_FAULT),
    (stop_because_closed, p.REASON_PILE_FAULT),
]


@pytest.mark.parametrize(("stop", "reason"), STOPS, ids=[stop.__name__ for stop, _ in STOPS])
def test_every_stop_opens_first_then_reads_then_ends(stop, reason):
    pile = Pile().charging()
    before = len(pile.proofs)
    stop(pile)
    assert not pile.closed
    assert pile.session.phase == ENDING
    assert [proof.event for proof in pile.proofs[before:]] in ([], [p.PERIODIC], [p.PERIODIC] * 2)
    assert pile.session.wants_reading_at_ms <= pile.now_ms
    pile.now_ms += 100
    pile.energy_wh = max(pile.energy_wh, 51_000) + 3
    pile.read()
    end = pile.proofs[-1]
    assert (end.event, end.reason) == (p.END, reason)
    assert end.readings[-1].energy_wh == pile.energy_wh
    assert pile.session.phase == IDLE


@pytest.mark.parametrize(("stop", "reason"), STOPS, ids=[stop.__name__ for stop, _ in STOPS])
def test_a_dead_meter_at_the_end_leaves_the_last_good_reading(stop, reason):
    pile = Pile().charging()
    good = pile.session.last_reading.energy_wh
    stop(pile)
    good = max(good, pile.session.last_reading.energy_wh)
    pile.silence(100)
    assert (pile.proofs[-1].event, pile.proofs[-1].reason) == (p.END, reason)
    assert pile.proofs[-1].readings[-1].energy_wh == good


def test_begin_is_durable_before_the_contactor_closes():
    session = Session(TIMING)
    session.restore(b"", None, T0)
    session.reserve(contract(), T0)
    assert session.start(contract().contract_id, 0, T0, T0) == []
    assert session.phase == STARTING
    assert session.wants_reading_at_ms == T0
    actions = session.reading(reading(T0, 7))
    assert [action[0] for action in actions] == [SAVE, PROVE, SAVE, CLOSE]
    assert actions[1][1:3] == (p.BEGIN, contract().contract_id)


@pytest.mark.parametrize(
    ("begin", "code"),
    [
        (lambda s: s.start(b"\x09" * 32, 0, T0, T0), "unknown_contract"),
        (lambda s: s.start(contract().contract_id, 0, T0, T0 - 1), "window"),
        (lambda s: s.start(contract().contract_id, 0, T0, T0 + 2 * HOUR_MS), "window"),
        (lambda s: s.start(contract().contract_id, 11_001, T0, T0), "limit"),
        (lambda s: s.stop(contract().contract_id, T0, T0), "not_charging"),
        (lambda s: s.reserve(contract(2, T0 - 3 * HOUR_MS), T0), "window"),
    ],
)
def test_refusals_change_nothing(begin, code):
    session = Session(TIMING)
    session.restore(b"", None, T0)
    session.reserve(contract(), T0)
    before = session.state(), session.phase, len(session.reserved)
    with pytest.raises(SessionError) as caught:
        begin(session)
    assert caught.value.code == code
    assert (session.state(), session.phase, len(session.reserved)) == before


def test_a_contract_starts_once():
    pile = Pile().charging()
    with pytest.raises(SessionError, match="charging"):
        pile.session.start(contract().contract_id, 0, pile.now_ms, pile.now_ms)
    stop_by_user(pile)
    pile.read()
    with pytest.raises(SessionError, match="no verified"):
        pile.session.start(contract().contract_id, 0, pile.now_ms, pile.now_ms)
    for _ in range(2):  # the chain's message comes again, also after a restart
        with pytest.raises(SessionError, match="is closed"):
            pile.session.reserve(contract(), pile.now_ms)
        pile.boot()


def test_a_stop_signed_before_the_start_does_not_stop():
    pile = Pile().charging()
    with pytest.raises(SessionError) as caught:
        pile.session.stop(contract().contract_id, T0 - 1, pile.now_ms)
    assert caught.value.code == "replay"
    assert pile.closed


def test_a_released_reservation_cannot_start_even_if_sent_again_after_a_restart():
    pile = Pile()
    pile.act(pile.session.reserve(contract(), T0))
    pile.act(pile.session.release(contract().contract_id, T0))
    pile.boot()
    with pytest.raises(SessionError) as caught:
        pile.session.reserve(contract(), T0)
    assert caught.value.code == "closed"


def test_reservations_are_bounded_and_expire():
    session = Session(TIMING)
    session.restore(b"", None, T0)
    for number in range(MAX_RESERVED):
        session.reserve(contract(number, T0 + (MAX_RESERVED - number) * 2 * HOUR_MS), T0)
        session.reserve(contract(number, T0 + (MAX_RESERVED - number) * 2 * HOUR_MS), T0)
    assert len(session.reserved) == MAX_RESERVED
    starts = [one.start_ms for one in session.reserved]
    assert starts == sorted(starts)
    with pytest.raises(SessionError) as caught:
        session.reserve(contract(99), T0)
    assert caught.value.code == "full"
    session.tick(T0 + 6 * HOUR_MS)
    assert len(session.reserved) == MAX_RESERVED - 2


def test_the_users_limit_counts_and_so_does_overuse():
    for limit_wh, stop_wh in ((0, 10_000), (4_000, 4_000), (11_000, 11_000)):
        pile = Pile().charging(limit_wh)
        pile.after(10_000, stop_wh - 1_001, 5_000)
        assert pile.closed
        pile.after(10_000, 1, 5_000)
        assert not pile.closed


def test_near_the_limit_the_meter_is_read_sooner():
    pile = Pile().charging(2_000)
    pile.after(10_000, 995, 6_000)  # 5 Wh at 6 kW: 3 s
    assert pile.session.wants_reading_at_ms == pile.now_ms + 3_000


def test_readings_are_batched_into_periodic_proofs():
    pile = Pile().charging()
    for _ in range(11):
        pile.after(10_000, 10, 5_000)
    periodic = [proof for proof in pile.proofs if proof.event == p.PERIODIC]
    assert [len(proof.readings) for proof in periodic] == [6, 6]


def test_a_batch_is_never_too_long_for_a_proof():
    pile = Pile().charging()
    for _ in range(3 * MAX_BATCH):
        pile.now_ms += 100
        pile.read(5_000, flags=pile.now_ms // 100 & 1)  # every reading in full form
    stop_by_user(pile)
    pile.read()
    assert pile.proofs[-1].event == p.END
    assert all(len(proof.readings) <= MAX_BATCH + 1 for proof in pile.proofs)


def test_absent_power_is_not_a_full_vehicle():
    pile = Pile().charging()
    for _ in range(20):
        pile.now_ms += 10_000
        pile.read(0, FLAG_POWER_ABSENT)
    assert pile.closed


def test_a_vehicle_that_never_drew_is_not_full():
    pile = Pile()
    pile.act(pile.session.reserve(contract(), T0))
    pile.act(pile.session.start(contract().contract_id, 0, T0, T0))
    pile.read()
    for _ in range(30):
        pile.after(10_000)
    assert pile.closed


def test_heartbeats_outside_sessions():
    pile = Pile()
    pile.tick(0)
    assert pile.proofs == []  # waits for the first reading
    pile.read()
    pile.tick(0)
    assert [(x.event, len(x.readings)) for x in pile.proofs] == [(p.HEARTBEAT, 1)]
    pile.after(TIMING.heartbeat_ms - 1)
    assert len(pile.proofs) == 1
    pile.tick(1)
    assert len(pile.proofs) == 2
    pile.tick(TIMING.heartbeat_ms)  # nothing was read since: then it says where the register stood
    assert pile.proofs[-1].readings == pile.proofs[-2].readings


def test_alarms_outside_sessions_are_rate_limited():
    pile = Pile()
    for _ in range(int(2.5 * TIMING.heartbeat_ms / 10_000)):
        pile.silence(10_000)
        pile.tick(0)
    alarms = [proof for proof in pile.proofs if proof.event == p.ALARM]
    assert [proof.reason for proof in alarms] == [p.REASON_METER_SILENT] * 3
    assert len(pile.proofs) <= 6


def test_a_falling_meter_outside_a_session_alarms_and_is_not_rebased():
    pile = Pile()
    pile.read()
    pile.energy_wh -= 10
    pile.read()
    assert pile.proofs[-1].reason == p.REASON_METER_FAULT
    assert pile.session.last_reading.energy_wh == pile.energy_wh + 10
    pile.act(pile.session.reserve(contract(), T0))
    pile.act(pile.session.start(contract().contract_id, 0, T0, T0))
    pile.read()
    assert not pile.closed
    assert pile.session.phase == IDLE


def test_power_cut_resumes_without_a_second_begin():
    pile = Pile().charging()
    pile.tick(60_000)
    pile.now_ms += HOUR_MS
    pile.boot()
    assert not pile.closed
    assert pile.session.phase == RESUMING
    pile.read()
    assert pile.closed
    assert pile.session.phase == CHARGING
    pile.after(60_000, 500, 5_000)
    stop_by_user(pile)
    pile.read()
    events = [event for event, _ in pile.events()]
    assert events == [p.BEGIN, p.PERIODIC, p.PERIODIC, p.END]


def window_gone(pile):
    pile.now_ms += 3 * HOUR_MS
    pile.boot()
    pile.read()


def meter_fell(pile):
    pile.energy_wh = 10
    pile.boot()
    pile.read()


def meter_dead(pile):
    pile.boot()
    for _ in range(3):
        pile.silence(10_000)


@pytest.mark.parametrize("what", [window_gone, meter_fell, meter_dead])
def test_power_cut_that_cannot_resume_ends_once_with_power_lost(what):
    pile = Pile().charging()
    pile.tick(60_000)
    what(pile)
    assert pile.events()[-1] == (p.END, p.REASON_POWER_LOST)
    pile.boot()
    pile.read()
    assert [event for event, _ in pile.events()].count(p.END) == 1
    assert not pile.closed


def test_a_board_that_lost_the_time_resumes_once_what_flowed_is_possible():
    """Its clock goes on from its newest proof: what flowed after that seems to have flowed in no time."""
    pile = Pile().charging()
    pile.boot()
    for _ in range(RESUME_WAIT_MS // 10_000 - 1):
        pile.now_ms += 10_000
        pile.act(pile.session.trouble("implausible", pile.now_ms))
        assert pile.session.phase == RESUMING
        assert not pile.closed
    pile.after(10_000, 100)
    assert pile.session.phase == CHARGING
    assert pile.closed


def test_a_register_that_leapt_ends_a_session_that_would_resume():
    pile = Pile().charging()
    pile.boot()
    pile.act(pile.session.trouble("implausible", pile.now_ms + RESUME_WAIT_MS))
    assert pile.events()[-1] == (p.END, p.REASON_POWER_LOST)


def test_a_second_power_cut_resumes_too():
    """The first came between BEGIN and the state after it: what is saved still says that the session is starting."""
    pile = Pile()
    pile.session.reserve(contract(), pile.now_ms)
    pile.session.start(bytes([1]) * 32, 0, pile.now_ms, pile.now_ms)
    pile.cut_after = 2
    with pytest.raises(PowerCutError):
        pile.read()
    pile.boot()
    for _ in range(8):
        pile.after(10_000, 10, 3600)
    pile.boot()
    pile.after(10_000, 10, 3600)
    assert pile.session.phase == CHARGING
    assert [event for event, _ in pile.events()] == [p.BEGIN, p.PERIODIC]


def test_a_stop_survives_the_power_cut():
    pile = Pile().charging()
    stop_by_user(pile)
    pile.boot()
    pile.read()
    assert pile.events()[-1] == (p.END, p.REASON_USER)


def test_abandoned_start_may_start_again():
    pile = Pile()
    pile.act(pile.session.reserve(contract(), T0))
    pile.act(pile.session.start(contract().contract_id, 0, T0, T0))
    pile.silence(10)
    assert pile.session.phase == IDLE
    pile.act(pile.session.start(contract().contract_id, 0, T0, pile.now_ms))
    pile.read()
    assert pile.closed


def test_saved_state_is_read_strictly():
    session = Session(TIMING)
    with pytest.raises(SessionError):
        session.restore(b"\x87\x02\xf6\x00\x00\x00\x00\x80", None, T0)


def whole_story(pile):
    """Reserve, start, charge, stop, and a heartbeat; one step at a time, so that a power cut can come between any two."""
    steps = [("reserve", 1), ("start", 1), ("read", 0), ("read", 50), ("tick", 70_000), ("read", 50), ("stop", 1)]
    for name, value in [*steps, ("read", 0), ("read", 0), ("tick", HOUR_MS)]:
        yield apply(pile, name, value)


STORY_ACTIONS = 10


def test_the_story_has_as_many_actions_as_are_cut():
    pile = Pile()
    pile.cut_after = 1_000
    assert not any(list(whole_story(pile)))
    assert pile.cut_after == 1_000 - STORY_ACTIONS
    assert [event for event, _ in pile.events()] == [p.BEGIN, p.PERIODIC, p.END]


@pytest.mark.parametrize("cut", range(STORY_ACTIONS))
def test_a_power_cut_between_any_two_actions_of_a_session(cut):
    pile = Pile()
    pile.cut_after = cut
    for cut_came in whole_story(pile):
        check(pile)
        if cut_came:
            break
    begun = pile.running()
    count = len(pile.proofs)
    pile.read()
    check(pile)
    # What was begun goes on or ends, what was ended stays so, and nothing is said twice.
    assert pile.closed == (begun is not None and pile.events()[-1][0] != p.END)
    for _ in range(3):
        pile.boot()
        pile.read()
        check(pile)
    if begun is None:
        assert [event for event, _ in pile.events()] in (
            [],
            [p.BEGIN, p.PERIODIC, p.END],
            [p.BEGIN, p.PERIODIC, p.PERIODIC, p.END],
        )
        assert len(pile.proofs) - count <= 1


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 3)),
        st.tuples(st.just("release"), st.integers(1, 3)),
        st.tuples(st.just("start"), st.integers(1, 3)),
        st.tuples(st.just("stop"), st.integers(1, 3)),
        st.tuples(st.just("read"), st.sampled_from([0, 0, 1, 50, 4_000, -60])),
        st.tuples(st.just("silence"), st.sampled_from(["timeout", "crc", "implausible", "falling"])),
        st.tuples(st.just("tick"), st.sampled_from([0, 10_000, 40_000, HOUR_MS])),
        st.tuples(st.just("fail"), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 3)),
        st.tuples(st.just("boot"), st.just(0)),
    ),
    max_size=60,
)


def apply(pile, name, value):
    try:
        if name == "reserve":
            pile.act(pile.session.reserve(contract(value, T0 + (value - 1) * HOUR_MS, hours=4), pile.now_ms))
        elif name == "release":
            pile.act(pile.session.release(contract(value).contract_id, pile.now_ms))
        elif name == "start":
            pile.act(pile.session.start(contract(value).contract_id, 0, pile.now_ms, pile.now_ms))
        elif name == "stop":
            pile.act(pile.session.stop(contract(value).contract_id, pile.now_ms, pile.now_ms))
        elif name == "read":
            pile.energy_wh = max(0, pile.energy_wh + (value if value < 0 or pile.closed else 0))
            pile.now_ms += 5_000
            pile.read(max(0, value))
        elif name == "silence":
            pile.silence(5_000, value)
        elif name == "tick":
            pile.tick(value)
        elif name == "fail":
            pile.act(pile.session.fail(pile.now_ms))
        elif name == "cut":
            pile.cut_after = value
        else:
            pile.boot()
    except SessionError:
        return False
    except PowerCutError:
        pile.boot()
        return True
    return False


def check(pile):
    begins = [proof.contract for proof in pile.proofs if proof.event == p.BEGIN]
    ends = [proof.contract for proof in pile.proofs if proof.event == p.END]
    assert len(set(begins)) == len(begins)
    assert len(set(ends)) == len(ends)
    running = None
    last = None
    for proof in pile.proofs:
        if proof.event == p.BEGIN:
            assert running is None
            running = proof.contract
        elif proof.event in {p.PERIODIC, p.END}:
            assert proof.contract == running
        else:
            assert running is None
        if proof.event == p.END:
            running = None
        for one in proof.readings:
            if last is not None:
                assert one.energy_wh >= last.energy_wh
                assert one.time_ms >= last.time_ms
            last = one
    if pile.closed:
        assert running is not None
        assert pile.session.phase == CHARGING
        assert pile.session.contract.contract_id == running


def alarms(pile):
    return [proof.reason for proof in pile.proofs if proof.event == p.ALARM]


def test_current_through_an_open_contactor_is_an_alarm_with_the_reading_that_shows_it():
    pile = Pile()
    pile.after(10_000, power_w=TIMING.full_below_w - 1)
    assert alarms(pile) == []
    pile.after(10_000, energy_wh=30, power_w=TIMING.full_below_w)
    assert alarms(pile) == [p.REASON_PILE_FAULT]
    assert (pile.proofs[-1].readings[-1].energy_wh, pile.proofs[-1].contract) == (pile.energy_wh, None)


def test_each_reason_has_its_own_alarm_once_in_a_heartbeat():
    pile = Pile()
    pile.read()
    for _ in range(8):
        pile.act(pile.session.fail(pile.now_ms))
        pile.act(pile.session.trouble("falling", pile.now_ms))
        pile.now_ms += 10_000
    assert alarms(pile) == [p.REASON_PILE_FAULT, p.REASON_METER_FAULT]
    pile.now_ms += TIMING.heartbeat_ms
    pile.act(pile.session.fail(pile.now_ms))
    assert alarms(pile) == [p.REASON_PILE_FAULT, p.REASON_METER_FAULT, p.REASON_PILE_FAULT]


def test_a_pile_that_has_lost_the_time_raises_alarms_in_place_of_heartbeats():
    pile = Pile()
    for status in (TIME_SYNCHRONISED, TIME_RELATIVE, TIME_SYNCHRONISED):
        pile.now_ms += TIMING.heartbeat_ms
        one = Reading(pile.now_ms, status, bytes(8), 0, 0, 0)
        pile.act(pile.session.reading(one))
        pile.act(pile.session.tick(pile.now_ms))
    assert [proof.event for proof in pile.proofs] == [p.HEARTBEAT, p.ALARM, p.HEARTBEAT]
    assert alarms(pile) == [p.REASON_PILE_FAULT]


@settings(max_examples=400, deadline=None)
@given(EVENTS)
def test_no_events_and_no_power_cuts_break_the_session(events):
    pile = Pile()
    for name, value in events:
        apply(pile, name, value)
        check(pile)
    pile.boot()  # whatever was cut, one more boot and a meter that answers bring it to rest
    pile.cut_after = None
    pile.now_ms += 10 * HOUR_MS
    pile.energy_wh = 10_000_000
    for _ in range(3):
        pile.read()
        pile.tick(1)
    check(pile)
    assert pile.running() is None
    assert not pile.closed
