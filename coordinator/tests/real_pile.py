"""A chain that knows one pile, run by the real agent: its contracts, its configuration, and what becomes of its proofs."""

import itertools
from pathlib import Path

from world import Market, key

from pile_coordinator.chain.records import Contract, Pile
from pile_coordinator.chain.settlement import Statement, decode_statement
from pile_coordinator.chain.transactions import Confirm, RegisterPile
from pile_edge.config_file import load_config
from pile_edge.settings import Settings
from pile_hil.peer import Chain, session_message
from pile_shared.platform import sha256
from pile_shared.proof import Proof, parse

PILE = "pile-1"
SERIAL = "12345678"
RATED_W = 7000
BATCH_BYTES = 50_000  # of proofs in one transaction


class RealPile(Market):
    """`told` makes the certificates the pile checks; what they say is the chain's own state.

    Attributes:
        outcomes: what became of every proof ever handed in, with its sequence.
        admitted: the admitted proofs, in order.
    """

    def __init__(self, **params: object) -> None:
        super().__init__(**params)  # type: ignore[arg-type]
        self.told = Chain(self.chain_id, (1,))
        self.outcomes: list[str] = []
        self.admitted: list[Proof] = []

    def pile(self, name: str, owner: str, zone: str = "north", power: int = RATED_W) -> RegisterPile:
        return RegisterPile(name, owner, key(name).public, "B23", SERIAL, zone, power)

    def agree(self, start_ms: int, end_ms: int, energy_wh: int) -> Contract:
        """A new contract for a window."""
        known = {contract.id for contract in self.state.each(Contract)}
        self.offer(energy=energy_wh, start=start_ms, end=end_ms)
        self.bid(energy=energy_wh, start=start_ms, end=end_ms)
        self.ok()
        (contract,) = [one for one in self.state.each(Contract) if one.id not in known]
        return contract

    def contract_message(self, contract: Contract) -> bytes:
        return self.told.contract(self.state.terms_of(contract))

    def session_message(self, contract: Contract, action: int, time_ms: int) -> bytes:
        return session_message(key("user-1"), self.chain_id, contract.id, action, time_ms)

    def receipt_message(self) -> bytes:
        """What the chain has of the pile's proofs."""
        pile = self.state.get(Pile, PILE)
        return self.told.receipt(PILE, pile.last_sequence, pile.last_hash)

    def take(self, messages: list[bytes], time_ms: int) -> None:
        """Hand proofs in as a coordinator does: in the order they came, duplicates and all."""
        batch: list[bytes] = []
        for message in [*messages, b""]:
            if batch and (not message or len(batch) == 200 or sum(map(len, batch)) + len(message) > BATCH_BYTES):
                outcomes = [str(one) for one in self.submit(*batch, time_ms=time_ms)]
                self.outcomes += outcomes
                self.admitted += [
                    parse(one)[1] for one, outcome in zip(batch, outcomes, strict=True) if outcome == "admitted"
                ]
                batch = []
            batch.append(message)

    def check(self) -> None:
        """Every proof once, in order, and nothing that the chain holds against the pile."""
        assert set(self.outcomes) <= {"admitted", "duplicate"}, set(self.outcomes)
        assert [proof.sequence for proof in self.admitted] == list(range(1, len(self.admitted) + 1))
        pile = self.state.get(Pile, PILE)
        assert (pile.anomaly, pile.admitted) == ("", len(self.admitted)), [
            (one.sequence, one.event, one.reason, [(x.time_ms, x.energy_wh) for x in one.readings])
            for one in self.admitted[-8:]
        ] + [pile]
        ends = [(proof.readings[0], proof.readings[-1]) for proof in self.admitted if proof.readings]
        for (_, before), (after, _) in itertools.pairwise(ends):
            assert (before.time_ms, before.energy_wh) <= (after.time_ms, after.energy_wh)

    def settle(self, contract: Contract) -> int:
        """Both parties confirm a measured contract, which frees the pile; the Wh they agree on."""
        statement = decode_statement(contract.statement)
        for party in ("user-1", "owner-1"):
            self.send(party, Confirm(contract.id, statement.digest()))
        self.ok()
        return statement.measured_wh

    def statement(self, contract: Contract) -> Statement:
        """The settlement of a measured contract."""
        return decode_statement(self.state.get(Contract, contract.id).statement)

    def settings_file(self, folder: Path, *, journal: str, timing: str = "", link: str = "port = 1883") -> Path:
        """Configuration and key of the pile."""
        secret = folder / "pile.key"
        secret.write_bytes(sha256(PILE.encode()))
        secret.chmod(0o600)
        (one,) = self.told.validators
        path = folder / "pile.toml"
        path.write_text(
            f'chain_id = "{self.chain_id}"\npile_id = "{PILE}"\nsigner = "file:pile.key"\n'
            f'[[validators]]\nparty = "{one.party}"\npublic = "{one.public.hex()}"\npower = {one.power}\n'
            f'[mqtt]\nhost = "127.0.0.1"\n{link}\n'
            '[bus]\nkind = "tcp"\nhost = "127.0.0.1"\nport = 502\n'
            f'[meter]\nprofile = "abb-b23"\nunit = 1\nserial = "{SERIAL}"\nrated_power_w = {RATED_W}\n'
            f'[control]\nkind = "coil"\nunit = 2\ncoil = 0\n[timing]\n{timing}\n[journal]\npath = "journal"\n{journal}\n'
        )
        return path

    def settings(self, folder: Path, **sections: str) -> Settings:
        return load_config(self.settings_file(folder, **sections))
