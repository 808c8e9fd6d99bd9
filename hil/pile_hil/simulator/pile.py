"""A pile: the real agent and journal, over a simulated port, through power cuts and crashes.

The agent takes a step when something can have changed: a message came, the session wants the meter, a proof may be due. In
between an idle agent only reads its meter, and forgets what it read; those readings are left out, which makes days cheap.
"""

import copy
from collections.abc import Callable

from pile_edge.agent import Agent
from pile_edge.ports.cpython_storage import Storage
from pile_edge.session import IDLE
from pile_edge.settings import Settings
from pile_hil.simulator.disk import Disk, PowerCutError
from pile_hil.simulator.hardware import Hardware
from pile_hil.simulator.network import Network
from pile_hil.simulator.world import MINUTE_MS, FoundError, World
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import PilechainError
from pile_shared.proof import parse
from pile_shared.reading import TIME_SYNCHRONISED, TIME_UNKNOWN
from pile_shared.topics import parse as parse_topic

RESTART_MS = 5000  # a service manager starts again what ended
QUIET_TURNS = 4  # steps of an idle agent in the time of one heartbeat
MAX_QUEUE = 256  # messages that wait for a pile

Send = Callable[[str, str, bytes, bool], None]
"""(pile, topic, payload, retained): what a pile says, to the broker."""


class Link:
    """The agent's connection, for one life."""

    inflight = 0

    def __init__(self, pile: "Pile") -> None:
        """Begin with nothing heard."""
        self._pile = pile
        self.queue: list[tuple[str, bytes]] = []

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._pile.network.is_up(self._pile.id)

    def poll(self, _timeout_ms: int) -> list[tuple[str, bytes]]:
        """What came meanwhile; takes no time."""
        queue, self.queue = self.queue, []
        return queue

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Hand a message to the network."""
        if not self.connected:
            return False
        self._pile.said(topic, payload, retain=retain)
        return True

    def close(self) -> None:
        """Nothing to give back."""


class Port:
    """What the interpreter would provide (pile_edge.ports), for one life."""

    def __init__(self, pile: "Pile") -> None:
        """Begin at this moment's tick."""
        self._pile = pile
        self._booted_ms = pile.world.now_ms

    def wall_ms(self) -> int:
        """The system's clock, as wrong as it is."""
        return max(0, self._pile.world.now_ms + self._pile.clock_off_ms)

    def ticks_ms(self) -> int:
        """The crystal's time since boot, some millionths fast or slow."""
        elapsed_ms = self._pile.world.now_ms - self._booted_ms
        return elapsed_ms + elapsed_ms * self._pile.drift_ppm // 1_000_000

    def ticks_diff(self, new: int, old: int) -> int:
        """A difference of two ticks."""
        return new - old

    def time_status(self) -> int:
        """Whether NTP has set the clock; it does not know when it was led astray."""
        return TIME_UNKNOWN if self._pile.clock_lost else TIME_SYNCHRONISED

    def log(self, text: str) -> None:
        """Into the trace."""
        self._pile.world.say(self._pile.id, text)

    def firmware_hash(self) -> bytes:
        """Of no firmware in particular."""
        return bytes(32)

    def alive(self) -> None:
        """No watchdog here."""

    def reported(self) -> None:
        """No software is on trial here."""

    def collect(self) -> None:
        """The simulator collects."""

    def keep(self, validators: object) -> None:
        """Tables of keys are for boards."""

    def open_bus(self, section: object) -> Hardware:  # noqa: ARG002 - a port's
        """Meter and relay."""
        return self._pile.hardware

    def open_storage(self, folder: str) -> Storage:
        """The storage of CPython, over the simulated disk."""
        return Storage(folder, self._pile.disk)

    def open_signer(self, uri: str) -> SoftwareSigner:  # noqa: ARG002 - a port's
        """The pile's key."""
        return self._pile.signer

    def open_link(self, section: object, client_id: str, subscriptions: list[str], will: object) -> Link:  # noqa: ARG002
        """A link of this life."""
        return self._pile.new_link()


