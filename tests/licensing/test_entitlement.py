"""What was bought: read strictly from the vendor's document, and in force exactly when it says."""

from __future__ import annotations

import copy
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.faults import Refusal, RefusedDocument
from lls.licensing.calendar import Term, Unit
from lls.licensing.entitlement import (
    LONGEST_BORROW_SECONDS,
    LONGEST_LEASE_SECONDS,
    LONGEST_UNDO_SECONDS,
    MOST_SEATS,
    MOST_UNITS,
    BorrowTerms,
    Concurrency,
    Entitlement,
    Feature,
    FeatureType,
    Grant,
    GrantExpiry,
    LicenseType,
    NamedUsers,
    Overdraft,
    OverdraftType,
    Reset,
    Sharing,
    Standing,
    Start,
    Status,
    normalise_code,
    read_entitlement,
)

STARTS = datetime(2026, 1, 1, tzinfo=UTC)
EXPIRES = datetime(2027, 1, 1, tzinfo=UTC)
GRACE = timedelta(days=7)
INSTANT = timedelta(microseconds=1)

DOCUMENT: dict[str, Any] = {
    "entitlement_id": "ent_AAAAAAAAAAAAAAAAAAAAAA",
    "group_id": "egr_AAAAAAAAAAAAAAAAAAAAAA",
    "session_id": "ses_AAAAAAAAAAAAAAAAAAAAAA",
    "sequence": 7,
    "order_ref": "SO-1001",
    "activation_codes": ["Y64E-G6QX-56EW-W1BG"],
    "product": {"key": "cad", "name": "CAD"},
    "offering": {"sku": "CAD-PRO-1Y", "name": "CAD Pro, one year"},
    "edition": "pro",
    "plan": {"license_type": "subscription", "start": "fixed", "term": {"unit": "year", "count": 1}},
    "status": "active",
    "starts_at": "2026-01-01T00:00:00Z",
    "expires_at": "2027-01-01T00:00:00Z",
    "grace_seconds": 604_800,
    "maintenance_expires_on": "2026-06-30",
    "concurrency": "concurrent",
    "named_users": [],
    "max_version": None,
    "seats": 50,
    "overdraft": {"type": "absolute", "value": 5},
    "sharing": "none",
    "lease_seconds": 600,
    "linger_seconds": 0,
    "features": [{"key": "render", "type": "bool", "value": 1, "unit": None}],
    "attributes": [
        {"key": "max_layers", "type": "number", "value": 64},
        {"key": "region", "type": "string", "value": "EU"},
        {"key": "since", "type": "date", "value": "2026-01-01"},
    ],
}
ABSENT = object()


def document(path: str = "", value: object = None) -> dict[str, Any]:
    """The sample with one member replaced or, where the value is ABSENT, left out."""
    changed = copy.deepcopy(DOCUMENT)
    if path:
        place: Any = changed
        *outer, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
        for part in outer:
            place = place[part]
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    return changed


def read(path: str = "", value: object = None) -> Entitlement:
    return read_entitlement(document(path, value))


def test_a_document_is_read_whole() -> None:
    assert (
        Entitlement(
            entitlement_id="ent_AAAAAAAAAAAAAAAAAAAAAA",
            group_id="egr_AAAAAAAAAAAAAAAAAAAAAA",
            session_id="ses_AAAAAAAAAAAAAAAAAAAAAA",
            sequence=7,
            order_ref="SO-1001",
            activation_codes=frozenset({"Y64E-G6QX-56EW-W1BG"}),
            product="cad",
            product_name="CAD",
            sku="CAD-PRO-1Y",
            offering="CAD Pro, one year",
            edition="pro",
            license_type=LicenseType.SUBSCRIPTION,
            start=Start.FIXED,
            status=Status.ACTIVE,
            starts_at=STARTS,
            expires_at=EXPIRES,
            grace=GRACE,
            maintenance_expires_on=date(2026, 6, 30),
            concurrency=Concurrency.CONCURRENT,
            max_version=None,
            seats=50,
            overdraft=Overdraft(type=OverdraftType.ABSOLUTE, value=5),
            sharing=Sharing.NONE,
            lease_seconds=600,
            linger_seconds=0,
            features=(Feature(key="render", type=FeatureType.BOOL, value=1),),
            attributes={"max_layers": 64, "region": "EU", "since": "2026-01-01"},
        )
        == read()
    )


