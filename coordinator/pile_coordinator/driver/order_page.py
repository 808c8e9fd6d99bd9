"""One order, from its place in the queue to its receipt: what it is doing, what it costs, and what the driver may do now."""

from typing import cast

from nicegui import ui

from pile_coordinator.amounts import parse_money
from pile_coordinator.chain import orders
from pile_coordinator.chain.records import ACTIVE, DISPUTED, MEASURED, PROPOSED, SIGNED
from pile_coordinator.chain.settlement import ESCROW, USER
from pile_coordinator.driver import receipt_card
from pile_coordinator.driver.frame import card, chip, note, rows, tag
from pile_coordinator.driver.session import Row, Story
from pile_coordinator.driver.view import View, large_button
from pile_coordinator.wallet import START, STOP
from pile_shared.units import cost_micro

MAX_TEXT = 200  # of an objection (transactions.Object)
HOUR_MS = 3_600_000


def show(view: View, order: bytes) -> None:
    """Build it."""
    view.follow(view.driver.story, lambda story: _content(view, story), order)
    tag("div", f"{view.text('order')} {order.hex()}", "pd-id")


def _content(view: View, story: Story) -> None:
    if len(story.contracts) > 1:
        _split(view, story.contracts)
    elif story.contracts:
        found = story.contracts[0]
        _CARDS.get(found["phase"], _closed)(view, found, story)
    elif story.bid:
        _resting(view, story.bid)
    else:
        _ended(view, story.ended)


def _split(view: View, contracts: list[Row]) -> None:
    with card():
        tag("p", view.text("split_say")).style("margin:0")
        for found in contracts:
            with ui.link(target=f"/order/{found['id'].hex()}").classes("pd-item"):
                tag("b", found["pile"])
                chip(view.state(found["phase"]), found["phase"])
                tag("small", f"{view.energy(found['energy_wh'])} · {view.price(found['price_micro_per_kwh'])}")


def _top(view: View, title: str, state: str) -> None:
    with ui.element("div").classes("pd-top"):
        tag("div", title, "pd-mid")
        chip(view.state(state), state)


def _window(view: View, row: Row) -> tuple[str, str]:
    return view.text("window"), view.span(row["window_start_ms"], row["window_end_ms"])


def _paid(view: View) -> tuple[str, str]:
    """This page orders by account only."""
    return view.text("paid"), view.text("named")


def _terms(view: View, found: Row) -> list[tuple[str, str]]:
    return [
        (view.text("ordered"), view.energy(found["energy_wh"])),
        (view.text("price"), view.price(found["price_micro_per_kwh"])),
        (view.text("most"), view.money(found["escrow_micro"])),
        _paid(view),
        _window(view, found),
    ]


# --- before there is a contract ------------------------------------------------------------------------------------------


def _resting(view: View, bid: Row) -> None:
    with card():
        _top(view, bid["pile"] or f"{bid['zone']} · {view.text('any_pile')}", "resting")
        price = view.price(bid["limit_micro_per_kwh"])
        tag("p", view.text("resting_say", price=price, time=view.time(bid["expires_ms"]))).style("margin:0")
        facts = [
            (view.text("energy"), view.energy(bid["energy_wh"])),
            (view.text("most"), view.money(bid["hold_micro"])),
        ]
        rows([*facts, _paid(view), _window(view, bid)])

        async def cancel() -> None:
            if await view.sure(view.text("cancel_sure"), view.text("cancel")):
                await view.clerk.do(view.driver.cancel, bid["id"])

        view.button(view.text("cancel"), cancel, test="cancel")


def _ended(view: View, ended: Row | None) -> None:
    with card():
        if ended is None:
            _top(view, view.text("order"), "unknown")
            tag("p", view.text("open_say")).style("margin:0")
            return
        _top(view, view.text("order"), ended["outcome"])
        if ended["outcome"] != "filled":
            tag("p", view.text("ended_say")).style("margin:0")
        rows([(view.text("energy"), view.energy(ended["energy_wh"]))])
        large_button(view.text("new"), lambda: ui.navigate.to("/new"))


# --- a contract ----------------------------------------------------------------------------------------------------------


def _proposed(view: View, found: Row, story: Story) -> None:
    with card():
        _top(view, found["pile"], PROPOSED)
        is_mine = view.driver.wallet.party in found["awaits"]
        key = "proposed_say" if is_mine else "proposed_wait"
        tag("p", view.text(key, owner=found["owner"], time=view.time(found["deadline_ms"]))).style("margin:0")
        rows(_terms(view, found))
        if is_mine:
            view.button(view.text("sign"), lambda: view.clerk.do(view.driver.sign, found["id"]), main=True, test="sign")
        _call_off(view, found, story)


