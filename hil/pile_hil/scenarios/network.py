"""What goes wrong between pile and broker, or coordinator and broker: on the line, and in the broker itself."""

from pile_hil.faults.proxy import Weather
from pile_hil.scenarios.registry import scenario
from pile_hil.trials.between import COORDINATOR, packets_of, proxy_of
from pile_hil.trials.facts import OrderFacts
from pile_hil.trials.trial import Trial

NEEDS = ("pile",)


def _middle(trial: Trial) -> OrderFacts:
    """A session that has begun well."""
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 4)
    return order


def _go_through(trial: Trial, *weathers: tuple[str, Weather]) -> None:
    """A session in bad weather, all of it, between the pile and the broker as between the coordinator and the broker."""
    proxies = [(who, proxy_of(trial, who, seed=seed)) for seed, who in enumerate((trial.pile, COORDINATOR))]
    trial.open()
    order = trial.begin()
    for what, weather in weathers:
        for _, proxy in proxies:
            proxy.set(weather)
        trial.note(what)
    trial.finish(order)
    for who, proxy in proxies:
        proxy.heal()
        trial.note(f"{who}: {dict(proxy.counts)}")


@scenario("network-loss", fault="one TCP packet of ten is lost", needs=NEEDS)
def network_loss(trial: Trial) -> None:
    """Of the packets between pile and broker, and coordinator and broker, one of ten is lost, all through a session."""
    losses = [packets_of(trial, who) for who in (trial.pile, COORDINATOR)]
    trial.open()
    order = _middle(trial)
    for loss in losses:
        loss.lose(10)
    trial.finish(order)


@scenario("network-message-loss", fault="a broker acknowledges messages and loses them", needs=NEEDS)
def network_message_loss(trial: Trial) -> None:
    """One message of five is lost after it was acknowledged, in every direction: proofs, receipts, contracts, blocks' news."""
    _go_through(trial, ("a fifth is lost", Weather(lost_permille=200)))


@scenario("network-delay", fault="a line with a delay of half a second", needs=NEEDS)
def network_delay(trial: Trial) -> None:
    """Everything takes 300 to 500 ms in each direction, to the pile as to the coordinator."""
    _go_through(trial, ("300 to 500 ms", Weather(delay_ms=300, jitter_ms=200)))


@scenario("network-slow", fault="a line of 4 kB/s", needs=NEEDS)
def network_slow(trial: Trial) -> None:
    """A line that carries 4 kB a second in each direction, as a bad mobile network does."""
    _go_through(trial, ("4 kB/s", Weather(bytes_per_s=4000)))


@scenario("network-duplication", fault="messages that come twice", needs=NEEDS)
def network_duplication(trial: Trial) -> None:
    """Half of all messages come twice, in every direction."""
    _go_through(trial, ("half come twice", Weather(twice_permille=500)))


@scenario("network-reordering", fault="messages that overtake each other", needs=NEEDS)
def network_reordering(trial: Trial) -> None:
    """A third of all messages is overtaken by the next, within a topic too, which MQTT forbids and a bridge may do."""
    _go_through(trial, ("a third is overtaken", Weather(overtaken_permille=333)))


@scenario("network-chaos", fault="loss, duplication, reordering and delay together", needs=NEEDS)
def network_chaos(trial: Trial) -> None:
    """Messages are lost, doubled, overtaken and late, all at once."""
    weather = Weather(delay_ms=50, jitter_ms=200, lost_permille=100, twice_permille=200, overtaken_permille=200)
    _go_through(trial, ("all of it", weather))


def _away(trial: Trial, who: str) -> None:
    """Nobody hears anything of somebody until a session has ended there, and then everything."""
    loss = packets_of(trial, who)
    trial.open()
    order = _middle(trial)
    loss.lose(100)
    trial.note(f"{who} is cut off")
    trial.await_said("proof", after=len(trial.agent().log()))
    trial.await_energy(order, order.energy_wh)
    trial.await_said(" end ")
    loss.lose(0)
    trial.note(f"{who} is there again")
    trial.finish(order)


@scenario("network-partition", fault="a pile that is cut off, connections half open", needs=NEEDS)
def network_partition(trial: Trial) -> None:
    """No packet passes between pile and broker while the session goes on and ends; nobody is told."""
    _away(trial, trial.pile)


@scenario("network-partition-coordinator", fault="a coordinator that is cut off, connections half open", needs=NEEDS)
def network_partition_coordinator(trial: Trial) -> None:
    """No packet passes between coordinator and broker while the session goes on and ends."""
    _away(trial, COORDINATOR)


@scenario("network-reset", fault="connections that are reset, again and again", needs=NEEDS)
def network_reset(trial: Trial) -> None:
    """The connections of pile and coordinator are reset eight times in a session."""
    proxies = [proxy_of(trial, who) for who in (trial.pile, COORDINATOR)]
    trial.open()
    order = trial.begin()
    for number in range(1, 9):
        trial.await_energy(order, number * order.energy_wh // 10)
        for proxy in proxies:
            proxy.reset()
    trial.note("eight resets")
    trial.finish(order)


@scenario("network-refused", fault="a broker that refuses connections for a while", needs=NEEDS)
def network_refused(trial: Trial) -> None:
    """The pile is reset and refused while its session goes on and ends; then it may come again."""
    proxy = proxy_of(trial, trial.pile)
    trial.open()
    order = _middle(trial)
    proxy.cut()
    trial.await_said(" end ")
    proxy.heal()
    trial.finish(order)


@scenario("network-stall", fault="a broker that stands still and keeps its connections", needs=NEEDS)
def network_stall(trial: Trial) -> None:
    """Between pile and broker nothing passes and new connections are accepted, while the session goes on and ends."""
    proxy = proxy_of(trial, trial.pile)
    trial.open()
    order = _middle(trial)
    proxy.stall()
    trial.await_said(" end ")
    proxy.heal()
    trial.finish(order)
