"""Customers: known by a reference of the vendor's own, imported, told to sites in part, disabled, deleted."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lls.issuer import Issuer, sample_catalog
from lls.issuer.customer_fields import read_customer_fields
from lls.issuer.customer_file import read_customer_file
from lls.issuer.customers import Contact, Edit, Imported
from lls.issuer.history import Deed
from lls.issuer.refusals import CatalogRefused, Conflict, NotKnown, OrderRefused
from lls.licensing.entitlement import Status
from tests.issuer.appliance import NOW, Appliance, Chance, hosted, imported, line, order

SCHEMA = """
format = 1
[fields.region]
type = "choice"
choices = ["north", "south"]
required = true
in_bundle = true
[fields.credit]
type = "number"
[fields.since]
type = "date"
"""


def take(issuer: Issuer, text: str, *, dry_run: bool = False, all_or_nothing: bool = False) -> Imported:
    read = read_customer_file(text.encode())
    return issuer.customers.take_in(read, dry_run=dry_run, all_or_nothing=all_or_nothing, now=NOW)


def known(issuer: Issuer) -> dict[str, str]:
    return {one.account_ref: one.name for one in issuer.register.customers()}


# -- fields of the vendor's own ---------------------------------------------------------------------------------------


def test_only_what_the_schema_lets_travel_is_in_a_bundle(issuer: Issuer, appliance: Appliance) -> None:
    issuer.put_customer("ACME", name="Acme", custom_fields={"region": "north", "credit": "1000"}, now=NOW)
    assert {} == hosted(issuer, appliance).customer.custom_fields
    issuer.customers.load_fields(SCHEMA, now=NOW)
    assert {"region": "north"} == imported(issuer, appliance).customer.custom_fields
    assert {"region": "north", "credit": "1000"} == issuer.customer("ACME").custom_fields


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({}, "region is required and missing"),
        ({"region": "west"}, "region must be one of north, south"),
        ({"region": "north", "colour": "red"}, "colour is not among the customers' fields"),
        ({"region": "north", "credit": "much"}, "credit must be a number"),
        ({"region": "north", "credit": "1e9"}, "credit must be a number"),
        ({"region": "north", "credit": "٣"}, "credit must be a number"),
        ({"region": "north", "since": "20261121"}, "since must be a day"),
        ({"region": "north", "since": "2026-02-30"}, "since must be a day"),
        ({"region": "north", "credit": "1\x1b[2J"}, "credit must be a printable text"),
    ],
)
def test_a_schema_judges_what_is_written(issuer: Issuer, own: dict[str, str], sentence: str) -> None:
    issuer.customers.load_fields(SCHEMA, now=NOW)
    with pytest.raises(Conflict, match=sentence):
        issuer.put_customer("C-1", name="One", custom_fields=own, now=NOW)
    assert {} == known(issuer)


def test_what_lies_there_already_is_told_and_kept(issuer: Issuer) -> None:
    issuer.put_customer("C-1", name="One", custom_fields={"colour": "red"}, now=NOW)
    misfits = dict(issuer.customers.load_fields(SCHEMA, now=NOW).misfits)
    assert {"C-1": "region is required and missing"} == misfits
    changed = issuer.customers.edit("C-1", Edit(own={"region": "south"}), now=NOW).customer
    assert {"colour": "red", "region": "south"} == changed.custom_fields
    with pytest.raises(Conflict, match="region is required"):
        issuer.customers.edit("C-1", Edit(own={"region": None}), now=NOW)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "format is missing"),
        ("format = 2", "format must be 1"),
        ("format = 1\n[field.a]\ntype = 'text'", "perhaps 'fields' is meant"),
        ("format = 1\n[fields.a]", "fields.a.type is missing"),
        ("format = 1\n[fields.a]\ntype = 'text'\nin_bundel = true", "perhaps 'in_bundle' is meant"),
        ("format = 1\n[fields.a]\ntype = 'choice'", "fields.a.choices must list"),
        ("format = 1\n[fields.a]\ntype = 'text'\nchoices = ['x']", "fields.a.choices must list"),
        ("format = 1\n[fields.a]\ntype = 'choice'\nchoices = ['x', 'x']", "names one choice twice"),
        ("format = 1\n[fields.a]\ntype = 'text'\nrequired = 1", "fields.a.required must be true or false"),
        ("format = 1\n[fields.'a b']\ntype = 'text'", "must be named with"),
        ("format = 1\nfields = 7", "fields must be a table"),
        ("format = ", "not valid TOML"),
        ("a = " + "[" * 5_000, "not valid TOML"),
    ],
)
def test_a_schema_is_read_strictly(text: str, sentence: str) -> None:
    with pytest.raises(CatalogRefused, match=sentence):
        read_customer_fields(text)


# -- adding and editing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("account_ref", ["", "x" * 101, "A\nB", f"cus_{'A' * 22}"])
def test_a_reference_that_cannot_be_one_is_refused(issuer: Issuer, account_ref: str) -> None:
    with pytest.raises(Conflict, match=r"customer\.account_ref"):
        issuer.put_customer(account_ref, name="One", now=NOW)


def test_contacts_and_notes_are_kept_by_what_they_are_known_by(issuer: Issuer) -> None:
    issuer.put_customer("C-1", name="One", now=NOW)
    ada = Contact(email="ada@one.example", name="Ada", role="buyer")
    issuer.customers.edit("C-1", Edit(contacts=[ada], note="Pays late."), now=NOW)
    later = Contact(email="ADA@one.example", phone="+49 1")
    whole = issuer.customers.edit("C-1", Edit(contacts=[later], note="Paid."), now=NOW + timedelta(days=1))
    assert (replace(ada, phone="+49 1"),) == whole.contacts
    assert ["Pays late.", "Paid."] == [note.text for note in whole.notes]
    assert {"customer_contact": 1, "customer_note": 2} == whole.below
    assert () == issuer.customers.edit("C-1", Edit(no_contacts=["ada@ONE.example"]), now=NOW).contacts
    with pytest.raises(Conflict, match="no contact"):
        issuer.customers.edit("C-1", Edit(no_contacts=["ada@one.example"]), now=NOW)


@pytest.mark.parametrize(
    "edit",
    [
        Edit(name=""),
        Edit(name="A\x07"),
        Edit(contacts=[Contact(email="nobody")]),
        Edit(contacts=[Contact(email="a @b")]),
        Edit(contacts=[Contact(email="a@b", name="\x1b[2J")]),
        Edit(note=""),
        Edit(note="x" * 2_001),
        Edit(own={"a b": "x"}),
        Edit(name="Two", note="\x00"),
    ],
)
def test_an_edit_that_is_refused_changes_nothing(issuer: Issuer, edit: Edit) -> None:
    issuer.put_customer("C-1", name="One", now=NOW)
    before, lines = issuer.customers.whole("C-1"), list(issuer.audit.lines())
    with pytest.raises(Conflict):
        issuer.customers.edit("C-1", edit, now=NOW)
    assert (before, lines) == (issuer.customers.whole("C-1"), list(issuer.audit.lines()))


# -- import -----------------------------------------------------------------------------------------------------------


def test_a_file_adds_changes_and_leaves_alone(issuer: Issuer) -> None:
    take(issuer, "account_ref,name,field.region\nC-1,One,north\nC-2,Two,\n")
    done = take(issuer, "account_ref,name,field.region\nC-1,,south\nC-2,Two,\nC-3,Three,\n")
    assert (1, 1, 1, ()) == (done.added, done.changed, done.unchanged, done.refused)
    assert {"C-1": "One", "C-2": "Two", "C-3": "Three"} == known(issuer)
    assert {"region": "south"} == issuer.customer("C-1").custom_fields


def test_the_same_file_again_changes_nothing(issuer: Issuer) -> None:
    text = "account_ref,name,contact_email,contact_name,note\nC-1,One,a@one.example,Ada,Hello\n"
    assert 1 == take(issuer, text).added
    before = list(issuer.audit.lines())
    assert (0, 0, 1) == ((done := take(issuer, text)).added, done.changed, done.unchanged)
    assert before == list(issuer.audit.lines())


def test_a_dry_run_says_everything_and_writes_nothing(issuer: Issuer) -> None:
    text = "account_ref,name,note\nC-1,One,Hello\nC-2,,\n"
    dry = take(issuer, text, dry_run=True)
    assert ({}, False) == (known(issuer), dry.kept)
    assert replace(dry, kept=True) == take(issuer, text)


def test_a_refused_row_takes_no_other_with_it_unless_that_is_asked_for(issuer: Issuer) -> None:
    issuer.customers.load_fields(SCHEMA, now=NOW)
    text = "account_ref,name,field.region,contact_phone\nC-1,One,north,\nC-2,,north,1\nC-3,Three,west,\n"
    whole = take(issuer, text, all_or_nothing=True)
    assert ({}, False) == (known(issuer), whole.kept)
    part = take(issuer, text)
    assert ({"C-1": "One"}, True) == (known(issuer), part.kept)
    assert part.refused == whole.refused
    assert [(3, "name"), (3, "contact_email"), (4, "field.region")] == [(one.row, one.column) for one in part.refused]


def test_ten_thousand_rows_come_in_in_seconds_and_are_counted_on_the_way(issuer: Issuer) -> None:
    text = "account_ref,name,field.region,contact_email,contact_name\n" + "".join(
        f"C-{n},Customer {n},north,buyer@c{n}.example,Buyer {n}\n" for n in range(10_000)
    )
    seen: list[tuple[int, int]] = []
    begun = time.monotonic()
    read = read_customer_file(text.encode())
    done = issuer.customers.take_in(read, progress=lambda done, total: seen.append((done, total)), now=NOW)
    assert time.monotonic() - begun < 20  # measured: 1 to 2 seconds
    assert (10_000, (10_000, 10_000)) == (done.added, seen[-1])
    assert seen == sorted(seen)
    assert issuer.audit.verify().lines > 10_000


_ROW = st.tuples(st.sampled_from(["C-1", "C-2", "C-3", ""]), st.sampled_from(["One", "Two", "", "=x", "\x07"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(files=st.lists(st.lists(_ROW, max_size=4), max_size=3))
def test_whatever_files_come_what_was_counted_is_what_is_there(
    issuer: Issuer, files: list[list[tuple[str, str]]]
) -> None:
    for rows in files:
        before = known(issuer)
        text = "account_ref,name\n" + "".join(f"{ref},{name}\n" for ref, name in rows)
        dry = take(issuer, text, dry_run=True)
        assert before == known(issuer)
        done = take(issuer, text)
        after = known(issuer)
        assert replace(dry, kept=True) == done
        assert done.added == len(after) - len(before)
        assert done.changed == sum(before[ref] != after[ref] for ref in before)
    issuer.audit.verify()


# -- disabling --------------------------------------------------------------------------------------------------------


def test_disabling_reaches_every_entitlement_with_the_next_bundle_and_back(
    issuer: Issuer, appliance: Appliance
) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    issuer.fulfil(order(appliance, line(1), line(2)), now=NOW)
    one, two = (sold.entitlement_id for sold in issuer.register.entitlements())
    issuer.amending.disable(two, now=NOW)

    def there() -> dict[str, Status]:
        return {each.entitlement_id: each.status for each in imported(issuer, appliance).entitlements}

    switched = issuer.customers.disable("ACME", now=NOW)
    assert ([one], (appliance.server_id,), False) == (
        [sold.entitlement_id for sold in switched.entitlements], switched.server_ids, switched.again,
    )  # fmt: skip
    assert {one: Status.CUSTOMER_DISABLED, two: Status.DISABLED} == there()
    assert issuer.customers.disable("ACME", now=NOW).again
    for entitlement_id in (one, two):
        with pytest.raises(Conflict, match="customer enable"):
            issuer.amending.enable(entitlement_id, now=NOW)
    issuer.customers.enable("ACME", now=NOW)
    assert {one: Status.ACTIVE, two: Status.DISABLED} == there()
    assert issuer.customers.enable("ACME", now=NOW).again


def test_nothing_is_sold_to_a_disabled_customer(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    issuer.customers.disable("ACME", now=NOW)
    with pytest.raises(OrderRefused, match="disabled since 2026-11-21"):
        issuer.fulfil(order(appliance, line(), order_ref="SO-2"), now=NOW)
    issuer.customers.enable("ACME", now=NOW)
    issuer.fulfil(order(appliance, line(), order_ref="SO-2"), now=NOW)


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_deleting_is_refused_while_a_server_hosts(issuer: Issuer, appliance: Appliance) -> None:
    hosted(issuer, appliance)
    name = issuer.customer("ACME").name
    with pytest.raises(Conflict, match=f"{appliance.server_id} hosts ent_.*Below it hang: .*servers \\(1\\)"):
        issuer.customers.delete("ACME", confirm=name, now=NOW)
    assert name == issuer.customer("ACME").name


def test_deleting_takes_all_that_hangs_below_and_nothing_of_another(
    issuer: Issuer, appliance: Appliance, home: Path, tmp_path: Path
) -> None:
    other = Appliance.new(seed=9_000)
    issuer.put_customer("OTHER", name="Other", now=NOW)
    issuer.register_server(other.request(name="other"), customer="OTHER", now=NOW)
    issuer.fulfil(order(other, line(), order_ref="SO-9", account_ref="OTHER"), now=NOW)
    issuer.issue_bundle(other.server_id, now=NOW)
    kept = counts(home)

    bundle = hosted(issuer, appliance)
    issuer.customers.edit("ACME", Edit(contacts=[Contact(email="a@b")], note="Hello"), now=NOW)
    appliance.grant(bundle.entitlements[0].entitlement_id)
    report_id = appliance.report(tmp_path / "r")
    issuer.ingest(tmp_path / "r", now=NOW)
    issuer.issue_receipt(report_id, now=NOW)
    issuer.hosting.retire(appliance.server_id, lost=True, confirm="site", now=NOW)
    customer = issuer.customer("ACME")
    for confirm in (None, "", "ACME!"):
        with pytest.raises(Conflict, match=r"takes with it: .*reports \(1\).*--confirm"):
            issuer.customers.delete("ACME", confirm=confirm, now=NOW)
    gone = issuer.customers.delete("ACME", confirm=customer.name, now=NOW)
    assert {"server", "entitlement", "bundle", "report", "journal", "usage", "customer_note"} <= gone.below.keys()
    assert kept == counts(home)
    with pytest.raises(NotKnown):
        issuer.customer("ACME")
    issuer.audit.verify()
    told = [one.kind for one in issuer.audit.lines(customer="ACME")]
    assert (Deed.CUSTOMER_ADDED, Deed.CUSTOMER_DELETED) == (told[0], told[-1])


def counts(home: Path) -> dict[str, int]:
    """The rows of every table, but for the history, which only grows."""
    with sqlite3.connect(home / "register.sqlite") as sql:
        names = [name for (name,) in sql.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {name: sql.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}  # noqa: S608
    sql.close()
    return {name: count for name, count in rows.items() if name != "history"}


def test_who_is_deleted_is_found_in_no_file_any_more(issuer: Issuer, home: Path) -> None:
    """Neither in what was asked under a reference, nor in the log beside the register while another has it open."""
    named = """[offerings.NAMED]
name = "By name"
product = "cad"
edition = "pro"
plan = "year"
concurrency = "named_user"
named_user_assignment = { by_site = true, changes_per_month = 3 }
"""
    issuer.load_catalog(sample_catalog() + named, now=NOW)
    with Issuer(home, now=NOW, random=Chance(50_000)) as desk:
        one = {"line": 1, "action": "new", "sku": "NAMED", "quantity": 2, "named_users": ["ada.p"]}
        sale = {"order_ref": "SO-1", "account_ref": "ACME", "customer": {"name": "Example Works"}, "lines": [one]}
        (sold,) = desk.fulfil(json.dumps(sale).encode(), now=NOW)[0].entitlements
        desk.amending.add_seats(sold.entitlement_id, 1, named_users=["bob.p"], ref="R-1", now=NOW)
        desk.customers.edit("ACME", Edit(contacts=[Contact(email="eve.p@b")]), now=NOW)
        desk.customers.delete("ACME", confirm="Example Works", now=NOW)
        everything = b"".join(path.read_bytes() for path in home.glob("register.sqlite*"))
    assert [] == [name for name in ("ada.p", "bob.p", "eve.p") if name.encode() in everything]