def test_members_of_newer_producers_are_ignored() -> None:
    assert read() == read("plan.colour", "blue") == read("moon_phase", {"is": ["full"]})


@pytest.mark.parametrize(
    ("path", "attribute", "expected"),
    [
        ("edition", "edition", None),
        ("expires_at", "expires_at", None),
        ("maintenance_expires_on", "maintenance_expires_on", None),
        ("max_version", "max_version", None),
        ("seats", "seats", None),
        ("overdraft", "overdraft", Overdraft()),
        ("features", "features", ()),
        ("attributes", "attributes", {}),
        ("activation_codes", "activation_codes", frozenset()),
    ],
)
def test_what_may_be_absent_has_a_plain_meaning(path: str, attribute: str, expected: object) -> None:
    assert expected == getattr(read(path, ABSENT), attribute)


MALFORMED: list[tuple[str, object, str]] = [
    *((member, ABSENT, member) for member in DOCUMENT if member in {
        "entitlement_id", "group_id", "session_id", "sequence", "order_ref", "product", "offering", "plan", "status",
        "starts_at", "grace_seconds", "concurrency", "sharing", "lease_seconds", "linger_seconds",
    }),
    ("entitlement_id", "ent_short", "entitlement_id"),
    ("entitlement_id", "egr_AAAAAAAAAAAAAAAAAAAAAA", "entitlement_id"),
    ("entitlement_id", "ent_AAAAAAAAAAAAAAAAAAAAA/", "entitlement_id"),
    ("entitlement_id", "ent_AAAAAAAAAAAAAAAAAAAAAA\n", "entitlement_id"),
    ("group_id", 1, "group_id"),
    ("session_id", None, "session_id"),
    ("sequence", 0, "sequence"),
    ("sequence", True, "sequence"),
    ("sequence", 1.0, "sequence"),
    ("sequence", 2**53, "sequence"),
    ("order_ref", "", "order_ref"),
    ("order_ref", "a\nb", "order_ref"),
    ("order_ref", "x" * 201, "order_ref"),
    ("activation_codes", "Y64E", "activation_codes"),
    ("activation_codes", [1], "activation_codes[0]"),
    ("activation_codes", ["A", ""], "activation_codes[1]"),
    ("product", "cad", "product"),
    ("product.key", "c a d", "product.key"),
    ("product.key", "x" * 51, "product.key"),
    ("product.name", ABSENT, "product.name"),
    ("offering.sku", "", "offering.sku"),
    ("offering.name", 7, "offering.name"),
    ("edition", "pro!", "edition"),
    ("plan.license_type", "gift", "plan.license_type"),
    ("plan.start", "whenever", "plan.start"),
    ("status", "asleep", "status"),
    ("status", ["active"], "status"),
    ("starts_at", None, "starts_at"),
    ("starts_at", "2026-01-01", "starts_at"),
    ("starts_at", "2026-01-01T00:00:00", "starts_at"),
    ("starts_at", "2026-01-01T00:00:00+01:00", "starts_at"),
    ("expires_at", "2026-02-30T00:00:00Z", "expires_at"),
    ("expires_at", "2025-12-31T23:59:59Z", "expires_at"),
    ("expires_at", "9999-12-31T00:00:00Z", "expires_at"),
    ("grace_seconds", -1, "grace_seconds"),
    ("grace_seconds", 3650 * 86_400 + 1, "grace_seconds"),
    ("maintenance_expires_on", "2026-02-30", "maintenance_expires_on"),
    ("maintenance_expires_on", "2026-06-30T00:00:00Z", "maintenance_expires_on"),
    ("concurrency", "crowded", "concurrency"),
    ("max_version", 2026, "max_version"),
    ("max_version", "", "max_version"),
    ("seats", -1, "seats"),
    ("seats", "50", "seats"),
    ("seats", MOST_SEATS + 1, "seats"),
    ("overdraft", 5, "overdraft"),
    ("overdraft.type", "some", "overdraft.type"),
    ("overdraft.value", ABSENT, "overdraft.value"),
    ("overdraft.value", -5, "overdraft.value"),
    ("sharing", "family", "sharing"),
    ("lease_seconds", 2, "lease_seconds"),
    ("lease_seconds", LONGEST_LEASE_SECONDS + 1, "lease_seconds"),
    ("linger_seconds", -1, "linger_seconds"),
    ("features", {}, "features"),
    ("features.0", "render", "features[0]"),
    ("features.0.key", "", "features[0].key"),
    ("features.0.type", "magic", "features[0].type"),
    ("features.0.value", 2, "features[0].value"),
    ("features.0.value", True, "features[0].value"),
    ("features", [DOCUMENT["features"][0]] * 2, "features"),
    ("attributes.0.type", "colour", "attributes[0].type"),
    ("attributes.0.value", "64", "attributes[0].value"),
    ("attributes.0.value", 6.4, "attributes[0].value"),
    ("attributes.1.value", 1, "attributes[1].value"),
    ("attributes.2.value", "yesterday", "attributes[2].value"),
    ("attributes.2.value", None, "attributes[2].value"),
    ("attributes", [DOCUMENT["attributes"][0]] * 2, "attributes[1].key"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "place"), MALFORMED)
