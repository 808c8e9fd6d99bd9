"""MQTT topics. A broker's access list can confine a pile to `pilechain/1/<chain>/<pile>/#`.

Piles:    pilechain/1/<chain>/<pile>/proof     up    one metering proof
          pilechain/1/<chain>/<pile>/status    up    retained: online / offline (last will), for people only
          pilechain/1/<chain>/<pile>/receipt   down  which proofs are in a certified block
          pilechain/1/<chain>/<pile>/contract  down  a certified contract that reserves the pile
          pilechain/1/<chain>/<pile>/session   down  a user's signed start or stop
          pilechain/1/<chain>/<pile>/update    down  a signed offer of new software; pieces of it, when asked for
          pilechain/1/<chain>/<pile>/want      up    which piece comes next, or why none does; for the update tool
          pilechain/1/<chain>/<pile>/validators  down  a certified change of the validator set
          pilechain/1/<chain>/<pile>/record, recorded  up and down  OCMF records, which boards do not make (record.py)
Parties:  pilechain/1/<chain>/party/<party>/tx, query     up
          pilechain/1/<chain>/party/<party>/result, answer  down
          pilechain/1/<chain>/party/<party>/serving  among coordinators (pile_coordinator/serving.py)
"""

from pile_shared.errors import BoundsError
from pile_shared.platform import sha256
from pile_shared.units import check_id

ROOT = "pilechain/1"
PILE_UP = ("proof", "status")
PILE_DOWN = ("receipt", "contract", "session", "validators", "update")
PILE_TOOL = ("want",)  # from a pile to the tool that updates it; a coordinator does not listen
MAX_STATUS_BYTES = 256  # of what a pile says of itself: 150 with the longest names and codes
PARTY_UP = ("tx", "query")
PARTY_DOWN = ("result", "answer")
PARTY_LEVEL = "party"


def pile_topic(chain_id: str, pile_id: str, kind: str) -> str:
    """The topic of one kind of message to or from a pile. No pile is called `party`: its part would hold every party's."""
    if pile_id == PARTY_LEVEL:
        raise BoundsError("a pile cannot be called " + PARTY_LEVEL)
    return ROOT + "/" + chain_id + "/" + pile_id + "/" + kind


def party_topic(chain_id: str, party_id: str, kind: str) -> str:
    """The topic of one kind of message to or from a party's wallet."""
    return ROOT + "/" + chain_id + "/party/" + party_id + "/" + kind


def own_client_id(client_id: str, certificate: bytes) -> str:
    """The client id of who shows this certificate (DER): with a part that only who saw it can tell.

    Whoever connects under another's client id ends that connection and takes its session over, whatever his certificate is.
    """
    return client_id + "-" + sha256(certificate).hex()[:16]


def parse(topic: str) -> tuple[str, str, str, str]:
    """Split a topic into (chain id, "pile" or "party", id, kind); BoundsError if it is not one of ours."""
    parts = topic.split("/")
    if parts[:2] == ["pilechain", "1"]:
        if len(parts) == 5 and parts[3] != PARTY_LEVEL and parts[4] in PILE_UP + PILE_DOWN + PILE_TOOL:
            return check_id("chain", parts[2]), "pile", check_id("pile", parts[3]), parts[4]
        if len(parts) == 6 and parts[3] == PARTY_LEVEL and parts[5] in PARTY_UP + PARTY_DOWN:
            return check_id("chain", parts[2]), "party", check_id("party", parts[4]), parts[5]
    raise BoundsError("not a Pilechain topic: " + topic[:80])
