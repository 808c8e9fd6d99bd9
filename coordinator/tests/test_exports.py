"""Exports of orders, read back by others: pyocmf, a JSON Schema of OCPI's tables, csv, DuckDB or Arrow, and the verifier."""

import base64
import csv
import json
import re
from decimal import Decimal
from types import SimpleNamespace

import jsonschema_rs
import pytest
from defusedxml import ElementTree
from exported import ENDINGS, OPERATOR, exported_order, operator, pile_records, settled_chain, within
from hypothesis import given, settings
from hypothesis import strategies as st
from ocpi_221 import CDR_SCHEMA, SIGNED_METER_VALUE_SCHEMA
from pyarrow import dataset
from pyocmf import OCMF
from pyocmf.utils.xml import OcmfContainer
from world import HOUR, key

from pile_coordinator.chain.settlement import (
    BOND,
    CAUSES,
    ESCROW,
    FEES,
    GRID,
    OBJECTION,
    OWNER,
    USER,
    Shares,
    Statement,
    Verdict,
    contract_escrow_micro,
    settle,
    settle_disputed,
)
from pile_coordinator.cli import main
from pile_coordinator.exports.bulk import FORMATS
from pile_coordinator.exports.exact import decimal, dumps, rounded_div
from pile_coordinator.exports.ocmf import RecordFolder, check_record, check_records, safe_xml
from pile_coordinator.exports.ocpi import cdrs, cdrs_json, price
from pile_coordinator.exports.ocpp import signed_meter_values
from pile_coordinator.exports.operator import load_operator
from pile_coordinator.exports.order import ExportError, Order
from pile_coordinator.exports.sources import DataFolder
from pile_coordinator.exports.tables import ORDER_COLUMNS, POSTING_COLUMNS, order_row, posting_rows
from pile_coordinator.verify import Verified
from pile_edge.ocmf_records import list_records
from pile_edge.ocmf_records import safe_xml as piles_xml
from pile_shared import cose
from pile_shared.errors import ConfigError
from pile_shared.terms import FIELDS, terms_from
from pile_shared.units import MAX_AMOUNT_MICRO, MAX_TIME_MS