def test_a_malformed_member_is_refused_by_its_place(path: str, value: object, place: str) -> None:
    with pytest.raises(RefusedDocument, match=rf"^entitlements\[2\]\.{re.escape(place)} ") as refused:
        read_entitlement(document(path, value), place="entitlements[2]")
    assert Refusal.MALFORMED is refused.value.reason


@pytest.mark.parametrize("value", [None, [], "ent", 7])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(RefusedDocument, match="must be an object"):
        read_entitlement(value)


@given(st.sampled_from(sorted(DOCUMENT)), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
))  # fmt: skip
def test_whatever_a_member_is_the_answer_is_an_entitlement_or_a_refusal(member: str, value: object) -> None:
    try:
        assert isinstance(read(member, value), Entitlement)
    except RefusedDocument as refused:
        assert Refusal.MALFORMED is refused.reason  # noqa: PT017  # either outcome keeps the promise


def test_a_perpetual_entitlement_has_no_end() -> None:
    forever = read("expires_at", None)
    assert forever.ends_at is None
    assert Standing.ACTIVE is forever.standing(datetime(9999, 12, 31, tzinfo=UTC))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (STARTS - INSTANT, Standing.NOT_STARTED),
        (STARTS, Standing.ACTIVE),
        (EXPIRES - INSTANT, Standing.ACTIVE),
        (EXPIRES, Standing.GRACE),
        (EXPIRES + GRACE - INSTANT, Standing.GRACE),
        (EXPIRES + GRACE, Standing.EXPIRED),
    ],
)
def test_each_boundary_belongs_to_what_follows_it(at: datetime, expected: Standing) -> None:
    assert expected is read().standing(at)
    for status in ("disabled", "customer_disabled"):
        assert Standing.DISABLED is read("status", status).standing(at)


def test_leases_end_with_the_grace() -> None:
    assert EXPIRES + GRACE == read().ends_at


def test_without_grace_the_end_is_the_end() -> None:
    assert Standing.EXPIRED is read("grace_seconds", 0).standing(EXPIRES)
    assert Standing.ACTIVE is read("grace_seconds", 0).standing(EXPIRES - INSTANT)


def test_a_term_that_begins_with_the_first_lease_needs_no_start() -> None:
    changed = document("starts_at", None)
    changed["plan"]["start"] = "on_first_lease"
    assert Standing.ACTIVE is read_entitlement(changed).standing(STARTS - GRACE)


@pytest.mark.parametrize(
    ("overdraft", "seats", "capacity"),
    [
        ({"type": "none"}, 50, 50),
        ({"type": "none", "value": 9}, 50, 50),
        ({"type": "absolute", "value": 5}, 50, 55),
        ({"type": "absolute", "value": 5}, 0, 5),
        ({"type": "percentage", "value": 10}, 50, 55),
        ({"type": "percentage", "value": 10}, 9, 9),
        ({"type": "percentage", "value": 10}, 19, 20),
        ({"type": "percentage", "value": 0}, 50, 50),
        ({"type": "percentage", "value": 250}, 2, 7),
        ({"type": "unlimited"}, 50, None),
        ({"type": "absolute", "value": 5}, None, None),
        ({"type": "none"}, None, None),
    ],
)
def test_overdraft_comes_on_top_and_a_percentage_is_rounded_down(
    overdraft: dict[str, Any], seats: int | None, capacity: int | None
) -> None:
    changed = document("overdraft", overdraft) | {"seats": seats}
    assert capacity == read_entitlement(changed).capacity


