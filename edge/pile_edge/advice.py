"""What an electrician should check when a meter does not answer as it should. CPython only."""

from collections.abc import Mapping

from pile_shared.errors import BusError

_SERIAL = {
    "timeout": "is the meter under power; are A and B swapped at one end; is its address {unit}; is it set to {line}? "
    "`pile-edge scan --port {device}` tries the usual settings",
    "crc": "noise, or two units with one address: look at termination (120 ohm at both ends only), shield and common "
    "wire; or a parity other than {line}",
    "frame": "another unit answers for address {unit}, or a second master is on the line; also check the parity ({line})",
    "closed": "is the adapter plugged in, does {device} exist, may this user open it (group dialout), is another program "
    "using it?",
    "busy": "another pile-edge has the line: is it stopped (Ctrl-Z) or hanging (`ps` shows its process)? Where many "
    "piles share a line, shorten timeout_ms of those meters that do not answer, or raise timing.sample_ms",
}
_NETWORK = {
    "timeout": "is the meter under power; is its unit number {unit} (many want 1); does the gateway's serial side have "
    "the meter's baud rate and parity?",
    "crc": "the gateway's serial side: wiring, termination, baud rate and parity",
    "frame": "does {host}:{port} speak Modbus TCP, and not RTU over TCP?",
    "closed": "can {host} be reached (ping), is port {port} right, does the device allow another connection?",
}
_METER = {
    "exception": "is meter.profile the model on the label? A meter refuses registers that another model has. A gateway "
    "refuses with exception 10 or 11 when its unit {unit} is silent",
    "not_available": "the meter has no value there yet: is it wired for the number of phases its profile means; for "
    "SunSpec, is meter.model_address where `pile-edge scan` finds the model?",
    "out_of_range": "is meter.profile the model on the label, and meter.word_order as the meter is set?",
    "falling": "was the meter exchanged or reset? Compare its display with the last reading",
    "implausible": "is meter.rated_power_w what really can flow; is the transformer ratio set in the meter?",
}


def advice(error: BusError, spec: Mapping[str, object], unit: int | None = None) -> str:
    """What to check after this error on this bus; "" where there is nothing to say."""
    by_code = {**(_NETWORK if spec.get("kind") == "tcp" else _SERIAL), **_METER}
    line = f"{spec.get('baud', 9600)} baud, parity {spec.get('parity', 'N')}"
    known = {"unit": "as configured" if unit is None else str(unit), "line": line}
    known.update({key: str(spec.get(key, default)) for key, default in (("device", ""), ("host", ""), ("port", 502))})
    return by_code.get(error.code, "").format(**known)