def _signed(view: View, found: Row, story: Story) -> None:
    with card():
        _top(view, found["pile"], SIGNED)
        is_early = story.time_ms + 60_000 <= found["window_start_ms"]
        agreed = cost_micro(found["energy_wh"], found["price_micro_per_kwh"])
        no_show = agreed * view.params.no_show_permille // 1000 + found["fee_micro"]
        until = view.time(found["deadline_ms"])
        if story.commanded == START:
            _busy(view.text("starting", pile=found["pile"]), view.text("start_again"))
        elif is_early:
            tag("p", view.text("signed_early", pile=found["pile"], time=view.time(found["window_start_ms"]))).style(
                "margin:0"
            )
        else:
            tag("p", view.text("signed_say", pile=found["pile"], time=until, cost=view.money(no_show))).style(
                "margin:0"
            )
        if not is_early:
            view.button(
                view.text("start"), lambda: view.clerk.do(view.driver.start, found["id"]), main=True, test="start"
            )
        rows(_terms(view, found))
        _call_off(view, found, story)


def _call_off(view: View, found: Row, story: Story) -> None:
    until_ms = found["window_start_ms"] - view.params.cancel_cutoff_ms
    if story.time_ms + 60_000 >= until_ms:
        return

    async def call_off() -> None:
        told = view.text("call_off_sure", fee=view.money(found["fee_micro"]), time=view.time(until_ms))
        if await view.sure(told, view.text("call_off")):
            await view.clerk.do(view.driver.call_off, found["id"])

    view.button(view.text("call_off"), call_off, test="call_off")


def _busy(text: str, more: str = "") -> None:
    with ui.element("div").style("display:flex;gap:12px;align-items:center").props("data-test=busy"):
        ui.spinner(size="22px")
        tag("span", text)
    if more:
        note(more)


def _active(view: View, found: Row, story: Story) -> None:
    metered, wanted = found["measured_wh"], found["energy_wh"]
    with card():
        _top(view, found["pile"], ACTIVE)
        with ui.element("div"):
            tag("div", view.energy(metered), "pd-big").props("data-test=metered")
            tag("div", f"{view.text('energy_so_far')}, {view.text('of_energy', energy=view.energy(wanted))}", "pc-soft")
        with ui.element("div").classes("pd-bar"):
            ui.element("div").style(f"width:{min(100, 100 * metered // wanted)}%")
        cost = cost_micro(metered, found["price_micro_per_kwh"]) + found["fee_micro"]
        shown = [
            (view.text("cost_so_far"), view.money(cost)),
            (view.text("price"), view.price(found["price_micro_per_kwh"])),
        ]
        if found["began_ms"]:
            shown += [(view.text("since"), _span(found["proven_ms"] - found["began_ms"]))]
            shown += [(view.text("last_proof"), view.clock(found["proven_ms"]))]
        rows(shown)
        if story.commanded == STOP:
            _busy(view.text("stopping", pile=found["pile"]))
        else:
            view.button(view.text("stop"), lambda: _stop(view, found), test="stop")


async def _stop(view: View, found: Row) -> None:
    if await view.sure(view.text("stop_sure"), view.text("stop")):
        await view.clerk.do(view.driver.stop, found["id"])


def _span(ms: int) -> str:
    minutes = ms // 60_000
    return f"{minutes // 60}:{minutes % 60:02d} h"


# --- its settlement ------------------------------------------------------------------------------------------------------


def paid_micro(found: Row, bond_micro: int = 0) -> int:
    """What a contract costs its user by its postings; `bond_micro` is what the user put up to object, if so."""
    postings = cast("list[tuple[str, str, int]]", found["postings"])
    back = sum(amount for _, credit, amount in postings if credit == USER)
    spent = sum(amount for debit, _, amount in postings if debit == USER)
    return cast("int", found["escrow_micro"]) + bond_micro + spent - back


def settlement(view: View, found: Row, *, bond_micro: int = 0) -> None:
    """The metered energy, how far it is from what was ordered and why, every amount, and the sum."""
    shown: list[tuple[str, str]] = []
    if found["measured_wh"] is not None and found["began_ms"]:
        tolerance = orders.tolerance_wh(view.params, found["energy_wh"])
        beyond = found["measured_wh"] - found["energy_wh"]
        key = "within" if abs(beyond) <= tolerance else "beyond"
        sign = "+" if beyond > 0 else ""
        told = view.text(key, energy=sign + view.energy(beyond), tolerance=view.energy(tolerance))
        shown += [
            (view.text("metered"), view.energy(found["measured_wh"])),
            (view.text("ordered"), view.energy(found["energy_wh"])),
            (view.text("deviation"), told),
        ]
    shown += [(view.text("cause"), view.word("cause", found["cause"]))]
    shown += [(view.text("price"), view.price(found["price_micro_per_kwh"])), _paid(view)]
    rows(shown)
    rows(_amounts(view, found, own_bond=bool(bond_micro)))
    total, is_over = paid_micro(found, bond_micro), found["phase"] not in {MEASURED, DISPUTED}
    with ui.element("div").classes("pd-total"):
        tag("span", view.text("you_get" if total < 0 else "you_paid" if is_over else "you_pay"))
        tag("b", view.money(abs(total)), "pd-mid").props("data-test=total")
    back = sum(amount for debit, credit, amount in found["postings"] if (debit, credit) == (ESCROW, USER))
    escrow = view.money(found["escrow_micro"])
    note(view.text("returned" if is_over else "returns", escrow=escrow, returned=view.money(back)))