@given(st.integers(0, MOST_SEATS), st.integers(0, 1000))
def test_a_percentage_is_exact_and_never_more_than_agreed(base: int, value: int) -> None:
    changed = document("overdraft", {"type": "percentage", "value": value}) | {"seats": base}
    capacity = read_entitlement(changed).capacity
    assert capacity is not None
    assert (capacity - base) * 100 <= base * value < (capacity - base + 1) * 100


@pytest.mark.parametrize(
    ("max_version", "version", "covered"),
    [
        (None, "9999", True),
        ("2026", None, True),
        ("2026", "2026", True),
        ("2026", "2026.4", True),
        ("2026", "2026.4.1", True),
        ("2026", "2027", False),
        ("2026", "2027.0", False),
        ("2026.1", "2026", True),
        ("2026.1", "2026.1.9", True),
        ("2026.1", "2026.2", False),
        ("2026.9", "2026.10", False),
        ("2026.10", "2026.9", True),
        ("9", "10", False),
        ("1.0", "1", True),
        ("2026.a", "2026.a", True),
    ],
)
def test_a_version_is_covered_up_to_its_ceiling(max_version: str | None, version: str | None, covered: bool) -> None:
    assert covered is read("max_version", max_version).covers(version=version, released_on=None)


@pytest.mark.parametrize("version", ["2027-beta", "v2027", "2027b.1"])
def test_a_version_with_a_word_in_it_is_not_below_every_ceiling(version: str) -> None:
    assert not read("max_version", "2026").covers(version=version, released_on=None)


@pytest.mark.parametrize(
    ("released_on", "covered"),
    [(None, True), (date(2026, 6, 29), True), (date(2026, 6, 30), True), (date(2026, 7, 1), False)],
)
def test_a_build_is_covered_to_the_last_day_of_maintenance(released_on: date | None, covered: bool) -> None:
    assert covered is read().covers(version=None, released_on=released_on)


def test_without_a_maintenance_date_every_build_is_covered() -> None:
    assert read("maintenance_expires_on", None).covers(version=None, released_on=date(9999, 12, 31))


def test_version_and_maintenance_must_both_cover_a_build() -> None:
    entitlement = read("max_version", "2026")
    assert entitlement.covers(version="2026.1", released_on=date(2026, 6, 30))
    assert not entitlement.covers(version="2027", released_on=date(2026, 6, 30))
    assert not entitlement.covers(version="2026.1", released_on=date(2026, 7, 1))


@pytest.mark.parametrize(
    ("codes", "given_code", "opens"),
    [
        ([], None, True),
        ([], "Y64E", False),
        (["Y64E"], None, False),
        (["Y64E"], "Y64E", True),
        (["Y64E"], " y64e\t", True),
        ([" y64e "], "Y64E", True),
        (["Y64E", "A1B2"], "a1b2", True),
        (["Y64E"], "Y64", False),
        (["Y64E"], "Y64EX", False),
        (["Y64E"], "", False),
        (["Y64E"], "Ж64E", False),
    ],
)
def test_a_code_opens_what_it_was_made_for(codes: list[str], given_code: str | None, opens: bool) -> None:
    normalised = None if given_code is None else normalise_code(given_code)
    assert opens is read("activation_codes", codes).opens_with(normalised)


def test_no_code_is_shown_when_an_entitlement_is() -> None:
    assert "Y64E" not in repr(read())


def test_a_feature_is_found_by_its_key() -> None:
    assert Feature(key="render", type=FeatureType.BOOL, value=1) == read().feature("render")
    assert read().feature("paint") is None


GRANT: dict[str, Any] = {
    "grant_id": "grt_AAAAAAAAAAAAAAAAAAAAAA",
    "amount": 100,
    "active_from": "2026-01-01T00:00:00Z",
    "expiry": {"type": "custom", "unit": "month", "count": 3, "at": None},
}
CREDIT: dict[str, Any] = {
    "key": "render",
    "type": "credit",
    "value": 5_000,
    "unit": "cent",
    "currency": "USD",
    "overdraft": {"type": "absolute", "value": 10**15},
    "reset": "monthly",
    "undo_seconds": 60,
    "grants": [GRANT],
}


def counted(path: str = "", value: object = None) -> Entitlement:
    """The sample with a credit, of which one member is another."""
    changed = document()
    changed["features"] = [copy.deepcopy(CREDIT)]
    place: Any = changed["features"][0]
    *outer, last = [int(part) if part.isdecimal() else part for part in path.split(".")] if path else [""]
    for part in outer:
        place = place[part]
    if path and value is ABSENT:
        del place[last]
    elif path:
        place[last] = value
    return read_entitlement(changed)


