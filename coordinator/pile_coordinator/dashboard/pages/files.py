"""What one takes away of an order: its certificate, how to check it, and the formats of others."""

from typing import Any

from pile_coordinator.chain.contracts import UNSIGNED
from pile_coordinator.dashboard import details
from pile_coordinator.dashboard.downloads import PREFIX
from pile_coordinator.dashboard.shell import View
from pile_coordinator.exports.order import read_order
from pile_coordinator.web.access import COSTS
from pile_coordinator.web.exporting import CDR, CERTIFICATE, FORMATS, OF_RECORDS, SUFFIXES
from pile_coordinator.web.problems import Refused
from pile_shared.errors import PilechainError


def show_files(view: View, row: dict[str, Any]) -> None:
    """The files of a contract, as far as there are any and the caller may have them."""
    contract = row["id"]
    if row["state"] != "closed":
        details.words("p", view.text("files.open"), "pc-note")
        return
    if row["outcome"] == UNSIGNED:
        details.words("p", view.text("files.unsigned"), "pc-note")
        return
    if view.grant_of("certificate") is None or view.web.certificates is None:
        details.words("p", view.text("files.none"), "pc-note")
        return
    with details.element("div", "pc-files"):
        _download(view.text("files.certificate"), f"/v1/contracts/{contract}/certificate", f"{contract}.cbor")
        for form in _formats(view):
            _download(
                view.word("format", form), f"/v1/contracts/{contract}/exports/{form}", f"{contract}.{SUFFIXES[form]}"
            )
    details.words("p", view.text("files.verify"), "pc-note")
    details.words(
        "div", f"pilechain verify {contract}.cbor --genesis genesis.json", "pc-code", **{"data-test": "verify"}
    )
    _verify_here(view, contract)


def _download(text: str, path: str, name: str) -> None:
    details.words("a", text, "pc-button", href=PREFIX + path, download=name)


def _formats(view: View) -> list[str]:
    """Other formats, as far as the server has what they take."""
    config = view.web.config
    lacking = (set() if config.ocmf else OF_RECORDS) | (set() if config.operator else {CDR})
    shown = view.grant_of("export") is not None
    return [form for form in FORMATS if form not in lacking | {CERTIFICATE}] if shown else []


def _verify_here(view: View, contract: str) -> None:
    """A button that has this server do what the command does."""
    button = details.words("button", view.text("files.now"), "pc-button", type="button").style("margin-top:8px")
    told = details.words("p", "", "pc-note", **{"data-test": "verified", "role": "status"})

    async def verify() -> None:
        button.props("disabled")
        try:
            text, tone = await view.ask(_verify, view, contract), "pc-ok"
        except (Refused, PilechainError) as error:
            text, tone = view.text("files.broken", reason=error.message), "pc-no"
        told.text = text  # type: ignore[attr-defined]
        told.classes(replace=f"pc-note {tone}")
        button.props(remove="disabled")

    button.on("click", verify)


def _verify(view: View, contract: str) -> str:
    web, token = view.web, view.grant.token
    wait_s = web.limit.take(f"token {token.id}", COSTS["certificate"])
    if wait_s:
        return view.text("refused.429", seconds=wait_s)
    assert web.certificates is not None
    assert web.config.genesis is not None
    order = read_order(web.certificates.make(bytes.fromhex(contract)), web.config.genesis)
    size_kb = len(order.certificate) // 1000 + 1
    return view.text("files.holds", proofs=len(order.session), size_kb=size_kb)