class Pile:
    """One pile and its lives.

    Attributes:
        agent: the one that runs, None while there is none. kept: proofs that are durable, by sequence. clock_off_ms: how far
        its wall clock is off. clock_lost: whether nobody has set it since boot. troubles: kinds of faults that it had.
        on_proof: hears of each proof that is new in `kept`. rated_w: the most that it gives.
    """

    def __init__(
        self, world: World, network: Network, settings: Settings, signer: SoftwareSigner, hardware: Hardware, send: Send
    ) -> None:
        """Remember what an agent needs; `boot` starts one."""
        self.id = settings.pile_id
        self.world, self.network, self.hardware, self.signer = world, network, hardware, signer
        chance = world.stream(f"{self.id}/disk")
        self.disk = Disk(chance)
        self.drift_ppm = chance.randint(-100, 100)
        self.clock_off_ms = 0
        self.clock_lost = False
        self.troubles: set[str] = set()
        self.on_proof: Callable[[Pile, bytes], None] = lambda _, __: None
        self.rated_w = settings.rated_power_w
        self.agent: Agent | None = None
        self.kept: dict[int, bytes] = {}
        self._chance = chance
        self._settings = settings
        self._send = send
        self._link = Link(self)
        self._turn_ms = 0  # when the next step is due; 0 while none is
        self._life = 0

    # --- lives -----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the agent, unless it runs."""
        if self.agent is not None:
            return
        settings = copy.copy(self._settings)
        settings.validators = list(settings.validators)
        self._life += 1
        self._turn_ms = 0
        try:
            agent = Agent(settings, Port(self))
        except PowerCutError:
            self.lose_power(MINUTE_MS)
            return
        except PilechainError as error:
            raise FoundError(f"{self.id} does not start: {error.code}: {error}", "boot") from error
        newest = agent.journal.last()
        if newest is not None:  # it may have become durable in the power cut that came before its append returned
            self._keep(*newest)
        self._watch(agent)
        self.agent = agent
        self.world.say(self.id, "started")
        self.wake(0)

    def _watch(self, agent: Agent) -> None:
        """Know of every proof from the moment that it is durable."""
        append = agent.journal.append

        def appended(sequence: int, record: bytes, *, keep: bool = True) -> None:
            append(sequence, record, keep=keep)
            self._keep(sequence, record)

        agent.journal.append = appended  # type: ignore[method-assign]

    def _keep(self, sequence: int, record: bytes) -> None:
        if sequence not in self.kept:
            self.kept[sequence] = record
            self.on_proof(self, record)
        elif self.kept[sequence] != record:
            raise FoundError(f"{self.id} signed two proofs of sequence {sequence}", "fork")

    def new_link(self) -> Link:
        """A link for the life that begins."""
        self._link = Link(self)
        return self._link

    def lose_power(self, for_ms: int) -> None:
        """The power goes, and comes back."""
        self.world.say(self.id, f"power cut for {for_ms} ms")
        self.disk.lose_power()
        self.hardware.lose_power()
        self._end(for_ms)

    def crash(self, for_ms: int) -> None:
        """The process dies; the operating system and the relay stay as they are."""
        if self.agent is not None:
            self.world.say(self.id, f"killed for {for_ms} ms")
            self.disk.drop_files()
            self._end(for_ms)

    def _end(self, for_ms: int) -> None:
        self.agent = None
        self._life += 1
        self._turn_ms = 0
        self._link.queue.clear()
        life = self._life
        self.world.after(for_ms, lambda: self.boot() if self._life == life else None)

    # --- steps -----------------------------------------------------------------------------------------------------

    def hear(self, topic: str, payload: bytes) -> None:
        """A message comes."""
        if self.agent is not None and len(self._link.queue) < MAX_QUEUE:
            self._link.queue.append((topic, payload))
            self.wake(0)

    def wake(self, wait_ms: int) -> None:
        """Have the agent, if there is one, take a step then, or sooner."""
        if self.agent is None:
            return
        due_ms = self.world.now_ms + wait_ms
        if not self._turn_ms or due_ms < self._turn_ms:
            self._turn_ms = due_ms
            life = self._life
            self.world.at(due_ms, lambda: self._turn(due_ms, life))

    def _turn(self, due_ms: int, life: int) -> None:
        if self.agent is None or due_ms != self._turn_ms or life != self._life:
            return
        self._turn_ms = 0
        try:
            self.agent.step()
        except PowerCutError:
            self.lose_power(self._chance.randint(1, 30) * MINUTE_MS)
            return
        except PilechainError as error:
            self.world.say(self.id, f"ended: {error.code}: {error}")
            self.crash(RESTART_MS)
            return
        self.wake(self._quiet_ms(self.agent))

    def _quiet_ms(self, agent: Agent) -> int:
        """For how long nothing can happen in this agent by itself."""
        timing = self._settings.timing
        if agent.session.phase != IDLE:
            wants_ms = agent.session.wants_reading_at_ms - self.world.now_ms - self.clock_off_ms
            return min(max(wants_ms, 250), timing.sample_ms)
        journal = agent.journal
        if journal.head is not None and (journal.retired_through or 0) < journal.head[0]:
            return timing.resend_ms
        if self.world.now_ms < self.hardware.relay_until_ms:
            return timing.sample_ms
        return timing.heartbeat_ms // QUIET_TURNS

    def said(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """The agent publishes."""
        if parse_topic(topic)[3] == "proof":  # what is published counts as kept, however it came into the journal
            self._keep(parse(payload)[1].sequence, payload)
        self._send(self.id, topic, payload, retain)

    @property
    def is_at_rest(self) -> bool:
        """Whether the agent runs, without a session, and everything it proved is on the chain."""
        if self.agent is None or self.agent.session.phase != IDLE:
            return False
        journal = self.agent.journal
        return journal.head is None or journal.retired_through == journal.head[0]