def test_a_counted_feature_is_read_whole() -> None:
    grant = Grant(
        grant_id="grt_AAAAAAAAAAAAAAAAAAAAAA",
        amount=100,
        active_from=STARTS,
        expiry=GrantExpiry.CUSTOM,
        term=Term(unit=Unit.MONTH, count=3),
    )
    expected = Feature(
        key="render",
        type=FeatureType.CREDIT,
        value=5_000,
        unit="cent",
        currency="USD",
        overdraft=Overdraft(type=OverdraftType.ABSOLUTE, value=MOST_UNITS),
        reset=Reset.MONTHLY,
        undo_seconds=60,
        grants=(grant,),
    )
    assert expected == counted().feature("render")


@pytest.mark.parametrize(
    ("path", "attribute", "expected"),
    [
        ("unit", "unit", None),
        ("currency", "currency", None),
        ("overdraft", "overdraft", Overdraft()),
        ("reset", "reset", Reset.NEVER),
        ("undo_seconds", "undo_seconds", 0),
        ("grants", "grants", ()),
    ],
)
def test_a_feature_that_says_nothing_of_it_has_no_grant_reset_overdraft_or_undo(
    path: str, attribute: str, expected: object
) -> None:
    feature = counted(path, ABSENT).feature("render")
    assert expected == getattr(feature, attribute)


@pytest.mark.parametrize(
    ("expiry", "expected"),
    [
        ({"type": "never"}, (GrantExpiry.NEVER, None, None)),
        (
            {"type": "end_of_contract", "unit": None, "count": None, "at": None},
            (GrantExpiry.END_OF_CONTRACT, None, None),
        ),
        ({"type": "end_of_period", "unit": "year", "count": 0}, (GrantExpiry.END_OF_PERIOD, None, None)),
        ({"type": "custom", "unit": "week", "count": 2}, (GrantExpiry.CUSTOM, Term(unit=Unit.WEEK, count=2), None)),
        ({"type": "at", "at": "2026-06-01T00:00:00Z"}, (GrantExpiry.AT, None, datetime(2026, 6, 1, tzinfo=UTC))),
    ],
)
def test_an_expiry_brings_what_belongs_to_it(expiry: object, expected: tuple[object, ...]) -> None:
    feature = counted("grants.0.expiry", expiry).feature("render")
    assert feature is not None
    (grant,) = feature.grants
    assert expected == (grant.expiry, grant.term, grant.at)


@pytest.mark.parametrize("value", [0, 1])
def test_a_switch_may_be_tracked(value: int) -> None:
    changed = document("features", [{"key": "simulate", "type": "bool", "value": value, "tracked": True}])
    assert Feature(key="simulate", type=FeatureType.BOOL, value=value, tracked=True) == read_entitlement(
        changed
    ).feature("simulate")