@pytest.fixture(scope="module", params=ENDINGS)
def ending(request, tmp_path_factory):
    """An order of each ending: its chain, certificate, order, and the pile's OCMF records of it."""
    folder = tmp_path_factory.mktemp(request.param)
    chain = settled_chain(folder / "data")
    certificate = ENDINGS[request.param](chain)
    order = exported_order(chain, certificate)
    texts = pile_records(folder / "pile", chain, certificate)
    yield SimpleNamespace(
        name=request.param, chain=chain, order=order, texts=texts, folder=folder, records=check_records(order, texts)
    )
    chain.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """An order that was delivered and confirmed."""
    folder = tmp_path_factory.mktemp("one")
    chain = settled_chain(folder / "data")
    certificate = within(chain)
    order = exported_order(chain, certificate)
    texts = pile_records(folder / "pile", chain, certificate)
    (folder / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    yield SimpleNamespace(chain=chain, order=order, texts=texts, folder=folder, records=check_records(order, texts))
    chain.close()


def plain_decimal(text):
    """Receivers that read no exponents are many."""
    assert "e" not in text.lower()
    return Decimal(text)


def balance(postings, side):
    """By hand, not by the code under test."""
    total = 0
    for row in postings:
        if row.credit == side:
            total += row.amount_micro
        if row.debit == side:
            total -= row.amount_micro
    return total


# --- money and energy are the postings'


def test_every_ending_leaves_nobody_with_more_or_less(ending):
    """Money of the row is what accounts moved by: put up, and got back."""
    row, statement = order_row(ending.order), ending.order.verified.statement
    verdict = statement.verdict
    put_up = contract_escrow_micro(ending.order.terms)
    put_up += verdict.bond_micro if verdict and verdict.objector == USER else 0
    assert row["user_paid_micro"] == put_up - balance(statement.postings, USER)
    assert row["grid_micro"] == balance(statement.postings, GRID)
    assert row["fees_micro"] == balance(statement.postings, FEES)
    assert row["user_paid_micro"] == row["owner_earned_micro"] + row["grid_micro"] + row["fees_micro"]
    assert row["contracted_wh"] + row["grid_wh"] + row["unpaid_wh"] == row["measured_wh"] == statement.measured_wh
    assert [(r["debit"], r["credit"], r["amount_micro"]) for r in posting_rows(ending.order)] == [
        (p.debit, p.credit, p.amount_micro) for p in statement.postings
    ]


def test_the_cdrs_of_every_ending_are_what_ocpi_lists_and_add_up_to_the_postings(ending, tmp_path):
    text = cdrs_json(ending.order, operator(tmp_path), ending.records).decode()
    made = json.loads(text, parse_float=plain_decimal, parse_int=Decimal)
    for cdr in json.loads(text):
        jsonschema_rs.validator_for(CDR_SCHEMA).validate(cdr)
    statement = ending.order.verified.statement
    paid = ending.order.money(statement).user_paid_micro
    assert sum(cdr["total_cost"]["incl_vat"] for cdr in made) * 1_000_000 == paid
    assert made[-1]["total_energy"] * 1000 == statement.measured_wh
    if statement.verdict is None:
        assert len(made) == 1
        parts = [made[0][name]["incl_vat"] for name in made[0] if re.fullmatch(r"total_\w+_cost", name)]
        assert sum(parts) == made[0]["total_cost"]["incl_vat"]
        return
    first, credit, last = made
    assert (credit["credit"], credit["credit_reference_id"]) == (True, first["id"])
    assert credit["total_cost"] == {name: -amount for name, amount in first["total_cost"].items()}
    assert {**credit, **{name: first[name] for name in ("id", "total_cost", "last_updated")}} == {
        **first,
        "credit": True,
        "credit_reference_id": first["id"],
    }
    assert len({cdr["id"] for cdr in made}) == 3
    assert first["total_energy"] * 1000 == ending.order.verified.disputed.measured_wh
    assert "credit" not in last


amounts = st.integers(0, 10**9)


@st.composite
def orders(draw):
    """Terms with any prices and quantities, and an order that ended in any way its settlement knows."""
    values = dict.fromkeys([name for name, kind in FIELDS if kind == "n"], 0)
    values |= {name: "x" for name, kind in FIELDS if kind in "it"} | {"on_curve": False}
    values |= {name: bytes(32) for name, kind in FIELDS if kind == "h"}
    values |= {name: bytes(65) for name, kind in FIELDS if kind == "k"}
    values |= {
        "version": 1,
        "energy_wh": draw(st.integers(1, 10**6)),
        "fee_micro": draw(amounts),
        "bond_micro": draw(amounts),
    }
    for name in ("price_micro_per_kwh", "catalog_sell_micro_per_kwh", "catalog_buy_micro_per_kwh"):
        values[name] = draw(amounts)
    for name in ("tolerance_wh", "overuse_wh"):
        values[name] = draw(st.integers(0, 10**5))
    terms, shares = terms_from(values), Shares(draw(st.integers(0, 1000)), draw(st.integers(0, 1000)))
    measured_wh, cause = draw(st.integers(0, 2 * 10**6)), draw(st.sampled_from(CAUSES))
    postings = settle(terms, measured_wh, cause, shares)
    statement = Statement("c", terms.contract_id(), bytes(32), measured_wh, cause, tuple(postings))
    written = None
    if draw(st.booleans()) and cause in CAUSES[:3]:
        verdict = Verdict(draw(st.sampled_from((USER, OWNER))), draw(amounts), "timeout", ())
        ruled_wh, ruled_cause = draw(st.integers(0, 2 * 10**6)), draw(st.sampled_from(CAUSES[:3]))
        rows = settle_disputed(terms, postings, ruled_wh, ruled_cause, shares, verdict)
        written, statement = (
            statement,
            Statement("c", terms.contract_id(), bytes(32), ruled_wh, ruled_cause, tuple(rows), verdict),
        )
    verified = Verified(
        terms=terms,
        statement=statement,
        outcome="x",
        signed_height=1,
        closed_height=2,
        proofs=0,
        confirmed_by=(),
        disputed=written,
        order=bytes(32),
    )
    return Order(b"", "c", "EUR", verified, (), 0, 0, 0)


@settings(max_examples=300, deadline=None)
@given(order=orders(), vat=st.none() | st.integers(0, 1000))
def test_any_settlement_is_exported_to_the_micro(order, vat):
    statement = order.verified.statement
    money = order.money(statement)
    assert money.user_paid_micro == money.owner_earned_micro + money.grid_micro + money.fees_micro
    put_up = {ESCROW: contract_escrow_micro(order.terms), BOND: order.terms.bond_micro, OBJECTION: 0}
    put_up[OBJECTION] = statement.verdict.bond_micro if statement.verdict else 0
    for side, held in put_up.items():
        assert balance(statement.postings, side) == -held
    place = {"location": "l", "evse_id": "E", **dict.fromkeys(("connector_standard",), "CHADEMO")}
    place |= {"connector_format": "CABLE", "connector_power_type": "DC"}
    where = SimpleNamespace(
        country_code="DE",
        party_id="PIL",
        currency=None,
        vat_permille=vat,
        token={"country_code": "DE", "party_id": "EMP"},
        home_of={},
        location_of=lambda _pile: (
            "l",
            {"address": "a", "city": "c", "country": "DEU", "latitude": "1.00000", "longitude": "1.00000"},
            place,
        ),
    )
    made = json.loads(dumps(cdrs(order, where, [])), parse_float=Decimal, parse_int=Decimal)
    amount = "excl_vat" if vat is None else "incl_vat"
    assert sum(cdr["total_cost"][amount] for cdr in made) * 1_000_000 == money.user_paid_micro
    if len(made) == 3:  # the credit note undoes the first record, tax and all
        assert all(made[0]["total_cost"][name] + made[1]["total_cost"][name] == 0 for name in made[0]["total_cost"])


@given(amount=st.integers(-MAX_AMOUNT_MICRO, MAX_AMOUNT_MICRO), vat=st.integers(0, 1000))
def test_a_price_without_vat_is_the_nearest_micro(amount, vat):
    made = price(amount, vat)
    assert made["incl_vat"] * 10**6 == amount
    without = int(made["excl_vat"].scaleb(6))
    assert abs(without * (1000 + vat) - amount * 1000) * 2 <= 1000 + vat
    assert price(amount, None) == {"excl_vat": made["incl_vat"]}


@given(units=st.integers(-(10**20), 10**20), places=st.integers(1, 6))
def test_decimals_are_exact(units, places):
    text = dumps(decimal(units, places))
    assert Decimal(text) == Decimal(units) / 10**places
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", text)


@given(numerator=st.integers(), denominator=st.integers(1, 10**9))
def test_rounding_is_to_the_nearest(numerator, denominator):
    assert abs(rounded_div(numerator, denominator) * denominator - numerator) * 2 <= denominator
    assert rounded_div(-numerator, denominator) == -rounded_div(numerator, denominator)


def test_json_takes_no_float():
    with pytest.raises(TypeError):
        dumps({"a": 0.1})


# --- OCMF


def test_pyocmf_verifies_what_is_exported_and_the_energy_is_the_settlements(ending, tmp_path):
    settled = [proof for proof in ending.order.session if proof.event != 1]
    assert len(ending.records) == len(settled)
    if not ending.records:
        return
    path = tmp_path / "order.xml"
    path.write_text(safe_xml(ending.order, ending.records))
    container = OcmfContainer.from_xml(path, strict=True)
    assert all(record.verify_signature() for record in container)
    assert [record.context for record in container] == ["Transaction.Begin", "Transaction.End"][: len(settled)]
    if len(settled) == 2:
        assert [result.issues for result in container.check_eichrecht()] == [[]]
        begin, end = (record.ocmf.payload.RD[0].RV for record in container)
        assert (end - begin) * 1000 == ending.order.first.measured_wh
    # An independent reader of the XML: root, children, attributes, in S.A.F.E.'s structure and nothing else.
    root = ElementTree.parse(path).getroot()
    assert root.tag == "values"
    for value in root:
        assert (value.tag, sorted(value.attrib)) == ("value", ["context", "transactionId"])
        signed, public = value
        assert (signed.tag, signed.attrib) == ("signedData", {"format": "OCMF", "encoding": "plain"})
        assert (public.tag, public.attrib) == ("publicKey", {"encoding": "plain"})
        assert OCMF.from_string(signed.text, strict=True).verify_signature(public.text)
    if len(settled) == 2:
        pile = piles_xml(list_records(str(ending.folder / "pile")), key("pile-1").public)
        assert path.read_text() == pile  # byte for byte what `pile-edge ocmf --xml` writes


def resigned(text, signer=None, **changes):
    """The record with other values, signed again by the pile, which the chain has no say in."""
    fields = json.loads(text.split("|")[1], parse_float=lambda value: value)
    for name, value in changes.items():
        (fields if name in fields else fields["RD"][0])[name] = value
    payload = json.dumps(fields, separators=(",", ":"))
    payload = re.sub(r'"RV":"([\d.]+)"', r'"RV":\1', payload)
    signature = (signer or key("pile-1")).sign(payload.encode())
    from pile_edge.ocmf import der_signature

    words = {"SA": "ECDSA-secp256r1-SHA256", "SE": "hex", "SM": "application/x-der"}
    tail = json.dumps({**words, "SD": der_signature(cose.low_s(signature)).hex()}, separators=(",", ":"))
    return f"OCMF|{payload}|{tail}"


def test_a_record_that_says_otherwise_than_the_proof_is_refused(one):
    begin, end = one.texts
    assert check_record(one.order, resigned(begin)).kind == "begin"
    lies = {
        "RV": "100.001",
        "TM": "2026-11-23T08:00:00,000+0000 S",
        "ID": "0" * 40,
        "MS": "124",
        "MM": "ABB B23",
        "GS": "test/pile-2",
        "RI": "01-00:02.08.00*FF",
        "RU": "Wh",
        "ST": "E",
    }
    for name, value in lies.items():
        with pytest.raises(ExportError, match=f"says {name} "):
            check_record(one.order, resigned(begin, **{name: value}))
    with pytest.raises(ExportError, match="says TX 'L'"):
        check_record(one.order, resigned(end, TX="L"))
    with pytest.raises(ExportError, match="not signed by the key of pile-1"):
        check_record(one.order, resigned(begin, signer=key("pile-2")))
    with pytest.raises(ExportError, match="two different OCMF begin records"):
        check_records(one.order, [begin, resigned(begin, PG="T9"), end])
    assert len(check_records(one.order, [begin, end, begin])) == 2


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_records_are_told_and_nothing_else(one, data):
    text = data.draw(st.sampled_from(one.texts))
    at, kind = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 2))
    other = data.draw(st.characters(max_codepoint=127))
    damaged = (text[:at] + other + text[at + 1 :], text[:at], text[:at] + text[at + 1 :])[kind]
    try:
        record = check_record(one.order, damaged)
    except ExportError:
        return
    # The signature's text has more than one form (upper case, SM and SE); what is signed has not.
    assert record.payload == text.split("|")[1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OCMF||",
        "OCMF|{}|{}",
        "OCMF|[]|[]",
        'OCMF|{"RD":[]}|{}',
        'OCMF|{"RD":[1],"PG":1}|{"SA":1}',
        "OCMF|" + "[" * 2400 + "|",
    ],
)
def test_what_is_no_record_is_told(one, text):
    with pytest.raises(ExportError):
        check_record(one.order, text)


