"""A coordinator's connection while the broker is away."""

from pile_coordinator import mqtt
from pile_coordinator.mqtt import Broker, Connection
from pile_hil.broker import free_port


def test_what_cannot_be_sent_is_bounded(monkeypatch):
    monkeypatch.setattr(mqtt, "MAX_UNSENT", 100)
    connection = Connection(Broker("127.0.0.1", free_port()), "bounded", [])
    for number in range(150):
        connection.publish("topic", b"%d" % number)
    assert len(connection._client._out_messages) == 100
    connection.close()
