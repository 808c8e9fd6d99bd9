"""What a connection leaves at a real broker: there while it is, gone when it goes, and again when the broker was away."""

import time

import pytest

from pile_coordinator.mqtt import RECONNECTED, Broker, Connection, Kept
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require

TOPIC = "pilechain/1/chain/party/one/serving"


@pytest.fixture
def broker(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    with Mosquitto(tmp_path / "broker") as running:
        yield running


def connect(broker, name: str, **more) -> Connection:
    connection = Connection(Broker("127.0.0.1", broker.port), name, [], persistent=False, **more)
    if more.get("watched"):
        connection.wait_connected(20)
    return connection


def heard(connection: Connection) -> tuple[str, bytes]:
    deadline = time.monotonic() + 20
    while (received := connection.get(0.2)) is None:
        assert time.monotonic() < deadline
    return received


def test_what_is_announced_is_there_until_its_connection_goes(broker):
    watching = connect(broker, "watching", watched=(TOPIC,))
    serving = connect(broker, "serving", will=TOPIC, watched=("other",))
    serving.announce(b"here")
    topic, payload = heard(watching)
    assert (topic, payload, isinstance(payload, Kept)) == (TOPIC, b"here", False)
    late = connect(broker, "late", watched=(TOPIC,))
    topic, payload = heard(late)
    assert (topic, payload, isinstance(payload, Kept)) == (TOPIC, b"here", True)
    serving.close()
    assert heard(watching) == (TOPIC, b"")
    later = connect(broker, "later", watched=(TOPIC,))
    assert later.get(0.3) is None
    for connection in (watching, late, later):
        connection.close()


def test_a_lost_connection_takes_it_away_and_a_new_one_brings_it_back(broker):
    """Also after a broker that has forgotten everything."""
    watching = connect(broker, "watching", watched=(TOPIC,))
    serving = connect(broker, "serving", will=TOPIC, watched=("other",))
    assert heard(serving) == ("", RECONNECTED)
    serving.announce(b"here")
    assert heard(watching) == (TOPIC, b"here")
    rival = connect(
        broker, "serving", watched=("other",)
    )  # of the same name: the broker drops the first without a goodbye
    assert heard(watching) == (TOPIC, b"")
    rival.close()
    assert heard(watching) == (TOPIC, b"here")
    assert heard(serving) == ("", RECONNECTED)
    broker.kill()
    broker.start()
    assert heard(serving) == ("", RECONNECTED)
    assert heard(watching) == (TOPIC, b"here")
    for connection in (watching, serving):
        connection.close()
