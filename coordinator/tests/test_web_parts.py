"""Parts of the HTTP API by themselves: rate limit, pages, tokens, configuration, metrics and the Grafana file."""

import json
import re
from pathlib import Path

import pytest
from exported import OPERATOR
from settled import Chain
from sqlalchemy import event

from pile_coordinator.chain.records import ROLES
from pile_coordinator.web import live, reading
from pile_coordinator.web.access import RULES, Grant
from pile_coordinator.web.config import load_web_config
from pile_coordinator.web.limits import MAX_BUCKETS, RateLimit
from pile_coordinator.web.metrics import MAX_ZONES, Metrics
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.tokens import Token, TokenError, Tokens
from pile_shared.errors import BoundsError, ConfigError

SECOND = 1_000_000_000
DOCS = Path(__file__).parents[2] / "docs" / "api.md"


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    limit = RateLimit(60, 5, clock)
    assert [limit.take("a") for _ in range(6)] == [0] * 5 + [1]
    assert limit.take("b") == 0
    clock.ns += SECOND
    assert [limit.take("a") for _ in range(2)] == [0, 1]
    clock.ns += 3600 * SECOND
    assert [limit.take("a") for _ in range(6)] == [0] * 5 + [1]


def test_what_is_dear_takes_more_and_never_more_than_a_burst():
    clock = Clock()
    limit = RateLimit(60, 5, clock)
    assert limit.take("a", 4) == 0
    assert limit.take("a", 4) == 3
    clock.ns += 60 * SECOND
    assert limit.take("a", 1000) == 0
    assert limit.take("a") == 1


def test_what_failed_is_charged_for_a_bounded_time():
    clock = Clock()
    limit = RateLimit(60, 5, clock)
    for _ in range(1000):
        limit.charge("a", 10)
    assert limit.take("a") == 6
    clock.ns += 6 * SECOND
    assert limit.take("a") == 0


def test_buckets_are_bounded_and_an_address_has_one():
    limit = RateLimit(60, 5, Clock())
    for number in range(MAX_BUCKETS + 50):
        limit.take(f"address {number}")
    assert len(limit) == MAX_BUCKETS
    assert RateLimit.address("2001:db8::1") == RateLimit.address("2001:db8::ffff:2") != RateLimit.address("2001:db9::1")
    assert RateLimit.address("::ffff:10.0.0.1") == RateLimit.address("10.0.0.1") == "address 10.0.0.1"
    assert RateLimit.address("<script>") == "address ?"


@pytest.mark.parametrize("cursor", ["A", "AAAA", "_" * 300, "g2ZibG9ja3MBAg", "gmZibG9ja3P1", "gmZibG9ja3NhYQ"])
def test_a_cursor_that_was_not_given_is_refused(cursor):
    with pytest.raises(Refused) as refused:
        reading._BLOCKS._decode(cursor)
    assert (refused.value.status, refused.value.code) == (422, "cursor")


def test_a_cursor_is_what_was_given():
    text = reading._PRICES._encode({"key_0": 7, "key_1": "north", "key_2": 650_000})
    assert reading._PRICES._decode(text) == [7, "north", 650_000]
    with pytest.raises(Refused):
        reading._POSTINGS._decode(text)


def test_tokens_have_bounds_and_say_why_only_to_us(tmp_path):
    tokens = Tokens(tmp_path / "tokens.sqlite", read_only=False)
    for days in (0, 3651):
        with pytest.raises(BoundsError):
            tokens.add("dan", "ev-owner", now_ms=0, days=days)
    with pytest.raises(TokenError):
        tokens.add("dan", "admin", now_ms=0, days=1)
    text = tokens.add("dan", "ev-owner", now_ms=0, days=1)
    assert tokens.check(text, 86_399_999).party == "dan"
    for bad, now_ms, code in (
        (text, 86_400_000, "expired"),
        (text[:-1], 0, "malformed"),
        (text[:-1] + "!", 0, "malformed"),
    ):
        with pytest.raises(TokenError) as error:
            tokens.check(bad, now_ms)
        assert error.value.code == code
    tokens.close()
    with pytest.raises(ConfigError, match="pilechain web token add"):
        Tokens(tmp_path / "none.sqlite", read_only=True)


def write(folder: Path, text: str) -> Path:
    path = folder / "web.toml"
    path.write_text(text)
    return path