# --- OCPP


def test_signed_meter_values_are_what_ocpp_takes(one):
    values = signed_meter_values(one.order, one.records)
    for value, text in zip(values, one.texts, strict=True):
        jsonschema_rs.validator_for(SIGNED_METER_VALUE_SCHEMA).validate(value)
        assert base64.b64decode(value["signedMeterData"], validate=True).decode() == text
        scheme, _, public = base64.b64decode(value["publicKey"], validate=True).decode().rpartition(":")
        assert scheme == "oca:base16:asn1"
        assert OCMF.from_string(text, strict=True).verify_signature(public)


# --- OCPI


def test_the_signed_data_of_a_cdr_verifies_and_fits(one, tmp_path):
    (cdr,) = cdrs(one.order, operator(tmp_path), one.records)
    signed = cdr["signed_data"]
    public = base64.b64decode(signed["public_key"], validate=True).hex()
    assert [value["nature"] for value in signed["signed_values"]] == ["Start", "End"]
    for value in signed["signed_values"]:
        text = base64.b64decode(value["signed_data"], validate=True).decode()
        assert OCMF.from_string(text, strict=True).verify_signature(public)
        assert value["plain_data"] == text.split("|")[1]


def test_what_the_operators_file_says_stands_in_the_cdr(one, tmp_path):
    (cdr,) = cdrs(one.order, operator(tmp_path), [])
    assert (cdr["country_code"], cdr["party_id"], cdr["currency"]) == ("CN", "PIL", "CNY")
    assert cdr["home_charging_compensation"] is True
    assert (cdr["cdr_location"]["city"], cdr["cdr_location"]["evse_uid"]) == ("Shanghai", "pile-1")
    assert cdr["total_time"] == 1
    (away,) = cdrs(
        one.order, operator(tmp_path, OPERATOR.replace('["dan"]', '["eva"]').replace("vat_permille = 130\n", "")), []
    )
    assert away["home_charging_compensation"] is False
    assert list(away["total_cost"]) == ["excl_vat"]
    with pytest.raises(ExportError, match="amounts are in CNY; no other currency"):
        cdrs(one.order, operator(tmp_path, 'currency = "EUR"\n' + OPERATOR), [])
    with pytest.raises(ExportError, match=r"add a table \[piles.pile-1\]"):
        cdrs(one.order, operator(tmp_path, OPERATOR.replace("piles.pile-1", "piles.pile-2")), [])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('party_id = "PIL"', 'party_id = "PILE"', "party_id = 'PILE' is wrong"),
        ("vat_permille = 130", "vat_permille = 19.0", "190 for 19 %"),
        ('"31.230416"', '"52.5"', "locations.linden-court.latitude = '52.5' is wrong"),
        ('city = "Shanghai"\n', "", "locations.linden-court.city is missing"),
        ('location = "linden-court"', 'location = "elsewhere"', "is none of"),
        ('home_of = ["dan"]', 'home_of = "dan"', "home_of is wrong"),
        ('"CABLE"', '"PLUG"', "connector_format = 'PLUG' is wrong"),
        ('"GBT_AC"', '"SCHUKO"', "connector_standard = 'SCHUKO' is wrong"),
        ("[token]", "[tokens]", r"\[token\] is missing"),
        ("7 Linden Road", "L" * 46, "at most 45 characters"),
    ],
)
def test_a_wrong_operators_file_is_told(tmp_path, old, new, told):
    assert old in OPERATOR
    path = tmp_path / "operator.toml"
    path.write_text(OPERATOR.replace(old, new))
    with pytest.raises(ConfigError, match=told):
        load_operator(path)


