"""Notes: bought, spent, confirmed with, refunded; nothing made, nothing lost, nothing spent twice."""

from note_world import NoteMarket
from world import closings


def test_an_order_is_paid_for_by_nobody_in_particular() -> None:
    world = NoteMarket()
    world.offer()
    spent = world.enough("user-3", 6_000_000)
    who, tx = world.pay(spent)
    world.ok(tx)
    assert world.terms().user == who
    world.measured()
    owner = world.money("owner-1")
    world.confirm("owner-1")
    outcome = world.ok(world.confirmation(who))
    assert closings(outcome) == ["confirmed"]
    assert world.money("owner-1") > owner
