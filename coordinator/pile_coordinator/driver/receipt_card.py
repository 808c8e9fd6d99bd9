"""The receipt of a closed order: what was paid to whom, checked here against the certificate, and a QR code that names it."""

from collections.abc import Callable

import segno
from nicegui import ui

from pile_coordinator.chain.contracts import UNSIGNED
from pile_coordinator.chain.settlement import USER
from pile_coordinator.driver.frame import card, chip, note, tag
from pile_coordinator.driver.receipt import Proven
from pile_coordinator.driver.session import Row
from pile_coordinator.driver.view import View, large_button
from pile_coordinator.verify import VerifyError
from pile_shared.errors import LinkError, PilechainError

_RETRY_S = 2.0


def show(view: View, found: Row, settlement: Callable[..., None]) -> None:
    """Build it; amounts are shown when the certificate proves them, and by the coordinator's word until then."""
    with card(view.text("receipt")).props("data-test=receipt"):
        with ui.element("div").classes("pd-top"):
            tag("div", view.text("paid_to", owner=found["owner"], pile=found["pile"]), "pd-mid")
            chip(view.state(found["phase"]), found["phase"])
        place = ui.element("div").classes("pd-stack")
    if found["phase"] == UNSIGNED:  # nothing was ever agreed, so nothing is certified
        with place:
            settlement(view, found)
        return
    with place:
        tag("p", view.text("checking"), "pc-soft")

    async def check() -> None:
        try:
            proven = await view.clerk.look(view.driver.proven, found["id"])
        except LinkError:
            return  # the banner says so; asked again in a moment
        except PilechainError as error:
            if not isinstance(error, VerifyError) and error.code == "no_evidence":
                return
            timer.cancel()
            _broken(view, place, found, settlement, error)
            return
        timer.cancel()
        if not place.is_deleted:
            place.clear()
            with place:
                _proven(view, found, settlement, proven)

    timer = ui.timer(_RETRY_S, check)


def _broken(view: View, place: ui.element, found: Row, settlement: Callable[..., None], error: PilechainError) -> None:
    """What the coordinator says, and loudly that it does not prove it."""
    if place.is_deleted:
        return
    place.clear()
    with place:
        tag("p", view.text("not_verified", reason=str(error)), "pc-banner").props("role=alert")
        settlement(view, found)


def _proven(view: View, found: Row, settlement: Callable[..., None], proven: Proven) -> None:
    verified = proven.verified
    statement, verdict = verified.statement, verified.statement.verdict
    certified = found | {
        "measured_wh": statement.measured_wh,
        "cause": statement.cause,
        "postings": [[p.debit, p.credit, p.amount_micro] for p in statement.postings],
        "price_micro_per_kwh": verified.terms.price_micro_per_kwh,
        "owner": verified.terms.owner,
    }
    is_own = verdict is not None and verdict.objector == USER and verified.terms.user == view.driver.wallet.party
    settlement(view, certified, bond_micro=verdict.bond_micro if is_own and verdict else 0)
    with ui.element("div").classes("pd-stack").props("data-test=verified"):
        span = {"first": verified.signed_height, "last": verified.closed_height}
        tag("p", "✓ " + view.text("verified", proofs=verified.proofs, **span), "pd-good").style("margin:0")
        _qr(view, proven.receipt.text())
        note(view.text("qr", height=proven.receipt.height))
        tag("div", f"pilechain verify {file_name(found['id'])} --receipt '{proven.receipt.text()}'", "pd-code")
        size = f"{-(-len(proven.data) // 1000)} kB"
        path = f"/order/{found['id'].hex()}/certificate"
        large_button(view.text("download", size=size), lambda: ui.navigate.to(path), test="download")


def _qr(view: View, text: str) -> None:
    """Error correction M (15 %): a screen is read in one go, and the code stays small."""
    image = ui.element("img").props(f'alt="{view.text("qr_alt")}" data-test=qr')
    image._props["src"] = segno.make(text, error="m", micro=False).svg_data_uri(border=4)  # noqa: SLF001 - props() would split it
    box = ui.element("div").classes("pd-qr")
    image.move(box)


def file_name(contract: bytes) -> str:
    """Of a certificate that is downloaded."""
    return f"order-{contract.hex()[:12]}.cbor"
