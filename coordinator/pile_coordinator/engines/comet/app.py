"""ABCI 2.0 on one side, the ledger on the other: this maps one to the other and decides nothing.

Method names and duties follow CometBFT's specification, spec/abci/abci++_methods.md and abci++_app_requirements.md.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from pile_coordinator.chain.env import Misbehaviour
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transition import OK, TxResult
from pile_coordinator.engines.comet.bundle import unpack
from pile_coordinator.engines.comet.ledger import CometLedger, Decided
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.comet.messages import keys_pb2 as keys
from pile_coordinator.engines.comet.messages import params_pb2 as params
from pile_coordinator.engines.comet.messages import validator_pb2 as validator
from pile_coordinator.engines.comet.pool import Pool, Turns, WaitsError, propose
from pile_coordinator.engines.comet.retention import Retention
from pile_coordinator.engines.comet.snapshots import FORMAT, Snapshot, Snapshots
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.rings import share_rings
from pile_shared.errors import ConfigError

APP_VERSION = 1  # stands in every header of CometBFT: rules change by height (chain/upgrades.py), and this does not
# The code of whatever is refused; the log has ours. CometBFT's nodes agree on the codes of results too, those of other releases
# among them: so no number says which refusal it was.
REFUSED = 1

_Snapshot = abci.ResponseOfferSnapshot
_Chunk = abci.ResponseApplySnapshotChunk


def _who_signed(commit: abci.CommitInfo) -> tuple[bytes, ...] | None:
    """Who voted in the last commit, for the block or for none; None before the first."""
    if not commit.votes:
        return None
    absent = (validator.BLOCK_ID_FLAG_ABSENT, validator.BLOCK_ID_FLAG_UNKNOWN)
    return tuple(vote.validator.address for vote in commit.votes if vote.block_id_flag not in absent)


def _codes(results: list[TxResult], counts: list[int]) -> list[abci.ExecTxResult]:
    """What CometBFT keeps of the results: of a transaction its code, of a bundle nothing, as ours tell of each in it."""
    left = iter(results)
    return [_code([next(left) for _ in range(count)]) for count in counts]


def _code(entry: list[TxResult]) -> abci.ExecTxResult:
    if len(entry) > 1:
        return abci.ExecTxResult()
    return abci.ExecTxResult(code=0 if entry[0].code == OK else REFUSED, log=entry[0].message)


def _check_evidence_ages(genesis: Genesis, evidence: params.EvidenceParams) -> None:
    """ConfigError where CometBFT would show offences for longer or shorter than stake can be slashed for them."""
    if genesis.stake is None:
        return
    rules = genesis.stake.rules
    ours = rules.evidence_age_blocks, rules.evidence_age_ms * 1_000_000
    if (evidence.max_age_num_blocks, evidence.max_age_duration.ToNanoseconds()) != ours:
        raise ConfigError(
            f"CometBFT's genesis file lets evidence be {evidence.max_age_num_blocks} blocks and"
            f" {evidence.max_age_duration.ToJsonString()} old, stake can be slashed for {rules.evidence_age_blocks} blocks and"
            f" {rules.evidence_age_ms} ms: set max_age_num_blocks and max_age_duration to that"
        )


class Application:
    """Carries out ABCI requests, one after the other."""

    def __init__(
        self,
        ledger: CometLedger,
        pool: Pool,
        snapshots: Snapshots,
        retention: Retention,
        on_commit: Callable[[Block | None], None],
        certified: Callable[[], int],
    ) -> None:
        """Serve a ledger.

        Args:
            ledger: state and blocks.
            pool: what waits in CometBFT's mempool.
            snapshots: to give and to take.
            retention: what CometBFT need not keep.
            on_commit: hears of every Commit, with our block or None, before CometBFT does.
            certified: the height up to which blocks have their certificates, for `pilechain network status`.
        """
        self._ledger = ledger
        self._pool = pool
        self._snapshots = snapshots
        self._retention = retention
        self._on_commit = on_commit
        self._certified = certified
        self._methods: dict[str, Callable[[Any], Any]] = {
            "echo": lambda request: abci.ResponseEcho(message=request.message),
            "flush": lambda _: abci.ResponseFlush(),
            "info": self._info,
            "init_chain": self._init_chain,
            "query": self._query,
            "check_tx": self._check_tx,
            "prepare_proposal": self._prepare_proposal,
            "process_proposal": self._process_proposal,
            "extend_vote": lambda _: abci.ResponseExtendVote(),
            "verify_vote_extension": self._verify_vote_extension,
            "finalize_block": self._finalize_block,
            "commit": self._commit,
            "list_snapshots": self._list_snapshots,
            "offer_snapshot": self._offer_snapshot,
            "load_snapshot_chunk": self._load_snapshot_chunk,
            "apply_snapshot_chunk": self._apply_snapshot_chunk,
        }

    def handle(self, request: abci.Request) -> abci.Response:
        """The response to a request. What it raises is our mistake or the disk's: the node must not go on."""
        kind = request.WhichOneof("value") or ""
        if kind not in self._methods:  # of another mempool (insert_tx, reap_txs) than the one we configure
            text = f"no {kind} here; the mempool's type must be flood"
            return abci.Response(exception=abci.ResponseException(error=text))
        with self._ledger.lock:
            return abci.Response(**{kind: self._methods[kind](getattr(request, kind))})

    # --- the chain -----------------------------------------------------------------------------------------------

    def _info(self, _: abci.RequestInfo) -> abci.ResponseInfo:
        return abci.ResponseInfo(
            data=self._ledger.chain_id,
            version=version("pilechain"),
            app_version=APP_VERSION,
            last_block_height=self._ledger.comet_height,
            last_block_app_hash=self._ledger.app_hash if self._ledger.comet_height else b"",
        )

    def _init_chain(self, request: abci.RequestInitChain) -> abci.ResponseInitChain:
        """Before block 1, as often as CometBFT asks: nothing is written, and genesis is taken anew."""
        ledger = self._ledger
        powers = {address_of(update.pub_key.ed25519): update.power for update in request.validators}
        if request.chain_id != ledger.chain_id or powers != ledger.founding_powers():
            raise ConfigError(
                f"CometBFT's genesis file is for {request.chain_id} and {len(powers)} validators, ours for"
                f" {ledger.chain_id}; write both with: pilechain init"
            )
        _check_evidence_ages(ledger.genesis, request.consensus_params.evidence)
        ledger.load()
        self._pool.clear()
        return abci.ResponseInitChain(app_hash=ledger.app_hash)

    def _finalize_block(self, request: abci.RequestFinalizeBlock) -> abci.ResponseFinalizeBlock:
        entries = [unpack(entry) for entry in request.txs]
        decided = Decided(
            request.height,
            request.hash,
            request.time.ToMilliseconds(),
            request.proposer_address,
            tuple(tx for entry in entries for tx in entry),
            signed=_who_signed(request.decided_last_commit),
            misbehaviour=tuple(Misbehaviour(one.validator.address, one.height) for one in request.misbehavior),
        )
        done = self._ledger.finalize(decided)
        if done.block is None:
            return abci.ResponseFinalizeBlock(app_hash=self._ledger.app_hash)
        codes = _codes(done.block.results, [len(entry) for entry in entries])
        updates = [
            abci.ValidatorUpdate(pub_key=keys.PublicKey(ed25519=key), power=power) for key, power in done.updates
        ]
        app_hash = done.block.header.hash()
        return abci.ResponseFinalizeBlock(tx_results=codes, validator_updates=updates, app_hash=app_hash)

    def _commit(self, _: abci.RequestCommit) -> abci.ResponseCommit:
        block = self._ledger.commit()
        self._pool.clear()
        self._snapshots.after_commit()
        self._on_commit(block)
        return abci.ResponseCommit(retain_height=self._retention.after_commit())

    # --- transactions that wait, and proposals -------------------------------------------------------------------

    def _check_tx(self, request: abci.RequestCheckTx) -> abci.ResponseCheckTx:
        ledger = self._ledger
        try:
            again = request.type == abci.RECHECK
            self._pool.enter(ledger.state, ledger.env_now(), request.tx, again=again)
        except (Rejection, WaitsError) as refusal:
            return abci.ResponseCheckTx(code=REFUSED, log=str(refusal), codespace=refusal.code)
        return abci.ResponseCheckTx(gas_wanted=1)

    def _prepare_proposal(self, request: abci.RequestPrepareProposal) -> abci.ResponsePrepareProposal:
        ledger = self._ledger
        env = ledger.env(ledger.clock.at_ms(request.time.ToMilliseconds()))
        return abci.ResponsePrepareProposal(txs=propose(ledger.state, env, list(request.txs), request.max_tx_bytes))

    def _process_proposal(self, request: abci.RequestProcessProposal) -> abci.ResponseProcessProposal:
        ledger = self._ledger
        env = ledger.env(ledger.clock.at_ms(request.time.ToMilliseconds()))
        entries = [unpack(entry) for entry in request.txs]
        share_rings(ledger.state, env, ledger.verify.rings, (tx for entry in entries for tx in entry))
        turns = Turns(ledger.state, env)
        accepted = all(turns.take(entry) for entry in entries)
        status = abci.ResponseProcessProposal.ACCEPT if accepted else abci.ResponseProcessProposal.REJECT
        return abci.ResponseProcessProposal(status=status)

    def _verify_vote_extension(self, request: abci.RequestVerifyVoteExtension) -> abci.ResponseVerifyVoteExtension:
        """We extend no votes, so a vote with something in it is none of a correct node's."""
        answer = abci.ResponseVerifyVoteExtension
        return answer(status=answer.REJECT if request.vote_extension else answer.ACCEPT)

    # --- questions -----------------------------------------------------------------------------------------------

    def _query(self, request: abci.RequestQuery) -> abci.ResponseQuery:
        """`status`: heights and hashes as JSON, for `pilechain network status`."""
        if request.path != "status":
            return abci.ResponseQuery(code=REFUSED, log="the only path is status; wallets ask a coordinator")
        ledger = self._ledger
        facts = {
            "chain": ledger.chain_id,
            "height": ledger.height,
            "certified": self._certified(),
            "first_height": ledger.store.first_height(),
            "comet_height": ledger.comet_height,
            "app_hash": ledger.app_hash.hex(),
            "time_ms": ledger.time_ms,
            "snapshot": self._snapshots.newest(),
        }
        return abci.ResponseQuery(value=json.dumps(facts).encode(), height=ledger.comet_height)

    # --- snapshots -----------------------------------------------------------------------------------------------

    def _list_snapshots(self, _: abci.RequestListSnapshots) -> abci.ResponseListSnapshots:
        found = [
            abci.Snapshot(height=s.comet_height, format=FORMAT, chunks=s.chunks, hash=s.hash, metadata=s.description)
            for s in self._snapshots.list()
        ]
        return abci.ResponseListSnapshots(snapshots=found)

    def _offer_snapshot(self, request: abci.RequestOfferSnapshot) -> abci.ResponseOfferSnapshot:
        offered = request.snapshot
        if offered.format != FORMAT:
            return _Snapshot(result=_Snapshot.REJECT_FORMAT)
        snapshot = Snapshot(offered.height, offered.chunks, offered.hash, offered.metadata)
        is_good = self._snapshots.offer(snapshot, request.app_hash)
        return _Snapshot(result=_Snapshot.ACCEPT if is_good else _Snapshot.REJECT)

    def _load_snapshot_chunk(self, request: abci.RequestLoadSnapshotChunk) -> abci.ResponseLoadSnapshotChunk:
        is_ours = request.format == FORMAT
        chunk = self._snapshots.chunk(request.height, request.chunk) if is_ours else b""
        return abci.ResponseLoadSnapshotChunk(chunk=chunk)

    def _apply_snapshot_chunk(self, request: abci.RequestApplySnapshotChunk) -> abci.ResponseApplySnapshotChunk:
        if not self._snapshots.expects(request.index, request.chunk):
            senders = [request.sender] if request.sender else []
            return _Chunk(result=_Chunk.RETRY, refetch_chunks=[request.index], reject_senders=senders)
        is_good = self._snapshots.apply(request.index, request.chunk)
        return _Chunk(result=_Chunk.ACCEPT if is_good else _Chunk.REJECT_SNAPSHOT)
