"""The program on a board that puts new software in place, in the agent's place and out of its heap.

`pile_edge.board.loader` (there: `pile_boot`) starts it instead of the agent when there is an offer. It fetches the image
into the slot that does not run, reads it back, and only then says in `slots.json` that this slot is on trial. Power may
go at any moment: until that one rename the old software starts, after it the new one, on trial.
"""
# ruff: noqa: ANN001, ANN201, ANN202, SLF001 - nothing checks types here: it imports the MicroPython port

import os
import sys
from binascii import hexlify

from pile_edge.ports import micropython as port
from pile_edge.ports.main import load
from pile_edge.update import MAX_NOTE_CHARACTERS, MAX_OFFER_BYTES, UpdateError, fetch, open_offer
from pile_shared.codec import encode
from pile_shared.errors import PilechainError
from pile_shared.topics import pile_topic

_FAREWELL_TURNS = 50  # of 100 ms: what is told last must get out, but the pile has to charge again


def update_software(arguments):
    """Take up the offer that is there, once: at the next start the agent runs again, whatever came of it.

    Args:
        arguments: The configuration's path first, as of the agent.

    Returns:
        0: the next start shows what came of it.
    """
    import pile_boot  # on a board; nowhere else

    port.load_curve_table()
    with open(pile_boot.TAKEN, "rb") as file:
        message = file.read(MAX_OFFER_BYTES + 1)
    try:
        config = load(arguments[0])
        offer = open_offer(message, config.update_public, config.chain_id)
        _take_up(offer, config)
    except (PilechainError, OSError) as error:
        port.log("no update: " + str(error))
    return 0


def _take_up(offer, config):
    topic = pile_topic(config.chain_id, config.pile_id, "want")
    link = port.open_link(
        config.mqtt,
        client_id="pile-" + config.pile_id,  # the same as the agent's: a broker's access list knows no other
        subscriptions=[pile_topic(config.chain_id, config.pile_id, "update")],
        will=(pile_topic(config.chain_id, config.pile_id, "status"), encode([0, config.pile_id, 0])),
    )
    offset, note = offer.size_bytes, ""
    try:
        put_in_place(offer, link, topic)
    except (PilechainError, OSError) as error:
        offset, note = 0, str(error)[:MAX_NOTE_CHARACTERS]
        port.log("no update: " + note)
    _tell(link, topic, encode([offer.version, offset, note]))
    link.close()


def put_in_place(offer, link, topic):
    """Fetch, write, read back, and begin the trial.

    Raises:
        UpdateError: the offer does not fit, nobody sends, or what came is not what was signed. OSError: flash fails.
    """
    import pile_boot

    state = pile_boot.load()
    slots = pile_boot.Slots()
    offer.check(state, "mpy" + str(sys.implementation._mpy & 0xFF), slots.size_bytes)
    slot = 1 - state["active"]
    entry = [offer.version, offer.size_bytes, hexlify(offer.digest).decode()]
    if not slots.holds(slot, entry):  # it does if power went between the last piece and the trial
        port.log("fetching version " + str(offer.version))
        slots.erase(slot, offer.size_bytes)

        def write(offset, data):
            slots.write(slot, offset, data)
            port.collect()

        def now_ms():
            port.alive()
            return port.ticks_ms()

        fetch(link, topic, offer, write, now_ms, port.log)
    if not slots.holds(slot, entry):
        raise UpdateError("what came is not what was signed", "damaged")
    begin_trial(state, slot, entry, offer.min_version)


def begin_trial(state, slot, entry, floor):
    """From the last line on the new software starts."""
    import pile_boot

    if pile_boot.REPORTED in os.listdir():
        os.remove(pile_boot.REPORTED)
    with open(pile_boot.TRIAL, "w") as file:
        file.flush()
    state["slots"][slot] = entry
    state["trial"] = [pile_boot.TRIES, floor]
    pile_boot.save(state)


def _tell(link, topic, message):
    """Say it once, and wait a moment until it has left."""
    is_told = False
    for _ in range(_FAREWELL_TURNS):
        is_told = is_told or link.publish(topic, message)
        link.poll(100)
        if is_told and not link.inflight:
            return