def test_the_server_listens_at_home_unless_it_is_told_otherwise(tmp_path):
    config = load_web_config(write(tmp_path, 'database = "evidence.sqlite"\n'))
    assert (config.listen, config.metrics_listen, config.metrics_port, config.proxy) == (
        "127.0.0.1",
        "127.0.0.1",
        0,
        "",
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "database"),
        ('database = "x"\nledger = "y"\n', "genesis"),
        ('database = "x"\nport = 0\n', "port"),
        ('database = "x"\ntime_zone = "Mars/Base"\n', "Mars/Base"),
        ('database = "x"\nsilent_after_s = 0\n', "silent_after_s"),
        ('database = "x"\nhost = "0.0.0.0"\n', "host"),
        ('database = "x"\n[limits]\nburst = 0\n', "limits.burst"),
    ],
)
def test_a_mistake_in_the_file_names_its_key(tmp_path, text, key):
    with pytest.raises(ConfigError, match=re.escape(key)):
        load_web_config(write(tmp_path, text))


BIG = ("orders", "contract", "proof", "posting", "statement", "tx", "signature", "confirmation", "clearing", "price")


@pytest.mark.parametrize("scope", ["all", "own", "deviated", "disputed"])
def test_no_list_reads_a_big_table_whole(tmp_path, scope):
    """But for the newest of all, which is an index read from its end."""
    chain = Chain(tmp_path)
    chain.admit()
    chain.close()
    here = reading.Reading(reading.open_database("evidence.sqlite", tmp_path))
    found = {}
    event.listen(here._engine, "before_cursor_execute", lambda *seen: found.update({seen[2]: seen[3]}))
    grant = Grant(Token("0" * 12, "dan", "operator", 0, 0, None, ""), scope)
    after = reading._CONTRACTS._encode({"key_0": 9, "key_1": 1})
    here.contracts(grant, None, 10)
    here.contracts(grant, after, 10)
    here.contracts(grant, None, 10, user="dan")
    here.postings(grant, None, None, 10)
    here.postings(grant, bytes(32), None, 10)
    here.piles(grant, None, 10)
    here.parties(grant, None, 10)
    if scope != "deviated":
        here.orders(grant, None, 10)
    with here.connect() as db:
        for statement, parameters in list(found.items()):
            for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall():
                words = row[3].split()
                is_newest = scope in {"all", "deviated"} and "USING INDEX" in row[3]
                assert words[0] != "SCAN" or words[1] not in BIG or is_newest, (row[3], statement)
    here.close()


def test_a_database_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.sqlite"):
        reading.open_database("none.sqlite", tmp_path)
    with pytest.raises(ConfigError, match="URL"):
        reading.open_database("://", tmp_path)


def series() -> set[str]:
    """Every name that Prometheus may see."""
    return {sample for metric in Metrics().registry.collect() for sample in _names(metric)}


def _names(metric) -> set[str]:
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
    return {metric.name + end for end in ends}


def test_the_grafana_file_asks_for_series_that_exist():
    board = json.loads(Path(live.__file__).with_name("grafana.json").read_text())
    asked = {
        name for panel in board["panels"] for t in panel["targets"] for name in re.findall(r"pilechain_\w+", t["expr"])
    }
    assert asked <= series()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    shown = {name.removesuffix("_bucket") for name in asked}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in series()} == shown  # none is forgotten


def test_zones_beyond_the_bound_have_no_series():
    metrics = Metrics()
    assert all(metrics.has_zone(str(number)) for number in range(MAX_ZONES))
    assert not metrics.has_zone("one more")
    assert metrics.has_zone("7")


def test_the_page_has_the_table_of_access_and_every_series_and_key(tmp_path):
    page = DOCS.read_text()
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| `([\w]+)` \|" + r" ([\w-]+) \|" * len(ROLES) + "$", page, re.MULTILINE)
    }
    assert rows == {name: tuple(rule.get(role, "-") for role in ROLES) for name, rule in RULES.items()}
    for name in series():
        assert re.sub(r"_(bucket|count|sum)$", "", name) in page, name
    (block,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    block = re.sub(r"^(ledger|genesis) = .*\n", "", block, flags=re.MULTILINE)
    (tmp_path / "operator.toml").write_text(OPERATOR)
    config = load_web_config(write(tmp_path, block))
    assert (config.metrics_port, config.zone.key, config.silent_after_s) == (9410, "Europe/Berlin", 1800)
    assert config.operator is not None