HOSTILE_FEATURES: list[tuple[str, object, str]] = [
    ("key", "", "key"),
    ("key", "x" * 51, "key"),
    ("key", None, "key"),
    ("type", "pool", "type"),
    ("type", ["credit"], "type"),
    ("value", -1, "value"),
    ("value", MOST_UNITS + 1, "value"),
    ("value", 2**63, "value"),
    ("value", 1.5, "value"),
    ("value", True, "value"),
    ("value", "5000", "value"),
    ("value", None, "value"),
    ("value", ABSENT, "value"),
    ("unit", "", "unit"),
    ("unit", "x" * 51, "unit"),
    ("unit", "a\nb", "unit"),
    ("currency", "DOLLAR", "currency"),
    ("currency", 1, "currency"),
    ("overdraft", "unlimited", "overdraft"),
    ("overdraft.value", MOST_UNITS + 1, "overdraft.value"),
    ("overdraft.value", -1, "overdraft.value"),
    ("overdraft.type", "some", "overdraft.type"),
    ("reset", "weekly", "reset"),
    ("reset", 1, "reset"),
    ("undo_seconds", -1, "undo_seconds"),
    ("undo_seconds", LONGEST_UNDO_SECONDS + 1, "undo_seconds"),
    ("undo_seconds", 0.5, "undo_seconds"),
    ("grants", {}, "grants"),
    ("grants", [None], "grants[0]"),
    ("grants", [GRANT, GRANT], "grants"),
    ("grants", [GRANT] * 1_001, "grants"),
    ("grants.0.grant_id", "ent_AAAAAAAAAAAAAAAAAAAAAA", "grants[0].grant_id"),
    ("grants.0.grant_id", "allowance", "grants[0].grant_id"),
    ("grants.0.grant_id", ABSENT, "grants[0].grant_id"),
    ("grants.0.amount", 0, "grants[0].amount"),
    ("grants.0.amount", -5, "grants[0].amount"),
    ("grants.0.amount", MOST_UNITS + 1, "grants[0].amount"),
    ("grants.0.amount", True, "grants[0].amount"),
    ("grants.0.active_from", "2026-02-30T00:00:00Z", "grants[0].active_from"),
    ("grants.0.active_from", "2026-01-01T00:00:00+01:00", "grants[0].active_from"),
    ("grants.0.active_from", None, "grants[0].active_from"),
    ("grants.0.expiry", None, "grants[0].expiry"),
    ("grants.0.expiry", "never", "grants[0].expiry"),
    ("grants.0.expiry.type", "sometime", "grants[0].expiry.type"),
    ("grants.0.expiry.unit", None, "grants[0].expiry.unit"),
    ("grants.0.expiry.unit", "hour", "grants[0].expiry.unit"),
    ("grants.0.expiry.count", 0, "grants[0].expiry.count"),
    ("grants.0.expiry.count", 36_501, "grants[0].expiry.count"),
    ("grants.0.expiry.count", ABSENT, "grants[0].expiry.count"),
    ("grants.0.expiry", {"type": "custom", "unit": "year", "count": 9_000}, "grants[0].expiry"),
    ("grants.0.expiry", {"type": "at"}, "grants[0].expiry.at"),
    ("grants.0.expiry", {"type": "at", "at": "tomorrow"}, "grants[0].expiry.at"),
]


@pytest.mark.parametrize(("path", "value", "named"), HOSTILE_FEATURES)
def test_a_feature_that_is_not_what_the_contract_says_is_refused_by_name(path: str, value: object, named: str) -> None:
    with pytest.raises(RefusedDocument, match=re.escape(named)) as refused:
        counted(path, value)
    assert Refusal.MALFORMED is refused.value.reason


@pytest.mark.parametrize(
    ("feature", "named"),
    [
        ({"key": "a", "type": "bool", "value": 2}, "value"),
        ({"key": "a", "type": "bool", "value": 1, "tracked": 1}, "tracked"),
        ({"key": "a", "type": "bool", "value": 1, "tracked": "yes"}, "tracked"),
    ],
)
def test_a_switch_is_on_or_off(feature: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedDocument, match=named):
        read("features", [feature])


def test_a_feature_may_not_be_named_twice_whatever_its_type() -> None:
    with pytest.raises(RefusedDocument, match="twice"):
        read("features", [CREDIT, {"key": "render", "type": "bool", "value": 1}])


def test_borrowing_is_read() -> None:
    borrow = read("borrow", {"max_seconds": 604_800, "max_seats": 5}).borrow
    assert BorrowTerms(max_seconds=604_800, max_seats=5) == borrow
    assert borrow.allowed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ABSENT, BorrowTerms()),
        (None, BorrowTerms()),
        ({"max_seconds": 0, "max_seats": 5}, BorrowTerms(max_seconds=0, max_seats=5)),
        ({"max_seconds": 60, "max_seats": 0}, BorrowTerms(max_seconds=60, max_seats=0)),
    ],
)
def test_without_time_or_seats_there_is_no_borrowing(value: object, expected: BorrowTerms) -> None:
    borrow = read().borrow if value is ABSENT else read("borrow", value).borrow
    assert expected == borrow
    assert not borrow.allowed


