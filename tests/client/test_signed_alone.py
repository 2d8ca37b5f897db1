"""Promises about a kept file that its owner edits: what is signed counts, signed by the server that was named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lls.client import (
    Borrowed,
    BorrowRequest,
    LicenseServers,
    Seat,
    Untrusted,
    accept_grant,
    aio,
    borrowed_leases,
    seat_or_borrowed,
)
from tests.client.fakes import FakeServer, Vendor, running
from tests.client.folders import edit, in_days, kept, the_file

Connect = Callable[..., LicenseServers]


@pytest.fixture
def lent(server: FakeServer, connect: Connect) -> Borrowed:
    """Two units of a pool and a tracked switch leave with the seat."""
    with connect(server).checkout("cad") as seat:
        seat.checkout_feature("gpu", 2)
        seat.checkout_feature("expert")
        return seat.borrow(in_days(3))


def show(folder: Path, key: str, **members: Any) -> None:
    lease = kept(folder)["lease"]
    features = [one | members if one["key"] == key else one for one in lease["features"]]
    edit(folder, lease=lease | {"features": features})


# ---------------------------------------------------------------- by the claims alone


@pytest.mark.parametrize("kind", ["bool", "element_pool", "usage_count", "credit", "of_a_later_version"])
def test_a_switch_that_is_signed_as_off_is_not_there_whatever_the_file_calls_it(
    lent: Borrowed, vendor: Vendor, state_folder: Path, kind: str
) -> None:
    show(state_folder, "later", type=kind, value=1, held=1, available=None, total=1)
    assert "later" not in Borrowed.load("cad", vendor_keys=vendor.first).lease.features


@pytest.mark.parametrize("kind", ["element_pool", "usage_count", "credit", "of_a_later_version"])
@pytest.mark.parametrize(("key", "held"), [("gpu", 2), ("render", 0), ("cash", 0), ("expert", 1), ("plain", 0)])
def test_what_is_held_is_what_is_signed_whatever_the_file_calls_it(
    lent: Borrowed, vendor: Vendor, state_folder: Path, *, key: str, held: int, kind: str
) -> None:
    show(state_folder, key, type=kind, held=99)
    assert held == Borrowed.load("cad", vendor_keys=vendor.first).lease.features[key].held


@pytest.mark.parametrize("key", ["render", "cash", "metered"])
def test_what_the_file_calls_a_switch_is_one_only_when_it_is_signed_as_on(
    lent: Borrowed, vendor: Vendor, state_folder: Path, key: str
) -> None:
    show(state_folder, key, type="bool", value=1, held=1)
    assert key not in Borrowed.load("cad", vendor_keys=vendor.first).lease.features


def test_a_signed_switch_is_a_switch_that_is_on(lent: Borrowed, vendor: Vendor, state_folder: Path) -> None:
    show(state_folder, "plain", type="element_pool", value=0)
    plain = Borrowed.load("cad", vendor_keys=vendor.first).lease.features["plain"]
    assert ("bool", 1, 0) == (plain.type, plain.value, plain.held)


def test_nothing_of_the_file_is_passed_on_unread(lent: Borrowed, vendor: Vendor, state_folder: Path) -> None:
    edit(state_folder, lease=kept(state_folder)["lease"] | {"mode": "site licence"})
    lease = Borrowed.load("cad", vendor_keys=vendor.first).lease
    assert [{}] * (1 + len(lease.features)) == [lease.raw, *(one.raw for one in lease.features.values())]


def test_the_edition_is_the_signed_one(lent: Borrowed, vendor: Vendor, state_folder: Path) -> None:
    edit(state_folder, lease=kept(state_folder)["lease"] | {"edition": "enterprise"})
    found = Borrowed.load("cad", vendor_keys=vendor.first)
    assert ("pro", "pro") == (found.lease.edition, found.capability.edition)


@pytest.mark.parametrize("claim", [None, 7, ["enterprise"]])
def test_a_capability_that_signs_no_edition_lends_none(
    server: FakeServer, connect: Connect, vendor: Vendor, state_folder: Path, claim: Any
) -> None:
    server.lies.claims = {"edition": claim}
    with connect(server).checkout("cad") as seat:
        seat.borrow(in_days(1))
    edit(state_folder, lease=kept(state_folder)["lease"] | {"edition": "enterprise"})
    assert Borrowed.load("cad", vendor_keys=vendor.first).lease.edition is None


# ---------------------------------------------------------------- by the server that was named


@pytest.fixture
def other(vendor: Vendor) -> Iterator[FakeServer]:
    """Another customer's server: the same vendor certified it."""
    with running(FakeServer(vendor)) as made:
        yield made


def test_a_seat_of_another_server_than_the_named_one_does_not_count(
    lent: Borrowed, other: FakeServer, vendor: Vendor
) -> None:
    with pytest.raises(Untrusted, match=f"not by {other.server_id}"):
        Borrowed.load("cad", vendor_keys=vendor.first, server_id=other.server_id)
    (found,) = borrowed_leases(vendor_keys=vendor.first, server_id=other.server_id)
    assert isinstance(found.problem, Untrusted)
    with LicenseServers(other.url, vendor_keys=vendor.first, server_id=other.server_id) as known:
        with pytest.raises(Untrusted):
            known.borrowed("cad")
        with known.seat_or_borrowed("cad") as seat:
            assert isinstance(seat, Seat)
    with pytest.raises(Untrusted):
        seat_or_borrowed("cad", vendor_keys=vendor.first, server_id=other.server_id)


def test_a_seat_of_the_named_server_counts(lent: Borrowed, server: FakeServer, vendor: Vendor) -> None:
    assert Borrowed.load("cad", vendor_keys=vendor.first, server_id=server.server_id).valid
    with seat_or_borrowed("cad", vendor_keys=vendor.first, server_id=server.server_id) as seat:
        assert lent.lease_id == seat.lease.lease_id
    with LicenseServers(server.url, vendor_keys=vendor.first, server_id=server.server_id) as known:
        assert known.borrowed("cad").valid


async def test_the_same_for_asyncio(lent: Borrowed, server: FakeServer, other: FakeServer, vendor: Vendor) -> None:
    for ask in (aio.load_borrowed, aio.seat_or_borrowed):
        with pytest.raises(Untrusted):
            await ask("cad", vendor_keys=vendor.first, server_id=other.server_id)
    found = await aio.load_borrowed("cad", vendor_keys=vendor.first, server_id=server.server_id)
    assert found.valid
    known = aio.AsyncLicenseServers(other.url, vendor_keys=vendor.first, server_id=other.server_id)
    with pytest.raises(Untrusted):
        await known.borrowed("cad")


def test_a_grant_of_another_server_is_not_accepted(other: FakeServer, vendor: Vendor, state_folder: Path) -> None:
    request = BorrowRequest.make("cad", until=in_days(1))
    grant, before = other.grant(request.document.encode()), the_file(state_folder).read_bytes()
    with pytest.raises(Untrusted):
        accept_grant(grant, vendor_keys=vendor.first, server_id="lls_AAAAAAAAAAAAAAAAAAAAAA")
    assert before == the_file(state_folder).read_bytes()
    assert accept_grant(grant, vendor_keys=vendor.first, server_id=other.server_id).valid
