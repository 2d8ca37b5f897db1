"""A few site policies as text, and what each should mean, said a second time without ``policy``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lls.licensing.lease import Checkout, Lease

Asking = Checkout | Lease
Whom = Callable[[Asking], bool]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Seats for some: ``seats`` of so many bought, ``hour`` while they are kept."""

    who: Whom
    seats: Callable[[int], int]
    hour: Callable[[datetime], bool] = lambda _at: True


@dataclass(frozen=True, kw_only=True)
class Most:
    """No user, host or group more seats of cad; ``of`` says whose a wish or a lease is counted as."""

    seats: int
    of: Callable[[Asking], list[str]]


@dataclass(frozen=True, kw_only=True)
class SiteRules:
    """A policy of cad; cam has none."""

    text: str
    rules: int
    kept: Sequence[Kept] = ()
    most: Sequence[Most] = ()
    excluded: Whom = lambda _one: False
    linger: int = 0
    caps: Callable[[Asking], tuple[int | None, int | None]] = lambda _one: (None, None)
    priority: Callable[[Asking], int] = lambda _one: 0

    @property
    def counting(self) -> bool:
        return bool(self.kept or self.most)


def _user(name: str) -> Whom:
    return lambda one: one.holder.user == name


def _host(name: str) -> Whom:
    return lambda one: one.holder.host == name


def _net(begins: str) -> Whom:
    return lambda one: one.address is not None and one.address.startswith(begins)


def _per_user(one: Asking) -> list[str]:
    return [f"user {one.holder.user}" if one.holder.user else f"machine {one.holder.seat_id}"]


def _per_host(one: Asking) -> list[str]:
    return [f"host {one.holder.host}" if one.holder.host else f"machine {one.holder.seat_id}"]


def _per_group(**groups: Whom) -> Callable[[Asking], list[str]]:
    return lambda one: [name for name, whom in groups.items() if whom(one)]


def _on_floor(one: Asking) -> bool:
    return _net("10.1.")(one)


def _in_team(one: Asking) -> bool:
    return _on_floor(one) or _user("ann")(one)


def _working_hours(at: datetime) -> bool:
    return 8 <= at.hour < 18


POLICIES: Final = (
    SiteRules(text="", rules=0),
    SiteRules(
        text="""
format = 1
[[reserve]]
product = "cad"
seats = 1
for = { users = ["ann"] }
""",
        rules=1,
        kept=[Kept(who=_user("ann"), seats=lambda _bought: 1)],
    ),
    SiteRules(
        text="""
format = 1
[[reserve]]
product = "cad"
percent = 50
for = { users = ["B*"] }
[[limit]]
product = "cad"
seats = 1
per = "user"
""",
        rules=2,
        kept=[Kept(who=_user("bob"), seats=lambda bought: bought // 2)],
        most=[Most(seats=1, of=_per_user)],
    ),
    SiteRules(
        text="""
format = 1
[[deny]]
product = "cad"
for = { users = ["bob"] }
[[allow]]
product = "cad"
for = { hosts = ["ws1", "ws2"], users = ["ann"] }
""",
        rules=2,
        excluded=lambda one: _user("bob")(one) or not (one.holder.host in {"ws1", "ws2"} or _user("ann")(one)),
    ),
    SiteRules(
        text="""
format = 1
[[priority]]
product = "cad"
value = 10
for = { users = ["bob"] }
[[linger]]
product = "cad"
seconds = 70
[[borrow]]
product = "cad"
max_seconds = 3600
max_seats = 1
for = { users = ["ann"] }
""",
        rules=3,
        priority=lambda one: 10 if _user("bob")(one) else 0,
        linger=70,
        caps=lambda one: (3600, 1) if _user("ann")(one) else (None, None),
    ),
    SiteRules(
        text="""
format = 1
[groups.second]
hosts = ["ws2"]
[[reserve]]
product = "cad"
seats = 2
for = { users = ["ann"] }
[[reserve]]
product = "cad"
seats = 2
for = { groups = ["second"] }
when = { days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], from = "08:00", to = "18:00" }
[[limit]]
product = "cad"
seats = 2
per = "host"
[[borrow]]
product = "cad"
max_seats = 0
""",
        rules=4,
        kept=[
            Kept(who=_user("ann"), seats=lambda _bought: 2),
            Kept(who=_host("ws2"), seats=lambda _bought: 2, hour=_working_hours),
        ],
        most=[Most(seats=2, of=_per_host)],
        caps=lambda _one: (None, 0),
    ),
    SiteRules(
        text="""
format = 1
[groups.floor]
networks = ["10.1.0.0/16"]
[groups.team]
users = ["ann"]
groups = ["floor"]
[groups.second]
hosts = ["ws2"]
[[limit]]
product = "cad"
seats = 1
per = "group"
for = { groups = ["floor"] }
[[limit]]
product = "cad"
seats = 2
per = "group"
for = { groups = ["second", "team"] }
[[reserve]]
product = "cad"
seats = 1
for = { networks = ["10.2.0.0/16"] }
""",
        rules=3,
        kept=[Kept(who=_net("10.2."), seats=lambda _bought: 1)],
        most=[
            Most(seats=1, of=_per_group(floor=_on_floor)),
            Most(seats=2, of=_per_group(second=_host("ws2"), team=_in_team)),
        ],
    ),
    SiteRules(
        text="""
format = 1
[groups.floor]
networks = ["10.1.0.0/16"]
[[reserve]]
product = "cad"
seats = 3
for = { groups = ["floor"] }
[[reserve]]
product = "cad"
seats = 3
for = { users = ["bob"] }
[[priority]]
product = "cad"
value = -5
for = { networks = ["10.2.0.0/16"] }
""",
        rules=3,
        kept=[Kept(who=_on_floor, seats=lambda _bought: 3), Kept(who=_user("bob"), seats=lambda _bought: 3)],
        priority=lambda one: -5 if _net("10.2.")(one) else 0,
    ),
)