@pytest.mark.parametrize(
    ("member", "value", "named"),
    [
        ("borrow", [], "borrow"),
        ("borrow", {"max_seconds": 60}, "borrow.max_seats"),
        ("borrow", {"max_seats": 1}, "borrow.max_seconds"),
        ("borrow", {"max_seconds": -1, "max_seats": 1}, "borrow.max_seconds"),
        ("borrow", {"max_seconds": LONGEST_BORROW_SECONDS + 1, "max_seats": 1}, "borrow.max_seconds"),
        ("borrow", {"max_seconds": 60, "max_seats": MOST_SEATS + 1}, "borrow.max_seats"),
        ("borrow", {"max_seconds": True, "max_seats": 1}, "borrow.max_seconds"),
        ("named_users", "alice", "named_users"),
        ("named_users", [""], "named_users[0]"),
        ("named_users", ["alice", 7], "named_users[1]"),
        ("named_users", ["a\x00b"], "named_users[0]"),
        ("named_user_assignment", "site", "named_user_assignment"),
        ("named_user_assignment", {"by_site": True}, "changes_per_month"),
        ("named_user_assignment", {"by_site": 1, "changes_per_month": 2}, "by_site"),
        ("named_user_assignment", {"by_site": True, "changes_per_month": -1}, "changes_per_month"),
        ("named_user_assignment", {"by_site": True, "changes_per_month": 100_001}, "changes_per_month"),
        ("node_lock_release_after_seconds", 0, "node_lock_release_after_seconds"),
        ("node_lock_release_after_seconds", -1, "node_lock_release_after_seconds"),
        ("node_lock_release_after_seconds", "86400", "node_lock_release_after_seconds"),
        ("node_lock_release_after_seconds", LONGEST_BORROW_SECONDS + 1, "node_lock_release_after_seconds"),
    ],
)
def test_terms_of_borrowing_and_binding_are_refused_by_name(member: str, value: object, named: str) -> None:
    with pytest.raises(RefusedDocument, match=re.escape(named)):
        read(member, value)


def test_named_users_and_who_may_choose_them_are_read() -> None:
    changed = document("named_users", ["alice", "Bob"]) | {
        "named_user_assignment": {"by_site": True, "changes_per_month": 2}
    }
    expected = NamedUsers(names=("alice", "Bob"), by_site=True, changes_per_month=2)
    assert expected == read_entitlement(changed).named_users


def test_without_a_word_of_it_only_the_vendor_names_users() -> None:
    assert NamedUsers(names=("alice",)) == read("named_users", ["alice"]).named_users


@pytest.mark.parametrize(("value", "expected"), [(None, None), (1, timedelta(seconds=1)), (86_400, timedelta(days=1))])
def test_a_machines_seat_comes_free_after_its_time_or_never(value: object, expected: timedelta | None) -> None:
    assert expected == read("node_lock_release_after_seconds", value).node_lock_release


def on_first_lease(**term: object) -> dict[str, Any]:
    changed = document("starts_at", None) | {"expires_at": None}
    changed["plan"] |= {"start": "on_first_lease"} | ({"term": term} if term else {})
    return changed


def test_the_first_lease_sets_the_dates_by_the_term() -> None:
    terms = read_entitlement(on_first_lease(unit="month", count=1))
    begun = terms.begun(datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert terms.starts_on_first_lease
    assert not begun.starts_on_first_lease
    assert datetime(2026, 1, 31, 12, tzinfo=UTC) == begun.starts_at
    assert datetime(2026, 2, 28, 12, tzinfo=UTC) == begun.expires_at
    assert datetime(2026, 2, 28, 12, tzinfo=UTC) + GRACE == begun.ends_at


def test_without_a_term_what_the_first_lease_starts_has_no_end() -> None:
    changed = on_first_lease()
    del changed["plan"]["term"]
    assert read_entitlement(changed).begun(STARTS).expires_at is None


def test_dates_that_the_vendor_has_set_are_not_left_to_the_first_lease() -> None:
    changed = document()
    changed["plan"]["start"] = "on_first_lease"
    assert not read_entitlement(changed).starts_on_first_lease


def test_a_fixed_term_is_no_matter_of_the_first_lease() -> None:
    assert read().term is None
    assert not read().starts_on_first_lease


@pytest.mark.parametrize(
    "term",
    [
        {"unit": "month", "count": 0},
        {"unit": "month", "count": -1},
        {"unit": "month"},
        {"unit": "hour", "count": 1},
        {"unit": "year", "count": 36_500},
        {"unit": "year", "count": 7_800},
        {"unit": "day", "count": 2**53},
        {"unit": "day", "count": 1.0},
    ],
)
def test_a_term_that_no_calendar_has_is_refused(term: dict[str, object]) -> None:
    with pytest.raises(RefusedDocument, match="term") as refused:
        read_entitlement(on_first_lease(**term))
    assert Refusal.MALFORMED is refused.value.reason
