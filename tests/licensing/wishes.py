"""What the machine of :mod:`tests.licensing.test_machine` may wish for: terms, holders, verbs with their weights."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from hypothesis import strategies as st

from lls.licensing.entitlement import Overdraft, OverdraftType, Sharing, Status
from lls.licensing.instant import ClockState
from lls.licensing.lease import Holder

NAMES: Final = ("one", "two", "three")
IDS: Final = tuple(f"lease-{number}" for number in range(9))
SEAT_IDS: Final = ("alpha", "beta", "gamma")

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
holders = st.builds(
    Holder,
    seat_id=st.sampled_from(SEAT_IDS),
    user=st.sampled_from(("ann", "bob", None)),
    host=st.sampled_from(("ws1", "ws2", None)),
)

ACTIONS: Final[dict[str, tuple[int, st.SearchStrategy[dict[str, Any]]]]] = {
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
    "clock": (1, st.fixed_dictionaries({"state": st.sampled_from((ClockState.BEHIND, ClockState.OK, ClockState.OK))})),
    "suspended": (1, st.fixed_dictionaries({})),
    "seal": (1, st.fixed_dictionaries({})),
    "acknowledge": (1, st.fixed_dictionaries({"pick": st.integers(0, 5)})),
    "commit": (3, st.fixed_dictionaries({})),
    "commit_fails": (2, st.fixed_dictionaries({"kept": st.booleans()})),
    "restart": (1, st.fixed_dictionaries({"committed": st.booleans()})),
    "install": (2, st.fixed_dictionaries({"name": st.sampled_from(NAMES), "wish": terms, "same": st.booleans()})),
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
