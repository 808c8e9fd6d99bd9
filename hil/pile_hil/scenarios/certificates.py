"""Certificates that end, are revoked, are somebody else's or are renewed, in the middle of a session on a site with TLS."""

from collections.abc import Callable
from pathlib import Path

from pile_coordinator.site.access import PILE, Name
from pile_coordinator.site.broker import tell
from pile_coordinator.site.folder import SiteFolder
from pile_hil.faults.certificates import expire, of_stranger, postpone
from pile_hil.scenarios.registry import scenario
from pile_hil.trials.facts import OrderFacts
from pile_hil.trials.trial import Trial

NEEDS = ("local-pile", "cpython", "broker-tls")
CONNECTED = "connected, head"


def _begin(trial: Trial) -> tuple[OrderFacts, SiteFolder]:
    """A session under way on a site with TLS."""
    trial.bench.tls = True
    trial.open()
    access = trial.site.access
    assert access is not None  # it has TLS
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 4)
    return order, access


def _restart(trial: Trial) -> int:
    """Let the agent read its files again; how often it had connected until then."""
    trial.agent().stop()
    before = trial.agent().log().count(CONNECTED)
    trial.agent().start()
    return before


def _is_refused(trial: Trial, spoil: Callable[[Path, Path, Path], None]) -> None:
    """With a spoilt certificate the pile is not let in, charges on, and delivers everything when it has a good one."""
    order, access = _begin(trial)
    files = access.tls(Name(PILE, trial.pile))
    assert files.certificate is not None
    assert files.key is not None
    good = files.certificate.read_bytes(), files.key.read_bytes()
    spoil(access.authority, files.certificate, files.key)
    before = _restart(trial)
    trial.note("the certificate is no good")
    trial.await_said(" end ")
    assert trial.agent().log().count(CONNECTED) == before, "a pile with a bad certificate was let in"
    files.certificate.write_bytes(good[0])
    files.key.write_bytes(good[1])
    _restart(trial)
    trial.note("the certificate is good")
    trial.finish(order)


@scenario("certificate-expired", fault="a pile's certificate has expired", needs=NEEDS)
def certificate_expired(trial: Trial) -> None:
    """The pile's certificate is over: the broker refuses it until there is a new one, and its session goes on meanwhile."""
    _is_refused(trial, lambda authority, certificate, _: expire(authority, certificate))


@scenario("certificate-early", fault="a pile's certificate is not yet valid", needs=NEEDS)
def certificate_early(trial: Trial) -> None:
    """The pile's certificate begins tomorrow: the broker refuses it, and its session goes on meanwhile."""
    _is_refused(trial, lambda authority, certificate, _: postpone(authority, certificate))


@scenario("certificate-stranger", fault="a pile's certificate is by another authority", needs=NEEDS)
def certificate_stranger(trial: Trial) -> None:
    """The pile shows a certificate with its own name by an authority that the broker does not know."""
    _is_refused(trial, lambda _, certificate, key: of_stranger(trial.folder / "stranger", certificate, key))


@scenario("certificate-revoked", fault="a pile's certificate is revoked while it is connected", needs=NEEDS)
def certificate_revoked(trial: Trial) -> None:
    """The pile's certificate is revoked in mid-session: its connection ends, it is not let in again, until it gets another."""
    order, access = _begin(trial)
    name = Name(PILE, trial.pile)
    before = trial.agent().log().count(CONNECTED)
    access.revoke(name)
    trial.note("the certificate is revoked")
    trial.await_said(" end ")
    assert trial.agent().log().count(CONNECTED) == before, "a pile with a revoked certificate was let in"
    trial.power("broker").cycle()  # before that its name gets none: a thief's connection may stand
    access.add(name)
    _restart(trial)
    trial.note("there is another certificate")
    trial.finish(order)


@scenario(
    "certificate-renewed", fault="a pile's certificate is renewed in a session, and the old one revoked", needs=NEEDS
)
def certificate_renewed(trial: Trial) -> None:
    """The pile gets its next certificate in mid-session, goes on with it, and nothing is lost."""
    order, access = _begin(trial)
    access.renew(Name(PILE, trial.pile))
    before = _restart(trial)
    trial.note("the certificate is renewed")
    trial.wait(lambda: trial.agent().log().count(CONNECTED) > before, "the pile to connect with it")
    trial.finish(order)


@scenario("certificate-broker-expired", fault="the broker's certificate has expired", needs=NEEDS)
def certificate_broker_expired(trial: Trial) -> None:
    """The broker's certificate is over: the pile does not talk to it, and does again when it has been renewed."""
    order, access = _begin(trial)
    expire(access.authority, access.broker / "server.crt")
    tell(access.broker)
    before = _restart(trial)
    trial.note("the broker's certificate is no good")
    trial.await_said(" end ")
    assert trial.agent().log().count(CONNECTED) == before, "a pile believed an expired certificate"
    access.renew_server()
    trial.power("broker").cycle()  # mosquitto 2.0.11 does not answer some who come just after those that turned away
    trial.note("the broker's certificate is renewed")
    trial.finish(order)