def _amounts(view: View, found: Row, *, own_bond: bool) -> list[tuple[str, str]]:
    """The postings that a driver pays (as they are) or is paid (with a minus); what merely comes back is not one."""
    shown, seen = [], set()
    for debit, credit, amount in found["postings"]:
        pair = debit + credit
        if pair in {"EU", "BH"} or (pair == "DU" and own_bond):
            continue
        key = "EHD" if pair == "EH" and pair in seen else pair  # the second is what a lost dispute costs
        seen.add(pair)
        is_income = credit in {USER, ESCROW}
        text = (
            view.text(f"posting.{key}", owner=found["owner"]) if view.knows(f"posting.{key}") else f"{debit} → {credit}"
        )
        if debit in {ESCROW, USER} or is_income or own_bond:
            shown.append((text, ("−" if is_income else "") + view.money(amount)))  # noqa: RUF001
    return shown


def _measured(view: View, found: Row, story: Story) -> None:
    del story
    is_mine = view.driver.wallet.party in found["awaits"]
    with card(view.text("settlement")):
        _top(view, found["pile"], MEASURED)
        settlement(view, found)
        key = "measured_say" if is_mine else "measured_wait"
        tag("p", view.text(key, owner=found["owner"], time=view.time(found["deadline_ms"]))).style("margin:0")
        if is_mine:
            view.button(
                view.text("confirm"),
                lambda: view.clerk.do(view.driver.confirm, found["id"], found["digest"]),
                main=True,
                test="confirm",
            )
            view.button(view.text("object"), lambda: _object(view, found), test="object")


async def _object(view: View, found: Row) -> None:
    """Ask what is wrong, after telling what it takes."""
    bond = view.money(view.params.objection_bond_micro)
    with view.dialog() as dialog:
        tag("h2", view.text("object_title"), "pd-mid").style("margin:0")
        window = f"{view.params.dispute_window_ms // HOUR_MS} h"
        note(view.text("object_told", bond=bond, time=view.time(found["deadline_ms"]), window=window))
        tag("div", view.text("ground"))
        ground = ui.radio({name: view.text(f"ground.{name}") for name in ("energy", "cause")}, value="energy")
        claimed = ui.input(
            view.text("claimed"), value=f"{found['measured_wh'] // 1000}.{found['measured_wh'] % 1000:03d}"
        )
        claimed.props("outlined inputmode=decimal data-test=claimed").bind_visibility_from(
            ground, "value", value="energy"
        )
        text = ui.textarea(view.text("text")).props(f"outlined autogrow maxlength={MAX_TEXT} counter data-test=text")

        def submit() -> None:
            claim = _claim(claimed.value) if ground.value == "energy" else found["measured_wh"]
            claimed.error = None if claim is not None else view.text("bad_energy")
            text.error = None if (text.value or "").strip() else view.text("text_missing")
            if claim is not None and not text.error:
                dialog.submit((ground.value, text.value.strip(), claim))

        large_button(view.text("object_do", bond=bond), submit, main=True, test="object_do")
        large_button(view.text("back"), dialog.close)
    said = await dialog
    dialog.delete()
    if said:
        await view.clerk.do(view.driver.object_to, found["id"], *said)


def _claim(text: str) -> int | None:
    """Wh: meters are read to the Wh, so a claim need not be in lots, and may be 0. None for anything else."""
    try:
        milli_wh = parse_money((text or "").strip().replace(",", "."))
    except ValueError:
        return None
    return None if milli_wh % 1000 else milli_wh // 1000


def _disputed(view: View, found: Row, story: Story) -> None:
    del story
    dispute = found["dispute"]
    with card(view.text("settlement")):
        _top(view, found["pile"], DISPUTED)
        ground = view.text(f"ground.{dispute['ground']}")
        said = view.text(
            "disputed_say", objector=dispute["objector"], ground=ground, time=view.time(found["deadline_ms"])
        )
        tag("p", said).style("margin:0")
        tag("p", f"“{dispute['text']}”", "pc-soft").style("margin:0;overflow-wrap:anywhere")
        shown = [(view.text("dispute_bond"), view.money(dispute["bond_micro"]))]
        if dispute["ground"] == "energy":
            shown += [(view.text("dispute_claim"), view.energy(dispute["claimed_wh"]))]
        rows(shown)
        settlement(view, found)


def _closed(view: View, found: Row, story: Story) -> None:
    del story
    receipt_card.show(view, found, settlement)


_CARDS = {PROPOSED: _proposed, SIGNED: _signed, ACTIVE: _active, MEASURED: _measured, DISPUTED: _disputed}
