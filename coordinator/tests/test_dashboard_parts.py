"""Words, amounts and the board's states, without a browser."""

import string
from zoneinfo import ZoneInfo

import pytest
import words_used

from pile_coordinator.chain.records import ROLES
from pile_coordinator.dashboard import words, written
from pile_coordinator.dashboard.board import STATES
from pile_shared.proof import EVENT_NAMES, REASON_NAMES

DASH = written.DASH


def _placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_have_the_same_keys_and_placeholders():
    english, chinese = words.table("en"), words.table("zh")
    assert english.keys() == chinese.keys()
    assert {key: _placeholders(text) for key, text in english.items()} == {
        key: _placeholders(text) for key, text in chinese.items()
    }


def test_every_key_is_used():
    assert [key for key in words.table("en") if not words_used.is_used(key)] == []


def test_no_text_is_empty_or_left_in_english():
    for key, text in words.table("zh").items():
        assert text.strip(), key
        if text not in {"Pilechain", DASH}:
            assert any("\u4e00" <= letter <= "\u9fff" for letter in text), f"{key} is not Chinese: {text}"


@pytest.mark.parametrize(
    ("family", "names"), [("state", STATES), ("event", EVENT_NAMES), ("reason", REASON_NAMES), ("role", ROLES)]
)
def test_every_word_of_the_chain_has_a_word(family, names):
    for name in names:
        assert f"{family}.{name}" in words.table("en")


def test_a_word_that_nobody_knows_is_shown_as_it_is():
    assert words.word("zh", "state", "levitating") == "levitating"
    assert words.word("zh", "state", None) == DASH


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("de,en;q=0.5,zh;q=0.7", "zh"),
        ("en-GB", "en"),
        ("fr", "en"),
        ("zh;q=0", "en"),
        ("zh;q=huge,,;;", "zh"),
        ("*" * 5000, "en"),
    ],
)
def test_the_first_language_is_the_browser_s(header, language):
    assert words.preferred(header) == language


def test_amounts_are_exact_and_rounded_only_where_fewer_digits_are_shown():
    assert written.money(1_234_567_890_123, "CNY") == "1\u202f234\u202f567.89 CNY"
    assert written.money_exact(-1, "CNY") == "\N{MINUS SIGN}0.000001 CNY"
    assert written.money(-4_999) == "0.00"
    assert written.money(5_000) == "0.01"
    assert written.price(701_600, "CNY") == "0.7016 CNY/kWh"
    assert written.energy((1 << 62) + 1) == "4\u202f611\u202f686\u202f018\u202f427\u202f387.905 kWh"
    assert written.energy_short(12_345_678) == "12.35 MWh"
    assert written.power(7360) == "7.4 kW"
    assert written.permille(1000) == "100.0 %"
    assert written.energy(None) == written.money(None) == written.time(None, ZoneInfo("UTC")) == DASH


def test_times_are_those_of_the_operator_s_clocks():
    assert written.time(1_700_000_000_000, ZoneInfo("Asia/Shanghai")) == "2023-11-15 06:13:20"
    assert written.clock(1_700_000_000_000, ZoneInfo("America/New_York")) == "17:13:20"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 ms"),
        (999, "999 ms"),
        (1000, "1 s"),
        (119_999, "119 s"),
        (120_000, "2 min"),
        (7_200_000, "2 h"),
        (200_000_000, "2 d"),
    ],
)
def test_spans_are_told_in_their_largest_unit(ms, text):
    assert written.span(ms) == text