def test_the_operators_file_takes_ocpis_connectors_and_no_other():
    from pile_coordinator.exports.operator import _CONNECTORS

    listed = CDR_SCHEMA["$defs"]["CdrLocation"]["properties"]["connector_standard"]["enum"]
    assert all(re.fullmatch(_CONNECTORS, name) for name in listed)
    for name in (f"{name}{more}" for name in listed for more in ("_", "X", "_32")):
        assert bool(re.fullmatch(_CONNECTORS, name)) == (name in listed)


def test_the_longest_names_fit_ocpis_lengths(one, tmp_path):
    """Ids of 32 characters, a meter of 32, and a payload that is too long for plain_data."""
    from pile_coordinator.exports.ocpi import MAX_PLAIN_DATA, _plain

    long = '{"GS":"' + "x" * 600 + '","RD":[{"RV":1.000}]}'
    assert _plain(long) == '{"RD":[{"RV":1.000}]}'
    assert len(_plain(one.records[0].payload)) <= MAX_PLAIN_DATA


# --- in bulk, and the command


def export(one, out, *options):
    return main(
        ["export", str(one.folder / "data"), "--genesis", str(one.folder / "genesis.json"), "--out", str(out), *options]
    )


def test_the_command_writes_every_format_and_each_reads_back(one, tmp_path, capsys):
    out = tmp_path / "out"
    operator(tmp_path)
    options = ["--operator", str(tmp_path / "operator.toml"), "--ocmf", str(one.folder), "--formats", ",".join(FORMATS)]
    assert export(one, out, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["exported"] == 1
    stem = one.order.contract
    assert {path.name for path in out.iterdir()} == {
        *(f"{stem}.{kind}" for kind in ("cbor", "begin.ocmf", "end.ocmf", "xml", "ocpp.json", "cdr.json")),
        *(f"{table}.{kind}" for table in ("orders", "postings") for kind in ("csv", "parquet")),
    }
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "it.cbor"
    alone.write_bytes((out / f"{stem}.cbor").read_bytes())
    assert main(["verify", str(alone), "--genesis", str(one.folder / "genesis.json")]) == 0
    wanted = {"orders": ([order_row(one.order)], ORDER_COLUMNS), "postings": (posting_rows(one.order), POSTING_COLUMNS)}
    for name, (rows, columns) in wanted.items():
        assert dataset.dataset(out / f"{name}.parquet").to_table().to_pylist() == rows
        with (out / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        assert read == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
        assert list(read[0]) == list(columns)


def test_the_time_range_takes_what_closed_in_it(one, tmp_path, capsys):
    at = one.order.closed_ms
    for begin, end, count in ((at, at + 1, 1), (at - HOUR, at, 0), (at + 1, at + HOUR, 0), (0, MAX_TIME_MS, 1)):
        options = ["--closed-from", str(begin), "--closed-until", str(end), "--formats", "certificate", "--json"]
        assert export(one, tmp_path / "out", *options) == 0
        assert json.loads(capsys.readouterr().out)["exported"] == count
    order = ["--order", one.order.terms.order.hex(), "--formats", "csv", "--json"]
    assert export(one, tmp_path / "one", *order) == 0
    assert json.loads(capsys.readouterr().out)["exported"] == 1
    assert (
        main(
            [
                "export",
                str(tmp_path / "out"),
                "--genesis",
                str(one.folder / "genesis.json"),
                "--out",
                str(tmp_path / "again"),
            ]
        )
        == 0
    )


def test_a_data_folder_lists_what_closed_whatever_its_ending(ending):
    folder = DataFolder(ending.folder / "data", ending.chain.genesis)
    try:
        ((name, read),) = folder.closed(0, MAX_TIME_MS)
        assert name == ending.order.contract
        assert read() == ending.order.certificate
    finally:
        folder.close()


def test_one_bad_certificate_stops_no_other_and_is_named(one, tmp_path, capsys):
    files = tmp_path / "in"
    files.mkdir()
    good = one.order.certificate
    (files / "a.cbor").write_bytes(good[:-40] + bytes([good[-40] ^ 1]) + good[-39:])
    (files / "b.cbor").write_bytes(b"")
    (files / "c.cbor").write_bytes(good)
    (files / "d.cbor").write_bytes(good)  # the same order again is no second order
    words = [
        "export",
        str(files),
        "--genesis",
        str(one.folder / "genesis.json"),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main(words) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["exported"] == 1
    assert [row["name"].rpartition("/")[2] for row in told["refused"]] == ["a.cbor", "b.cbor"]
    assert len((tmp_path / "out" / "orders.csv").read_text().splitlines()) == 2


def test_a_demos_folder_holds_certificates_beside_its_ledger(one, tmp_path, capsys):
    """And no evidence, so the certificates are what is meant; the genesis beside them is taken."""
    folder = tmp_path / "demo-out"
    folder.mkdir()
    for name, content in (("ledger.sqlite", b""), ("dan.cbor", one.order.certificate)):
        (folder / name).write_bytes(content)
    (folder / "genesis.json").write_text((one.folder / "genesis.json").read_text())
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exported"] == 1
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--order", "00" * 32]) == 2
    assert "is for a data folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--formats", "cdr"], "--operator operator.toml"),
        (["--formats", "ocmf"], "--ocmf FOLDER"),
        (["--ocmf", "nowhere"], "is no folder"),
    ],
)
def test_what_is_missing_is_told(one, tmp_path, capsys, options, told):
    assert export(one, tmp_path / "out", *options) == 2
    assert told in capsys.readouterr().err


def test_a_folder_of_records_is_bounded(one):
    with pytest.raises(ConfigError, match="more than 1 OCMF records"):
        RecordFolder(one.folder, max_records=1)


def test_text_that_a_spreadsheet_would_compute_is_quoted(tmp_path):
    from pile_coordinator.exports.tables import CsvTable

    with CsvTable(tmp_path / "t.csv", {"a": False, "b": True}) as table:
        table.add([{"a": "=1+1", "b": -5}])
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\r\n'=1+1,-5\r\n"
