"""What the machine of :mod:`tests.licensing.test_machine` may wish for: terms, holders, verbs with their weights.

Three tables of verbs, so that a run is about something: seats and queues, units, the life of an entitlement at a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

from lls.licensing.calendar import Term, Unit
from lls.licensing.changes import FeatureAct
from lls.licensing.entitlement import (
    BorrowTerms,
    Concurrency,
    Feature,
    FeatureType,
    Grant,
    GrantExpiry,
    NamedUsers,
    Overdraft,
    OverdraftType,
    Reset,
    Sharing,
    Start,
    Status,
)
from lls.licensing.instant import ClockState
from lls.licensing.lease import Holder
from tests.licensing.site_rules import POLICIES

Actions = Mapping[str, tuple[int, st.SearchStrategy[dict[str, Any]]]]

NAMES: Final = ("one", "two", "three")
IDS: Final = tuple(f"lease-{number}" for number in range(9))
SEAT_IDS: Final = ("alpha", "beta", "gamma")
ADDRESSES: Final = {"alpha": "10.1.0.5", "beta": "10.2.0.9"}
"""Where machines ask from; nobody knows it of the others."""
REQUESTS: Final = ("r1", "r2", "r3", "r4", "r5", "r6")
KEYS: Final = ("frames", "frames", "calls", "money", "tokens", "tokens", "render", "plain", "none")
DAY: Final = 86_400

# -------------------------------------------------------------------- features


@dataclass(frozen=True, kw_only=True)
class GrantWish:
    """A grant whose dates are told from the moment of its import; seconds."""

    name: str
    amount: int
    begins: int
    expiry: GrantExpiry
    term: Term | None
    ends: int

    def made(self, at: datetime) -> Grant:
        return Grant(
            grant_id=f"grt_{self.name:A<22}",
            amount=self.amount,
            active_from=at + timedelta(seconds=self.begins),
            expiry=self.expiry,
            term=self.term if self.expiry is GrantExpiry.CUSTOM else None,
            at=at + timedelta(seconds=self.ends) if self.expiry is GrantExpiry.AT else None,
        )


@dataclass(frozen=True, kw_only=True)
class FeatureWish:
    """A feature with grants to be dated."""

    feature: Feature
    grants: tuple[GrantWish, ...] = ()

    def made(self, at: datetime) -> Feature:
        return replace(self.feature, grants=tuple(one.made(at) for one in self.grants))


over_units = st.sampled_from(
    (
        Overdraft(),
        Overdraft(),
        Overdraft(type=OverdraftType.ABSOLUTE, value=3),
        Overdraft(type=OverdraftType.PERCENTAGE, value=50),
        Overdraft(type=OverdraftType.UNLIMITED),
    ),
)
grants = st.lists(
    st.builds(
        GrantWish,
        name=st.sampled_from(("a", "b", "c")),
        amount=st.sampled_from((0, 1, 2, 5, 20)),
        begins=st.sampled_from((-10 * DAY, -1, -1, 400)),
        expiry=st.sampled_from(GrantExpiry),
        term=st.builds(Term, unit=st.sampled_from(Unit), count=st.sampled_from((1, 1, 2))),
        ends=st.sampled_from((60, 500, 40 * DAY)),
    ),
    max_size=3,
    unique_by=lambda one: one.name,
).map(tuple)


def _features(key: str, kind: FeatureType, *, values: tuple[int, ...], **fixed: Any) -> st.SearchStrategy[FeatureWish]:
    made = st.builds(
        Feature,
        key=st.just(key),
        type=st.just(kind),
        value=st.sampled_from(values),
        overdraft=over_units,
        undo_seconds=st.sampled_from((0, 100, 200_000)),
        **{name: st.just(value) for name, value in fixed.items()},
    )
    return st.builds(FeatureWish, feature=made, grants=grants)


def _switch(key: str, *, tracked: bool) -> st.SearchStrategy[FeatureWish]:
    made = st.builds(
        Feature,
        key=st.just(key),
        type=st.just(FeatureType.BOOL),
        value=st.sampled_from((1, 1, 0)),
        tracked=st.just(tracked),
    )
    return st.builds(FeatureWish, feature=made)


features = st.tuples(
    st.booleans().flatmap(
        lambda some: (
            st.just(())
            if not some
            else _features("frames", FeatureType.USAGE_COUNT, values=(0, 3, 10), unit="frame").map(lambda one: (one,))
        )
    ),
    _features("calls", FeatureType.USAGE_COUNT, values=(0, 5), reset=Reset.MONTHLY).map(lambda one: (one,)),
    _features("money", FeatureType.CREDIT, values=(50,), currency="USD", reset=Reset.ON_RENEWAL).map(
        lambda one: (one,)
    ),
    _features("tokens", FeatureType.ELEMENT_POOL, values=(0, 2, 4)).map(lambda one: (one,)),
    _switch("render", tracked=True).map(lambda one: (one,)),
    _switch("plain", tracked=False).map(lambda one: (one,)),
).map(lambda parts: tuple(one for part in parts for one in part))
wanted = st.lists(
    st.tuples(
        st.sampled_from(("frames", "calls", "tokens", "tokens", "render", "plain")), st.sampled_from((1, 1, 2, 3))
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one[0],
).map(lambda some: tuple((key, 1 if key in {"render", "plain"} else amount) for key, amount in some))

# -------------------------------------------------------------------- terms

holders = st.builds(
    Holder,
    seat_id=st.sampled_from(SEAT_IDS),
    user=st.sampled_from(("ann", "bob", None)),
    host=st.sampled_from(("ws1", "ws2", None)),
)
overdrafts = st.one_of(
    st.just(Overdraft()),
    st.builds(Overdraft, type=st.just(OverdraftType.ABSOLUTE), value=st.integers(0, 2)),
    st.just(Overdraft(type=OverdraftType.PERCENTAGE, value=60)),
    st.just(Overdraft(type=OverdraftType.UNLIMITED)),
)
terms = st.fixed_dictionaries(
    {
        "product": st.sampled_from(("cad", "cad", "cad", "cam")),
        "seats": st.sampled_from((1, 2, 3, 1, 2, 0, None)),
        "overdraft": overdrafts,
        "sharing": st.sampled_from((*Sharing, Sharing.NONE, Sharing.NONE)),
        "linger_seconds": st.sampled_from((0, 0, 45)),
        "lease_seconds": st.sampled_from((60, 600)),
        "grace": st.sampled_from((timedelta(0), timedelta(seconds=300))),
        "activation_codes": st.sampled_from((frozenset[str](), frozenset[str](), frozenset({"CODE"}))),
        "status": st.sampled_from((*[Status.ACTIVE] * 6, Status.DISABLED)),
        "lasts": st.sampled_from((None, 200, 2_000, 100_000)),
        "starts": st.sampled_from((-10, -10, -10, 100)),
        "concurrency": st.sampled_from((*[Concurrency.CONCURRENT] * 4, *Concurrency)),
        "node_lock_release": st.sampled_from((None, None, timedelta(seconds=200))),
        "start": st.sampled_from((Start.FIXED, Start.FIXED, Start.ON_FIRST_LEASE)),
        "term": st.sampled_from((None, Term(unit=Unit.DAY, count=1))),
        "borrow": st.sampled_from((BorrowTerms(), BorrowTerms(max_seconds=5_000, max_seats=2))),
        "named_users": st.sampled_from((NamedUsers(names=("Ann",)), NamedUsers(by_site=True, changes_per_month=1))),
    },
)
usable = st.fixed_dictionaries(
    {
        "product": st.just("cad"),
        "seats": st.sampled_from((1, 2, 3)),
        "overdraft": st.sampled_from((Overdraft(), Overdraft(), Overdraft(type=OverdraftType.ABSOLUTE, value=1))),
        "sharing": st.sampled_from((*Sharing, Sharing.NONE, Sharing.NONE)),
        "linger_seconds": st.sampled_from((0, 45)),
        "lease_seconds": st.just(60),
        "lasts": st.sampled_from((None, 900, 100_000)),
        "starts": st.just(-10),
    },
)
metered = st.fixed_dictionaries(
    {
        "product": st.just("cad"),
        "seats": st.sampled_from((3, 5)),
        "sharing": st.sampled_from((Sharing.NONE, Sharing.USER)),
        "linger_seconds": st.sampled_from((0, 0, 45)),
        "lease_seconds": st.sampled_from((600, 29 * DAY, 29 * DAY)),
        "grace": st.sampled_from((timedelta(0), timedelta(days=1))),
        "lasts": st.sampled_from((None, None, 5_000, 100 * DAY)),
        "starts": st.sampled_from((-10, -10, -40 * DAY)),
        "start": st.sampled_from((Start.FIXED, Start.FIXED, Start.FIXED, Start.ON_FIRST_LEASE)),
        "term": st.sampled_from((Term(unit=Unit.DAY, count=2), Term(unit=Unit.YEAR, count=1))),
        "borrow": st.just(BorrowTerms(max_seconds=50_000, max_seats=2)),
        "features": features,
    },
)
sited = st.fixed_dictionaries(
    {
        "product": st.just("cad"),
        "seats": st.sampled_from((1, 2, 3, 4)),
        "overdraft": st.sampled_from((Overdraft(), Overdraft(), Overdraft(type=OverdraftType.ABSOLUTE, value=1))),
        "sharing": st.sampled_from((Sharing.NONE, Sharing.NONE, Sharing.HOST)),
        "linger_seconds": st.sampled_from((0, 45)),
        "lease_seconds": st.sampled_from((60, 600)),
        "grace": st.sampled_from((timedelta(0), timedelta(seconds=300))),
        "lasts": st.sampled_from((None, 900, 20_000, 100 * DAY)),
        "starts": st.just(-10),
        "concurrency": st.sampled_from(
            (*[Concurrency.CONCURRENT] * 3, Concurrency.NODE_LOCK, Concurrency.NODE_LOCK, Concurrency.NAMED_USER)
        ),
        "node_lock_release": st.sampled_from((None, timedelta(seconds=200))),
        "start": st.sampled_from((Start.FIXED, Start.FIXED, Start.ON_FIRST_LEASE)),
        "term": st.just(Term(unit=Unit.DAY, count=2)),
        "borrow": st.builds(
            BorrowTerms, max_seconds=st.sampled_from((600, 5_000, 50_000)), max_seats=st.sampled_from((1, 2, 3))
        ),
        "named_users": st.sampled_from(
            (NamedUsers(names=("Ann",)), NamedUsers(names=("ann",), by_site=True, changes_per_month=1)),
        ),
        "features": st.one_of(st.just(()), features),
    },
)
policies = st.sampled_from((0, 0, *range(len(POLICIES)), 6, 6, 7))
# -------------------------------------------------------------------- verbs

_lease = {"lease_id": st.sampled_from(IDS)}
SEATS: Final[Actions] = {
    "check_out_plainly": (
        6,
        st.fixed_dictionaries(
            {
                "lease_id": st.sampled_from(IDS),
                "holder": holders,
                "seats": st.sampled_from((1, 1, 1, 2)),
                "wait": st.booleans(),
            },
        ),
    ),
    "check_out_many": (
        3,
        st.fixed_dictionaries(
            {
                "first": st.integers(0, 6),
                "holder": holders,
                "count": st.integers(2, 4),
                "seats": st.sampled_from((1, 1, 2)),
            },
        ),
    ),
    "check_out": (
        3,
        st.fixed_dictionaries(
            {
                "lease_id": st.sampled_from(IDS),
                "holder": holders,
                "seats": st.sampled_from((1, 1, 1, 2, 3)),
                "product": st.sampled_from(("cad", "cad", "cad", "cam", "none")),
                "code": st.sampled_from((None, None, "CODE", "WRONG")),
                "wait": st.booleans(),
            },
        ),
    ),
    "check_out_again": (
        2,
        st.fixed_dictionaries({"lease_id": st.sampled_from(IDS), "wait": st.booleans(), "waiting": st.booleans()}),
    ),
    "check_out_as_somebody_else": (
        1,
        st.fixed_dictionaries({"lease_id": st.sampled_from(IDS), "secret": st.booleans(), "waiting": st.booleans()}),
    ),
    "beat": (3, st.fixed_dictionaries({"lease_id": st.sampled_from(IDS), "step": st.integers(1, 3)})),
    "all_beat": (2, st.fixed_dictionaries({"lease_ids": st.lists(st.sampled_from(IDS), min_size=1, max_size=4)})),
    "check_in": (
        6,
        st.fixed_dictionaries(
            {
                "lease_id": st.sampled_from((*IDS, "never heard of")),
                "right": st.sampled_from((True, True, False)),
                "waiting": st.booleans(),
            },
        ),
    ),
    "release": (1, st.fixed_dictionaries({"lease_id": st.sampled_from(IDS)})),
    "sweep": (2, st.fixed_dictionaries({"limit": st.sampled_from((1, 2, 2_000))})),
    "time_passes": (
        3,
        st.fixed_dictionaries(
            {"seconds": st.sampled_from((0.25, 1.0, 9.5, 31.0, 60.0, 91.0, 300.0, 700.0, 2_500.0, 90_000.0))},
        ),
    ),
    "time_passes_and_all_is_swept": (
        2,
        st.fixed_dictionaries({"seconds": st.sampled_from((9.5, 31.0, 60.0, 91.0)), "settle": st.booleans()}),
    ),
    "clock": (2, st.fixed_dictionaries({"state": st.sampled_from((*ClockState, ClockState.OK))})),
    "suspended": (1, st.fixed_dictionaries({})),
    "seal": (1, st.fixed_dictionaries({})),
    "acknowledge": (1, st.fixed_dictionaries({"pick": st.integers(0, 5)})),
    "commit": (3, st.fixed_dictionaries({})),
    "commit_fails": (2, st.fixed_dictionaries({"kept": st.booleans()})),
    "restart": (
        1,
        st.fixed_dictionaries({"committed": st.booleans(), "distrust": st.sampled_from((False, False, True))}),
    ),
    "install": (2, st.fixed_dictionaries({"name": st.sampled_from(NAMES), "wish": terms, "same": st.booleans()})),
    "govern_in_vain": (2, st.fixed_dictionaries({"pick": policies, "kept": st.booleans()})),
    "govern": (1, st.fixed_dictionaries({"pick": policies})),
    "switch": (
        1,
        st.fixed_dictionaries(
            {"name": st.sampled_from(NAMES), "wanted": st.sampled_from((Status.DISABLED, Status.ACTIVE))},
        ),
    ),
    "older_bundle": (1, st.fixed_dictionaries({"sequence": st.integers(0, 3)})),
    "bundle_out_of_its_dates": (1, st.fixed_dictionaries({})),
    "stop_waiting": (3, st.fixed_dictionaries({"lease_id": st.sampled_from(IDS)})),
    "connection_lost": (2, st.fixed_dictionaries({"lease_id": st.sampled_from(IDS)})),
    "beat_of_a_clone": (1, st.fixed_dictionaries({"lease_id": st.sampled_from(IDS), "lower": st.booleans()})),
}
_ask = {
    "lease_id": st.sampled_from(IDS),
    "holder": holders,
    "seats": st.sampled_from((1, 1, 1, 2)),
    "product": st.just("cad"),
    "code": st.none(),
    "wait": st.booleans(),
}
_borrow = {
    "lease_id": st.sampled_from(IDS),
    "seconds": st.sampled_from((0, 50, 600, 601, 3_000, 5_000, 50_000, 60_000)),
    "right": st.sampled_from((*[True] * 7, False)),
}
UNITS: Final[Actions] = {
    "check_out": (3, st.fixed_dictionaries({**_ask, "features": wanted})),
    "check_out_plainly": (2, SEATS["check_out_plainly"][1]),
    "check_out_again": (1, SEATS["check_out_again"][1]),
    "act": (
        14,
        st.fixed_dictionaries(
            {
                "lease_id": st.sampled_from(IDS),
                "key": st.sampled_from(KEYS),
                "act": st.sampled_from(FeatureAct),
                "amount": st.sampled_from((1, 1, 2, 4, 30, 0)),
                "request": st.sampled_from(REQUESTS),
                "fit": st.sampled_from((True, True, True, False)),
            },
        ),
    ),
    "repeat": (
        3,
        st.fixed_dictionaries(
            {"pick": st.integers(0, 40), "how": st.sampled_from(("same", "amount", "key", "secret"))}
        ),
    ),
    "undo": (3, st.fixed_dictionaries({"pick": st.integers(0, 40), "more": st.sampled_from((0, 0, 0, 1))})),
    "check_in": (2, SEATS["check_in"][1]),
    "borrow": (1, st.fixed_dictionaries(_borrow)),
    "beat": (1, SEATS["beat"][1]),
    "update_units": (
        2,
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(NAMES),
                "pick": st.integers(0, 5),
                "how": st.sampled_from(("less", "more", "drop", "add", "feature")),
                "extra": grants,
            },
        ),
    ),
    "reset": (
        1,
        st.fixed_dictionaries(
            {"name": st.sampled_from(NAMES), "key": st.sampled_from((None, "frames", "calls", "tokens"))}
        ),
    ),
    "install": (
        1,
        st.fixed_dictionaries(
            {"name": st.sampled_from(NAMES), "wish": metered, "same": st.booleans(), "session": st.booleans()},
        ),
    ),
    "give_back": (1, st.fixed_dictionaries({"name": st.sampled_from(NAMES), "force": st.sampled_from((False, True))})),
    "switch": (1, SEATS["switch"][1]),
    "sweep": (2, SEATS["sweep"][1]),
    "time_passes": (
        4,
        st.fixed_dictionaries(
            {"seconds": st.sampled_from((1.0, 50.0, 99.75, 500.0, 500.0, 3_700.0, DAY, 6 * DAY, 31 * DAY, 99 * DAY))},
        ),
    ),
    "clock": (1, SEATS["clock"][1]),
    "commit": (3, SEATS["commit"][1]),
    "commit_fails": (2, SEATS["commit_fails"][1]),
    "restart": (1, SEATS["restart"][1]),
}
_name = {"name": st.sampled_from(NAMES)}
LIFE: Final[Actions] = {
    **{
        name: SEATS[name]
        for name in (
            "check_out_plainly",
            "check_out_many",
            "check_out_again",
            "beat",
            "all_beat",
            "check_in",
            "release",
            "sweep",
            "time_passes",
            "time_passes_and_all_is_swept",
            "clock",
            "suspended",
            "commit",
            "commit_fails",
            "restart",
            "switch",
            "stop_waiting",
            "connection_lost",
        )
    },
    "check_out": (3, st.fixed_dictionaries({**_ask, "features": st.one_of(st.just(()), wanted)})),
    "borrow": (5, st.fixed_dictionaries(_borrow)),
    "take_one_away": (
        4,
        st.fixed_dictionaries(
            {**_lease, "holder": holders, "seconds": st.sampled_from((300, 600, 3_000, 5_000, 50_000))},
        ),
    ),
    "give_back_what_is_away": (
        2,
        st.fixed_dictionaries({"settle": st.booleans(), "again": st.one_of(st.none(), sited)}),
    ),
    "borrow_again": (3, st.fixed_dictionaries({**_lease, "later": st.sampled_from((0, -60, 300, 40_000))})),
    "borrow_by_file": (2, st.fixed_dictionaries({**_borrow, "holder": holders, "seats": st.sampled_from((1, 1, 2))})),
    "return_by_file": (2, st.fixed_dictionaries({**_lease, "right": st.sampled_from((True, True, False))})),
    "to_the_end_of_a_loan": (2, st.fixed_dictionaries({"sweep": st.booleans()})),
    "give_back": (1, st.fixed_dictionaries({**_name, "force": st.booleans()})),
    "keep": (1, st.fixed_dictionaries(_name)),
    "assign": (2, st.fixed_dictionaries({**_name, "user": st.sampled_from(("bob", "Bob", "cy", "ann"))})),
    "unassign": (2, st.fixed_dictionaries({**_name, "user": st.sampled_from(("bob", "CY", "ann"))})),
    "govern_in_vain": (2, st.fixed_dictionaries({"pick": policies, "kept": st.booleans()})),
    "govern": (2, st.fixed_dictionaries({"pick": policies})),
    "install": (
        3,
        st.fixed_dictionaries(
            {"name": st.sampled_from(NAMES), "wish": sited, "same": st.booleans(), "session": st.booleans()},
        ),
    ),
}
