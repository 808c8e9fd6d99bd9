"""Orders with every ending, and what their pile and operator have beside the chain: OCMF records and an operator's file."""

from settled import MEASURED_AT, Chain, deliver
from world import HOUR, NOW, key

from pile_coordinator.chain.transactions import CancelContract, Rule, SubmitProofs
from pile_coordinator.exports.operator import load_operator
from pile_coordinator.exports.order import read_order
from pile_edge.ocmf import make_record
from pile_edge.ocmf_records import RecordBook
from pile_shared.proof import BEGIN, END, HEARTBEAT, PERIODIC, REASON_USER, REASON_VEHICLE_FULL, parse

OPERATOR = """\
country_code = "CN"
party_id = "PIL"
vat_permille = 130

[token]
country_code = "CN"
party_id = "EMP"

[locations.linden-court]
name = "Linden Court"
address = "7 Linden Road"
city = "Shanghai"
postal_code = "200120"
country = "CHN"
latitude = "31.230416"
longitude = "121.473701"

[piles.pile-1]
location = "linden-court"
evse_id = "CN*PIL*E0001"
connector_standard = "GBT_AC"
connector_format = "CABLE"
connector_power_type = "AC_1_PHASE"
home_of = ["dan"]
"""


def operator(folder, text=OPERATOR):
    path = folder / "operator.toml"
    path.write_text(text)
    return load_operator(path)


def within(chain):
    return deliver(chain, delivered_wh=5000, reason=REASON_USER)


def over(chain):
    return deliver(chain, delivered_wh=5600, reason=REASON_USER)


def under(chain):
    return deliver(chain, delivered_wh=2001, reason=REASON_VEHICLE_FULL, ask=719_999, confirm=False)


def failed(chain):
    return deliver(chain, delivered_wh=2000, reason=5)


def silent(chain):
    """The end is told too late to count."""
    chain.list_and_bid()
    contract, start = chain.contract().id, NOW + 3000
    begin = chain.world.prove("pile-1", BEGIN, [(start, 100_000)], contract=contract)
    more = chain.world.prove("pile-1", PERIODIC, [(start + HOUR // 2, 102_000)], contract=contract)
    chain.block(start + HOUR, ("operator", SubmitProofs([begin, more])))
    chain.block(NOW + 6 * HOUR)
    chain.block(NOW + 8 * HOUR)
    return chain.certificate(contract)


def defaulted(chain):
    chain.list_and_bid()
    contract = chain.contract().id
    chain.block(NOW + 10 * HOUR)
    return chain.certificate(contract)


def no_show(chain):
    chain.list_and_bid()
    contract = chain.contract().id
    ready = chain.world.prove("pile-1", HEARTBEAT, [(NOW + HOUR // 2, 100_000)])
    chain.block(NOW + HOUR // 2, ("operator", SubmitProofs([ready])))
    chain.block(NOW + 3 * HOUR)
    return chain.certificate(contract)


def called_off(chain):
    chain.list_and_bid(start=NOW + 3 * HOUR)
    contract = chain.contract().id
    chain.block(NOW + HOUR, ("dan", CancelContract(contract)))
    return chain.certificate(contract)


def ruled(chain, objector="dan", measured_wh=4000):
    contract = chain.measure(delivered_wh=2000)
    chain.object(objector, "energy", measured_wh)
    rulings = [(judge, Rule(contract, measured_wh, "user")) for judge in ("judge-1", "judge-2")]
    chain.block(MEASURED_AT + 3000, *rulings)
    return chain.certificate(contract)


def ruled_for_owner(chain):
    return ruled(chain, "olga", 5600)


def timed_out(chain):
    contract = chain.measure(delivered_wh=2000)
    chain.object("dan", "cause")
    chain.block(MEASURED_AT + 1000 + 48 * HOUR)
    return chain.certificate(contract)


ENDINGS = {
    make.__name__: make
    for make in (within, over, under, failed, silent, defaulted, no_show, called_off, ruled, ruled_for_owner, timed_out)
}


def settled_chain(folder):
    folder.mkdir(exist_ok=True)
    chain = Chain(folder, rulings_needed=2)
    chain.admit()
    return chain


def pile_records(folder, chain, certificate):
    """What the pile kept of a session: the texts, and the folder as its agent writes it."""
    book, texts, origin = RecordBook(str(folder)), [], None
    for message in certificate.proofs:
        proof = parse(message)[1]
        origin = proof.origin or origin
        if proof.event in {BEGIN, END}:
            pagination = book.next_pagination(proof.sequence)
            text = make_record(proof, pagination, f"{chain.genesis.chain_id}/pile-1", origin, key("pile-1"))
            book.add(proof, pagination, text)
            texts.append(text)
    return texts


def exported_order(chain, certificate):
    return read_order(certificate.encoded(), chain.genesis)
