"""A site's folder: its files, and a folder for each who has a certificate, to be handed over as it is.

site.toml         where clients meet the broker, and where the authority is
genesis.json, coordinator.toml, web.toml, keys/, data/
authority/        says who is who; may be kept elsewhere (--authority)
broker/           mosquitto's configuration, certificate, access list, CRL, and what it keeps
piles/ID/         ca.crt, tls.crt, tls.key, operator.toml; as .der for boards
users/PARTY/      the same for a wallet: wallet.toml, genesis.json, user.crt, ...
coordinators/, workers/, fleets/, watchers/, guests/
"""

import datetime as dt
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.config import Section, load_genesis, load_toml
from pile_coordinator.mqtt import Broker, Tls
from pile_coordinator.site import broker
from pile_coordinator.site.access import COORDINATOR, EVERYBODY, GUEST, PILE, SITE, USER, Name, access_list, parse_name
from pile_coordinator.site.authority import CLIENT, DAYS, Authority, AuthorityError, Entry, write_secret
from pile_shared.errors import LinkError
from pile_shared.topics import own_client_id

SITE_FILE = "site.toml"
_GUEST = Name(GUEST, EVERYBODY)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a revocation.

    Attributes:
        entries: the certificates. told: what became of telling the broker. ended: whether a connection under the client id that
        our own software takes was ended. Any other hears and says nothing more, and ends when the broker is started again.
    """

    entries: list[Entry]
    told: broker.Told
    ended: bool


@dataclass(frozen=True, slots=True)
class SiteFolder:
    """A site. Paths are absolute.

    Attributes:
        folder: of the site. hosts: under which clients meet the broker, the first being what they are told. port: its port.
        listen: the address at which it listens. authority: its folder. genesis: of the chain.
    """

    folder: Path
    hosts: tuple[str, ...]
    port: int
    listen: str
    authority: Path
    genesis: Genesis

    @classmethod
    def open(cls, folder: Path, authority: Path | None = None) -> Self:
        """The site in a folder, with its authority elsewhere if that is said; ConfigError naming file, key and form."""
        folder = folder.resolve()
        path = folder / SITE_FILE
        top = Section(path, "", load_toml(path))
        hosts = top.take(
            "hosts", list, "a list of host names", ok=lambda v: bool(v) and all(isinstance(h, str) for h in v)
        )
        port = top.take("port", int, "a port from 1 to 65535", ok=lambda v: 1 <= v <= 65_535)
        listen = top.take("listen", str, "an address", ok=bool)
        found = folder / top.take("authority", str, "the path of the authority's folder", ok=bool)
        top.end()
        genesis = load_genesis(folder / "genesis.json")
        return cls(folder, tuple(hosts), port, listen, authority.resolve() if authority else found, genesis)

    def write(self) -> None:
        """Write the site's file."""
        authority = self.authority
        if authority.is_relative_to(self.folder):
            authority = authority.relative_to(self.folder)
        (self.folder / SITE_FILE).write_text(
            "# Made by `pilechain init site`; `pilechain site` reads it.\n"
            f"hosts = {json.dumps(list(self.hosts))}  # of the broker; certificates of clients are handed out with the first\n"
            f"port = {self.port}\nlisten = {json.dumps(self.listen)}\nauthority = {json.dumps(str(authority))}\n"
        )

    # --- certificates --------------------------------------------------------------------------------------------

    def add(self, name: Name, *, days: int = DAYS) -> Path:
        """Issue a first certificate; the folder to hand over. Raises as `add_all`."""
        return self.add_all([name], days=days)[0]

    def add_all(self, names: Sequence[Name], *, days: int = DAYS) -> list[Path]:
        """Issue first certificates; the folders to hand over. The broker is told once.

        Raises:
            AuthorityError: `exists`, one has a good one; `standing`, one was revoked since the broker was started. Then nobody
                gets any.
        """
        authority = Authority.open(self.authority)
        issued = authority.issued()
        good = self._good(issued)
        for name in names:
            if name in good:
                raise AuthorityError(f"{name} has a certificate: renew it, or revoke it first", "exists")
            self._check_standing(name, issued)
        folders = [self._issue(authority, name, days) for name in dict.fromkeys(names)]
        self.apply(authority)
        return folders

    def renew(self, name: Name, *, days: int = DAYS) -> Path:
        """Issue the next certificate; the folder to hand over. The last one stays good until it ends or is revoked.

        Raises:
            AuthorityError: `unknown_name`, there is none that is good.
        """
        authority = Authority.open(self.authority)
        if name not in self._good(authority.issued()):
            raise AuthorityError(f"{name} has no good certificate: `add` makes one", "unknown_name")
        folder = self._issue(authority, name, days)
        self.apply(authority)
        return folder

    def _check_standing(self, name: Name, issued: Sequence[Entry]) -> None:
        """A connection of a thief that stands is mute, and would not be any more if its name had rights again."""
        revoked = [entry.revoked for entry in issued if entry.name == str(name) and entry.revoked]
        since = broker.started(self.broker)
        if revoked and since is not None and since <= max(revoked) + dt.timedelta(seconds=1):
            raise AuthorityError(
                f"a connection of the certificate of {name} that was revoked may stand still: start the broker again (what it"
                " keeps for those who are away is kept), and then add",
                "standing",
            )

    def renew_server(self, *, days: int = DAYS) -> broker.Told:
        """Give the broker a new certificate."""
        self.issue_server(Authority.open(self.authority), days)
        return broker.tell(self.broker)

    def revoke(self, name: Name) -> Revoked:
        """Revoke all certificates of a name, tell the broker, and end the connections that stand.

        Raises:
            AuthorityError: `unknown_name`, there is none to be revoked.
        """
        authority = Authority.open(self.authority)
        entries = authority.revoke(str(name))
        told = self.apply(authority)
        return Revoked(entries, told, told.done and self._end(authority, name, entries))

    def apply(self, authority: Authority | None = None) -> broker.Told:
        """Write the broker's access list and CRL from what the authority has issued and revoked, and tell the broker."""
        authority = authority or Authority.open(self.authority)
        issued = authority.issued()
        good = self._good(issued)
        gone = {parse_name(entry.name) for entry in issued if entry.revoked and entry.kind == CLIENT} - good - {None}
        text = access_list(self.genesis.chain_id, good, [name for name in gone if name is not None])
        write_secret(self.broker / "ca.crt", authority.pem)
        write_secret(self.broker / "ca.crl", authority.crl.read_bytes())
        write_secret(self.broker / "acl", text.encode())
        return broker.tell(self.broker)

    def issue_server(self, authority: Authority, days: int) -> None:
        """The broker's own certificate, for its hosts and for this machine."""
        here = ["localhost", "127.0.0.1", *([] if self._listens_everywhere else [self.listen])]
        authority.issue_server(list(dict.fromkeys([*self.hosts, *here])), days=days).write(self.broker, "server")

    # --- what is where -------------------------------------------------------------------------------------------

    @property
    def broker(self) -> Path:
        """The broker's folder."""
        return self.folder / "broker"

    def tls(self, name: Name) -> Tls:
        """The files with which somebody who has a certificate meets the broker."""
        folder = self.folder / name.folder
        return Tls(folder / "ca.crt", folder / f"{name.stem}.crt", folder / f"{name.stem}.key")

    def mqtt(self, name: Name, *, here: bool = False, below: str = "") -> str:
        """The table [mqtt] of a configuration whose TLS files are in the folder `below`; `here`: on the broker's machine."""
        stem = name.stem
        files = {"ca": f"{below}ca.crt", "cert": f"{below}{stem}.crt", "key": f"{below}{stem}.key"}
        tls = ", ".join(f"{key} = {json.dumps(file)}" for key, file in files.items())
        host = self._near_host if here else self.hosts[0]
        return f"[mqtt]\nhost = {json.dumps(host)}\nport = {self.port}\ntls = {{ {tls} }}\n"

    @property
    def _listens_everywhere(self) -> bool:
        return self.listen in {"0.0.0.0", "::"}  # noqa: S104 - looked for, not listened at

    @property
    def _near_host(self) -> str:
        return "127.0.0.1" if self._listens_everywhere else self.listen

    def _good(self, issued: Sequence[Entry]) -> set[Name]:
        names = {parse_name(entry.name) for entry in issued if entry.kind == CLIENT and not entry.revoked}
        return {name for name in names if name is not None}

    # --- handing over --------------------------------------------------------------------------------------------

    def _issue(self, authority: Authority, name: Name, days: int) -> Path:
        folder = self.folder / name.folder
        authority.issue_client(str(name), days=days).write(folder, name.stem, boards=name.kind == PILE)
        _hand_over(folder / "ca.crt", authority.pem)
        if name.kind == PILE:
            _hand_over(folder / "ca.crt.der", authority.der)
            _hand_over(folder / "operator.toml", self._operators_part(name).encode())
        elif name.kind == USER:
            _hand_over(folder / "genesis.json", (self.folder / "genesis.json").read_bytes())
            self._admit_guest(name)
        elif name.kind == GUEST:
            for user in sorted((self.folder / "users").glob("*/user.crt")):
                self._admit_guest(Name(USER, user.parent.name))
        else:
            _hand_over(folder / "mqtt.toml", self.mqtt(name).encode())
        return folder

    def _operators_part(self, pile: Name) -> str:
        """What `pile-edge provision --operator` takes."""
        lines = ["# Of your operator: for `pile-edge provision`, with the certificates beside it.", ""]
        lines += [f"chain_id = {json.dumps(self.genesis.chain_id)}", ""]
        for validator in self.genesis.validators:
            lines += ["[[validators]]", f"party = {json.dumps(validator.party)}"]
            lines += [f'public = "{validator.public.hex()}"', f"power = {validator.power}", ""]
        return "\n".join(lines) + "\n" + self.mqtt(pile)

    def _admit_guest(self, user: Name) -> None:
        """Write a wallet's profile, with the certificate of guests if there is one."""
        folder, source = self.folder / user.folder, self.folder / _GUEST.folder
        has_guests = (source / "guest.key").exists()
        text = (
            f'genesis = "genesis.json"\nparty = {json.dumps(user.id)}\nkey = {json.dumps(user.id + ".key")}\n\n'
            + self.mqtt(user)
        )
        if has_guests:
            for file in ("guest.crt", "guest.key"):
                _hand_over(folder / file, (source / file).read_bytes())
            text += '\n[guest]\ncert = "guest.crt"\nkey = "guest.key"\n'
        _hand_over(folder / "wallet.toml", text.encode())

    # --- ending --------------------------------------------------------------------------------------------------

    def _end(self, authority: Authority, name: Name, entries: Sequence[Entry]) -> bool:
        """End the connections that our own software makes with certificates; whether that was done."""
        if name.kind == PILE:
            stems = [f"pile-{name.id}"]
        elif name.kind == COORDINATOR:
            stems = [f"coordinator-{party}-{self.genesis.chain_id}" for party, _, _ in self.genesis.parties]
        else:
            return False  # client ids of wallets and tools are random
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            authority.issue_client(f"{SITE}:commands", days=1).write(folder, SITE)
            write_secret(folder / "ca.crt", authority.pem)
            tls = Tls(folder / "ca.crt", folder / f"{SITE}.crt", folder / f"{SITE}.key")
            here = Broker(self._near_host, self.port, tls=tls)
            try:
                for certificate in map(authority.certificate_of, entries):
                    for stem in stems:
                        broker.kick(here, own_client_id(stem, certificate))
            except LinkError:
                return False
        return True


def _hand_over(path: Path, data: bytes) -> None:
    write_secret(path, data, durable=False)  # what a power cut takes is issued again
