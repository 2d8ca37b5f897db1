"""Which conditions hold: the disks, the backups, the certificate, the ledger of a real server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lls.backup import Backups
from lls.care.disk import DiskWatch, Room
from lls.events import Condition, Looking, Severity, backup_conditions, certificate_conditions, disk_conditions
from lls.tls import Doors
from tests.api.conftest import Seat, World
from tests.vendor import entitlement

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def told(conditions: Any) -> list[tuple[str, str, int]]:
    return [(one.type, one.key, one.level) for one in conditions]


def test_a_disk_is_told_of_by_its_place() -> None:
    rooms = {"state": (Room.FULL, 7 << 20), "log": (Room.LOW, 500 << 20), "drop": (Room.OK, 1 << 40)}
    found = list(disk_conditions(cast("DiskWatch", SimpleNamespace(rooms=rooms))))
    assert [("disk_low", "state", 2), ("disk_low", "log", 1)] == told(found)
    assert [Severity.CRITICAL, Severity.WARNING] == [one.severity for one in found]
    assert "7 MiB" in found[0].text


@pytest.mark.parametrize(("problem", "count"), [(None, 0), ("The disk is full.", 1)])
def test_a_backup_is_told_of_when_the_last_one_failed(problem: str | None, count: int) -> None:
    backups = cast("Backups", SimpleNamespace(last=SimpleNamespace(problem=problem)))
    assert count == len(list(backup_conditions(backups)))
    assert [] == list(backup_conditions(cast("Backups", SimpleNamespace(last=None))))


@dataclass
class Shown:
    ends_at: datetime
    self_made: bool = False
    trouble: str = ""


@pytest.mark.parametrize(
    ("left", "trouble", "expected"),
    [
        (31 * DAY, "", []),
        (30 * DAY, "", [("tls_ends", "", 1)]),
        (7 * DAY, "", [("tls_ends", "", 2)]),
        (DAY, "", [("tls_ends", "", 3)]),
        (timedelta(0), "", [("tls_ends", "", 4)]),
        (31 * DAY, "No key.", [("tls_refused", "", 1)]),
    ],
)
def test_a_certificate_is_told_of_before_it_ends(
    left: timedelta, trouble: str, expected: list[tuple[str, str, int]]
) -> None:
    doors = cast("Doors", Shown(NOW + left, trouble=trouble))
    assert expected == told(certificate_conditions(doors, lambda: NOW))
    assert [] == list(certificate_conditions(None, lambda: NOW))


def look(world: World, *, seats_percent: int = 80, denials_per_hour: int = 3) -> Looking:
    return Looking(
        world.writer,
        denied=lambda: world.edge.denied,
        seats_percent=seats_percent,
        denials_per_hour=denials_per_hour,
    )


def by_type(conditions: Any) -> dict[str, Condition]:
    return {one.type: one for one in conditions}


async def test_seats_are_told_of_at_their_limit_and_once_more_when_all_are_taken(world: World) -> None:
    await world.host(entitlement(seats=5))
    looking = look(world)
    assert "seats_high" not in by_type(looking())
    for number in range(4):
        await world.checkout(Seat(f"ann {number}"))
    assert (1, Severity.INFO) == (by_type(looking())["seats_high"].level, by_type(looking())["seats_high"].severity)
    await world.checkout(Seat("ann 4"))
    full = by_type(looking())["seats_high"]
    assert (2, 5, 5, 100) == (full.level, full.data["in_use"], full.data["seats"], full.data["percent"])
    assert "seats_high" not in by_type(look(world, seats_percent=0)())


async def test_denials_are_counted_over_the_last_hour(world: World) -> None:
    await world.host(entitlement(seats=1))
    looking = look(world)
    assert "denials_high" not in by_type(looking())
    await world.checkout(Seat("ann"))
    for number in range(3):
        await world.checkout(Seat(f"bob {number}"))
    assert 3 == by_type(looking())["denials_high"].data["denials"]
    world.machine.elapsed += 3_590
    assert "denials_high" in by_type(looking())
    world.machine.elapsed += 10
    assert "denials_high" not in by_type(looking())
    assert "denials_high" not in by_type(look(world, denials_per_hour=0)())


async def test_an_end_a_report_and_the_clock_are_told_of(world: World) -> None:
    await world.host(entitlement(expires_at="2026-11-25T07:00:00Z"))
    found = by_type(look(world)())
    assert (2, 4) == (found["entitlement_ends"].level, found["entitlement_ends"].data["days_left"])
    world.machine.wall += 70 * DAY
    world.machine.elapsed += 70 * 86_400
    found = by_type(look(world)())
    assert (4, Severity.CRITICAL) == (found["entitlement_ends"].level, found["entitlement_ends"].severity)
    assert 1 == found["report_due"].level
    world.machine.wall -= 10 * DAY
    assert "clock_behind" in by_type(look(world)())
