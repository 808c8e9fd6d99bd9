"""An ABCI application on a small chain, and requests as CometBFT sends them; no node."""

from pathlib import Path

from world import consensus, genesis, key

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.stake import address_of
from pile_coordinator.engines.comet.app import Application
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.comet.messages import validator_pb2
from pile_coordinator.engines.comet.pool import Pool
from pile_coordinator.engines.comet.retention import Retention
from pile_coordinator.engines.comet.snapshots import Snapshots
from pile_coordinator.engines.engine import Block, CachingVerifier
from pile_shared.platform import es256_verify, sha256

NODES = ("auditor", "grid", "operator")
CONSENSUS = {party: sha256(f"{party} consensus".encode()) for party in NODES}
CANDIDATES = [f"node-{i}" for i in range(1, 6)]  # of a chain that elects
CANDIDATE_KEYS = {node: consensus(node) for node in CANDIDATES}


class App:
    """An application in a folder: closed and opened again it is a process that was restarted."""

    def __init__(
        self, folder: Path, chain: Genesis | None = None, *, interval: int = 0, retain: int = 0, keys=CONSENSUS
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.logged: list[str] = []
        self.blocks: list[Block] = []
        self.genesis = chain or genesis()
        self.keys = keys
        self.ledger = CometLedger(folder / "ledger.sqlite", self.genesis, keys, CachingVerifier(es256_verify))
        self.snapshots = Snapshots(folder / "snapshots", self.ledger, interval, self.logged.append)
        retention = Retention(self.ledger, self.snapshots, retain)
        self.application = Application(self.ledger, Pool(), self.snapshots, retention, self._hear, lambda: 0)

    def _hear(self, block: Block | None) -> None:
        if block is not None:
            self.blocks.append(block)

    def ask(self, kind: str, **fields: object):
        request = abci.Request(**{kind: getattr(abci, "Request" + _camel(kind))(**fields)})
        response = self.application.handle(abci.Request.FromString(request.SerializeToString()))
        assert response.WhichOneof("value") == kind, response
        return getattr(response, kind)

    def init_chain(self, **over: object):
        powers = {v.party: v.power for v in self.genesis.validators}
        validators = [{"pub_key": {"ed25519": self.keys[p]}, "power": powers[p]} for p in powers]
        fields = {"chain_id": self.genesis.chain_id, "validators": validators}
        if self.genesis.stake is not None:
            rules = self.genesis.stake.rules
            fields["consensus_params"] = evidence_ages(rules.evidence_age_blocks, rules.evidence_age_ms)
        return self.ask("init_chain", **fields | over)

    def finalize(self, height: int, time_ms: int, txs: list[bytes], proposer: str = "grid", **over: object):
        time = {"seconds": time_ms // 1000, "nanos": time_ms % 1000 * 1_000_000}
        fields = {"hash": sha256(str(height).encode()), "proposer_address": address_of(self.keys[proposer]), **over}
        return self.ask("finalize_block", height=height, time=time, txs=txs, **fields)

    def decide(self, height: int, time_ms: int, txs: list[bytes], **over: object):
        done = self.finalize(height, time_ms, txs, **over)
        self.ask("commit")
        return done

    def check(self, tx: bytes, *, again: bool = False):
        return self.ask("check_tx", tx=tx, type=abci.RECHECK if again else abci.NEW)

    def proposal(self, entries: list[bytes], max_bytes: int = 1 << 20) -> list[bytes]:
        """What it would propose of a mempool."""
        return list(self.ask("prepare_proposal", txs=entries, max_tx_bytes=max_bytes, height=1).txs)

    def accepts(self, entries: list[bytes]) -> bool:
        """Whether it would vote for a proposal."""
        answer = self.ask("process_proposal", txs=entries, height=1)
        return answer.status == abci.ResponseProcessProposal.ACCEPT

    def close(self) -> None:
        self.snapshots.wait()
        self.ledger.close()


def votes(*nodes: str, absent: tuple[str, ...] = ()):
    """Who of the candidates signed the block before, as CometBFT reports it."""
    flags = [(node, validator_pb2.BLOCK_ID_FLAG_COMMIT) for node in nodes if node not in absent]
    flags += [(node, validator_pb2.BLOCK_ID_FLAG_ABSENT) for node in absent]
    rows = [
        abci.VoteInfo(validator=abci.Validator(address=address_of(CANDIDATE_KEYS[node]), power=1), block_id_flag=flag)
        for node, flag in flags
    ]
    return abci.CommitInfo(votes=rows)


def signers():
    return {party: key(party + "/attest") for party in NODES}


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def evidence_ages(blocks: int, age_ms: int) -> dict[str, object]:
    """CometBFT's consensus parameters, as far as we look at them."""
    age = {"seconds": age_ms // 1000, "nanos": age_ms % 1000 * 1_000_000}
    return {"evidence": {"max_age_num_blocks": blocks, "max_age_duration": age, "max_bytes": 65536}}
