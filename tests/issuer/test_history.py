"""The history: each act has its line, and a history that was tampered with does not hold."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lls.issuer import Issuer
from lls.issuer.history import Deed, changes, following, whoever
from lls.issuer.refusals import Conflict, HistoryBroken, NotKnown
from lls.issuer.register import Register
from lls.licensing.journal import Head, verify_line
from tests.issuer.appliance import NOW, Appliance, hosted, line, metered, order


def kinds(issuer: Issuer, **which: str) -> list[str]:
    return [told.kind for told in issuer.audit.lines(**which)]  # type: ignore[arg-type]


def test_each_act_leaves_its_line(issuer: Issuer, appliance: Appliance, tmp_path: Path) -> None:
    issuer.customers.load_fields("format = 1", now=NOW)
    entitlement = metered(issuer, appliance)
    key = entitlement.entitlement_id
    issuer.amending.renew(key, now=NOW)
    issuer.amending.reset_usage(key, now=NOW)
    issuer.amending.disable(key, now=NOW)
    issuer.amending.enable(key, now=NOW)
    issuer.customers.disable("ACME", now=NOW)
    issuer.customers.enable("ACME", now=NOW)
    report_id = appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    issuer.issue_receipt(report_id, now=NOW)
    issuer.rotate_keys(now=NOW)
    issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)
    told = kinds(issuer)
    for deed in (
        Deed.KEYS_MADE, Deed.CATALOG_LOADED, Deed.CUSTOMER_FIELDS_LOADED, Deed.SERVER_REGISTERED, Deed.CUSTOMER_ADDED,
        Deed.ORDER_FULFILLED, Deed.SOLD, Deed.BUNDLE_ISSUED, Deed.RENEWED, Deed.USAGE_RESET, Deed.DISABLED,
        Deed.ENABLED, Deed.CUSTOMER_DISABLED, Deed.CUSTOMER_ENABLED, Deed.REPORT_INGESTED, Deed.RECEIPT_ISSUED,
        Deed.KEYS_ROTATED, Deed.LOST, Deed.SERVER_RETIRED,
    ):  # fmt: skip
        assert deed in told, deed
    own = kinds(issuer, entitlement=key)
    assert [Deed.SOLD, Deed.RENEWED, Deed.USAGE_RESET] == [one for one in own if one != Deed.GRANT_ADDED][:3]
    assert Deed.LOST == own[-1]
    assert len(told) == issuer.audit.verify().lines


def test_a_line_says_what_changed_before_and_after(issuer: Issuer, appliance: Appliance) -> None:
    key = hosted(issuer, appliance).entitlements[0].entitlement_id
    issuer.amending.disable(key, now=NOW)
    *_, told = issuer.audit.lines(entitlement=key)
    assert {"sequence": [1, 2], "status": ["active", "disabled"]} == told.what["changes"]
    assert issuer.customer("ACME").customer_id == told.customer_id


def test_who_and_why_stand_in_every_line(issuer: Issuer, home: Path) -> None:
    who = whoever("Ada", reason="asked for by mail")
    with Issuer(home, now=NOW, who=who) as ada:
        ada.put_customer("C-1", name="One", now=NOW)
        (told,) = ada.audit.lines(customer="C-1")
    assert ("Ada", whoever().user, "asked for by mail") == (told.by, told.user, told.reason)
    issuer.put_customer("C-2", name="Two", now=NOW)
    (told,) = issuer.audit.lines(customer="C-2")
    assert (told.user, None) == (told.by, told.reason)


@pytest.mark.parametrize(("by", "reason"), [("", None), ("A\nB", None), ("x" * 101, None), ("A", ""), ("A", "\x1b[2J")])
def test_a_name_and_a_reason_are_printable(by: str, reason: str | None) -> None:
    with pytest.raises(Conflict):
        whoever(by, reason=reason)


def test_what_is_refused_leaves_no_line(issuer: Issuer, appliance: Appliance) -> None:
    key = hosted(issuer, appliance).entitlements[0].entitlement_id
    before = kinds(issuer)
    with pytest.raises(Conflict):
        issuer.amending.reset_usage(key, feature="nothing", now=NOW)
    with pytest.raises(Conflict):
        issuer.customers.delete("ACME", confirm=None, now=NOW)
    assert before == kinds(issuer)


def test_a_line_outside_of_its_acts_transaction_is_a_programming_error(issuer: Issuer) -> None:
    with pytest.raises(RuntimeError, match="outside its own transaction"):
        issuer.register.note(Deed.RENEWED, at=NOW)


def test_neither_codes_nor_names_nor_contacts_enter_a_line(issuer: Issuer, appliance: Appliance, home: Path) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, line(sku="CAD-PRO-TRIAL", quantity=1), line(2)), now=NOW)
    documents: list[Mapping[str, Any]] = [sold.document for sold in issuer.register.entitlements()]
    codes = [code for document in documents for code in document["activation_codes"]]
    assert codes
    with tampering(home) as sql:
        text = "\n".join(row for (row,) in sql.execute("SELECT line FROM history"))
    assert not [code for code in codes if code in text]
    was = {"activation_codes": ["SECRET"], "named_users": ["ada"], "x": 1}
    assert {"named_users": [{"count": 1}, {"count": 2}]} == changes(was, {**was, "named_users": ["ada", "bob"]})


def test_what_was_done_since_is_found_and_what_nobody_knows_is_told(issuer: Issuer) -> None:
    issuer.put_customer("C-1", name="One", now=NOW)
    issuer.put_customer("C-1", name="Eins", now=NOW + timedelta(seconds=1, milliseconds=500))
    since = NOW + timedelta(seconds=1)
    assert [["One", "Eins"]] == [told.what["name"] for told in issuer.audit.lines(customer="C-1", since=since)]
    with pytest.raises(NotKnown, match="C-9"):
        list(issuer.audit.lines(customer="C-9"))
    with pytest.raises(NotKnown, match="ent_none"):
        list(issuer.audit.lines(entitlement="ent_none"))


# -- tampering --------------------------------------------------------------------------------------------------------


@contextmanager
def tampering(home: Path) -> Iterator[sqlite3.Connection]:
    """The register in the hands of somebody who knows SQL."""
    sql = sqlite3.connect(home / "register.sqlite", isolation_level=None)
    try:
        yield sql
    finally:
        sql.close()


def test_the_register_itself_refuses_to_change_or_shorten_it(issuer: Issuer, home: Path) -> None:
    for statement in ("UPDATE history SET hash = ''", "DELETE FROM history"):
        with tampering(home) as sql, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            sql.execute(statement)
    issuer.audit.verify()


def _relined(sql: sqlite3.Connection, seq: int, **data: Any) -> None:
    """Another line under the same hash."""
    (text,) = sql.execute("SELECT line FROM history WHERE seq = ?", (seq,)).fetchone()
    line = json.loads(text)
    line["data"] |= data
    changed = json.dumps(line, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    sql.execute("UPDATE history SET line = ? WHERE seq = ?", (changed, seq))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET line = replace(line, '\"C-1\"', '\"C-2\"') WHERE seq = 3",
        "UPDATE history SET line = '{}' WHERE seq = 3",
        "UPDATE history SET line = '[]' WHERE seq = 3",
        "DELETE FROM history WHERE seq = 3",
        "DELETE FROM history WHERE seq = 1",
        "UPDATE history SET hash = 'x' WHERE seq = 3",
        "UPDATE history SET seq = seq + 100 WHERE seq = 5",
        "INSERT INTO history (seq, hash, line) SELECT 99, hash, line FROM history WHERE seq = 3",
    ],
)
def test_what_was_tampered_with_does_not_hold(issuer: Issuer, home: Path, statement: str) -> None:
    for number in range(1, 4):
        issuer.put_customer(f"C-{number}", name="One", now=NOW)
    assert 5 == issuer.audit.verify().lines
    with tampering(home) as sql:
        sql.execute("DROP TRIGGER history_is_not_changed")
        sql.execute("DROP TRIGGER history_is_not_shortened")
        sql.execute(statement)
    with pytest.raises(HistoryBroken):
        issuer.audit.verify()


def test_an_end_that_was_cut_off_is_found_by_a_head_that_was_written_down(issuer: Issuer, home: Path) -> None:
    early = issuer.audit.verify().head
    issuer.put_customer("C-1", name="One", now=NOW)
    late = issuer.audit.verify(head=early).head
    with tampering(home) as sql:
        sql.execute("DROP TRIGGER history_is_not_shortened")
        sql.execute("DELETE FROM history WHERE seq = (SELECT max(seq) FROM history)")
    assert early == issuer.audit.verify().head
    with pytest.raises(HistoryBroken, match="cut off"):
        issuer.audit.verify(head=late)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE entitlement SET document = json_set(document, '$.seats', 999)", "changed past the office"),
        ("DELETE FROM history WHERE kind = 'bundle_issued'", "broken"),
        ("UPDATE bundle SET bundle_id = 'bnd_' || substr(bundle_id, 6) || 'x'", "has no line"),
    ],
)
def test_what_was_changed_past_the_office_is_found(
    issuer: Issuer, appliance: Appliance, home: Path, statement: str, sentence: str
) -> None:
    hosted(issuer, appliance)
    issuer.put_customer("C-9", name="Nine", now=NOW)
    issuer.audit.verify()
    with tampering(home) as sql:
        sql.execute("DROP TRIGGER history_is_not_shortened")
        sql.execute(statement)
    with pytest.raises(HistoryBroken, match=sentence):
        issuer.audit.verify()


# -- the form of a line -----------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdhash"), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from(["what", "hash", "prev"]), _JSON, max_size=3), max_size=4))
def test_every_line_is_one_of_a_journal(datas: list[dict[str, Any]]) -> None:
    head = Head()
    for data in datas:
        made = following(head, at=NOW, deed=Deed.SOLD, who=whoever("Ada"), data=data)
        read = verify_line(made.line.encode(), after=head)
        assert (made.seq, made.hash, data) == (read["seq"], read["hash"], {key: read["data"][key] for key in data})
        head = Head(seq=made.seq, hash=made.hash)


@given(_JSON, _JSON)
def test_what_changed_is_nothing_where_nothing_did(before: Any, after: Any) -> None:
    assert {} == changes({"x": before}, {"x": before})
    same = json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
    assert same == (changes({"x": before}, {"x": after}) == {})


def test_two_registers_open_at_once_make_one_chain(issuer: Issuer, home: Path) -> None:
    with Register(home / "register.sqlite", now=NOW) as second:
        for number in range(6):
            register = (issuer.register, second)[number % 2]
            with register.transaction():
                register.note(Deed.CATALOG_LOADED, at=NOW)
    assert 8 == issuer.audit.verify().lines


def test_an_order_of_many_lines_is_told_line_by_line(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, *(line(number) for number in range(1, 4))), now=NOW)
    assert [1, 2, 3] == [told.what["line"] for told in issuer.audit.lines() if told.kind == Deed.SOLD]


_ACTS: Mapping[str, Callable[[Issuer, str, str], object]] = {
    "renew": lambda issuer, key, _: issuer.amending.renew(key, now=NOW),
    "reset": lambda issuer, key, _: issuer.amending.reset_usage(key, now=NOW),
    "disable": lambda issuer, key, _: issuer.amending.disable(key, now=NOW),
    "enable": lambda issuer, key, _: issuer.amending.enable(key, now=NOW),
    "rest": lambda issuer, _key, _server: issuer.customers.disable("ACME", now=NOW),
    "wake": lambda issuer, _key, _server: issuer.customers.enable("ACME", now=NOW),
    "bundle": lambda issuer, _, server: issuer.issue_bundle(server, now=NOW),
    "rename": lambda issuer, _key, _server: issuer.put_customer("ACME", name=f"Acme {len(kinds(issuer))}", now=NOW),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(acts=st.lists(st.sampled_from(sorted(_ACTS)), max_size=12))
def test_whatever_is_done_the_history_holds_and_tells_every_state(
    issuer: Issuer, appliance: Appliance, acts: list[str]
) -> None:
    if not issuer.register.entitlements():
        metered(issuer, appliance)
    (sold,) = issuer.register.entitlements()
    for act in acts:
        before = len(kinds(issuer))
        try:
            _ACTS[act](issuer, sold.entitlement_id, appliance.server_id)
        except Conflict:
            assert before == len(kinds(issuer))
        issuer.audit.verify()
    told = [one.what["changes"] for one in issuer.audit.lines(entitlement=sold.entitlement_id) if "changes" in one.what]
    steps = [change["sequence"] for change in told if "sequence" in change]
    document: Mapping[str, Any] = issuer.entitlement(sold.entitlement_id).document
    assert [[number, number + 1] for number in range(1, document["sequence"])] == steps
