"""A few site policies as text, and what each should mean, said a second time without ``policy``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lls.licensing.lease import Holder

Whom = Callable[[Holder], bool]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Seats for some: ``seats`` of so many bought, ``hour`` while they are kept."""

    who: Whom
    seats: Callable[[int], int]
    hour: Callable[[datetime], bool] = lambda _at: True


@dataclass(frozen=True, kw_only=True)
class Most:
    """No user or host more seats of cad."""

    seats: int
    per: str


@dataclass(frozen=True, kw_only=True)
class SiteRules:
    """A policy of cad; cam has none."""

    text: str
    rules: int
    kept: Sequence[Kept] = ()
    most: Sequence[Most] = ()
    excluded: Whom = lambda _holder: False
    linger: int = 0
    caps: Callable[[Holder], tuple[int | None, int | None]] = lambda _holder: (None, None)
    priority: Callable[[Holder], int] = lambda _holder: 0

    @property
    def counting(self) -> bool:
        return bool(self.kept or self.most)


def _user(name: str) -> Whom:
    return lambda holder: holder.user == name


def _host(name: str) -> Whom:
    return lambda holder: holder.host == name


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
        most=[Most(seats=1, per="user")],
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
        excluded=lambda holder: holder.user == "bob" or not (holder.host in {"ws1", "ws2"} or holder.user == "ann"),
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
        priority=lambda holder: 10 if holder.user == "bob" else 0,
        linger=70,
        caps=lambda holder: (3600, 1) if holder.user == "ann" else (None, None),
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
        most=[Most(seats=2, per="host")],
        caps=lambda _holder: (None, 0),
    ),
)
