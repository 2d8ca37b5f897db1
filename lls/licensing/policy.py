"""What the site adds to what it bought: rules that name people, machines and networks. Values, and what they decide.

Rules
1. A rule is named by its kind and its place in the file (``reserve[2]``, ``limit[1]``, ``deny[1]``); all ``allow``
   rules of a product are one decision, ``allow``. That is what denials and the journal say; ``name`` is for people.
2. A rule names whoever fits one of its users, hosts, networks or groups. Patterns are the shell's; case does not count.
   An IPv4 address that comes in IPv6 clothes is the IPv4 address.
3. A holder belongs to the *first* reservation of the product that names it, whether it is in force at that hour or not.
   Of priorities and borrowing caps too the first that names a holder counts.
4. ``deny`` wins over ``allow``. With any ``allow`` of a product, only those named by one may use it.
5. Days and times are the local wall clock of the policy's zone at that instant: an hour that the clock skips never
   comes, one that it repeats counts twice. A window that goes over midnight belongs to the day on which it begins.
6. Two rules are the same when they say the same: neither ``name`` nor place counts.

It refuses to own counts and free seats (``quotas``), leases, and the form of the file (``policy_file``).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache, partial
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias

from lls.licensing.entitlement import Status

if TYPE_CHECKING:
    from lls.licensing.pools import Pools

Network: TypeAlias = IPv4Network | IPv6Network

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_OF_A_DAY: Final = 24 * 60
_MEMBERS_KEPT: Final = 16_384
"""Answers kept for holders asked about before; a miss costs microseconds, not a scan of leases."""


class Asker(NamedTuple):
    """Whom rules may name: the client's own words for user and host, and the address that it comes from."""

    user: str | None = None
    host: str | None = None
    address: str | None = None


# -------------------------------------------------------------------- the policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All rules of a site, each kind in the order of the file. ``Policy()`` is none."""

    rules: tuple[Rule, ...] = ()
    _products: Mapping[str, ProductRules] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort the rules by what is asked for."""
        products = dict.fromkeys(rule.product for rule in self.rules)
        found = {
            product: ProductRules(rules=tuple(one for one in self.rules if one.product == product))
            for product in products
        }
        object.__setattr__(self, "_products", found)

    def of(self, product: str) -> ProductRules | None:
        """The rules of one product; None when there are none."""
        return self._products.get(product)

    @property
    def products(self) -> frozenset[str]:
        """The products that any rule names."""
        return frozenset(self._products)

    def seats_ruled(self, product: str) -> bool:
        """Whether a seat that is free may be refused to somebody: by a reservation or a limit."""
        rules = self._products.get(product)
        return rules is not None and rules.counting

    def reservation(self, product: str, asker: Asker) -> str | None:
        """The id of the reservation that a holder belongs to."""
        rules = self._products.get(product)
        mine = None if rules is None else rules.member(asker).reservation
        return None if mine is None else mine.rule

    def linger(self, product: str) -> int:
        """Seconds for which a returned seat is kept at least; 0 where the site says nothing."""
        rules = self._products.get(product)
        return 0 if rules is None else max((rule.seconds for rule in rules.lingers), default=0)

    def idle(self, product: str) -> int | None:
        """Seconds without a user after which a program is asked to give its seat back."""
        rules = self._products.get(product)
        return None if rules is None else min((rule.seconds for rule in rules.idles), default=None)

    def priority(self, product: str, asker: Asker) -> int:
        """The place in the queue: higher is earlier, 0 for those whom no rule names."""
        rules = self._products.get(product)
        if rules is None or not rules.priorities:
            return 0
        return next((rule.value for rule in rules.priorities if rule.who.names(asker)), 0)

    def borrow_caps(self, product: str, asker: Asker) -> tuple[int | None, int | None, str | None]:
        """The longest time and the most seats that may be borrowed, and the rule that says so; None: no cap."""
        rules = self._products.get(product)
        if rules is None:
            return None, None, None
        cap = next((rule for rule in rules.borrows if rule.who.names(asker)), None)
        return (None, None, None) if cap is None else (cap.max_seconds, cap.max_seats, cap.rule)

    def doubts(self, pools: Pools) -> list[str]:
        """What does not fit what is hosted: products that nobody has, more seats reserved than were bought."""
        found: list[str] = []
        if not pools:  # before the first bundle every product is unknown
            return found
        for product, rules in self._products.items():
            named = ", ".join(rule.rule for rule in rules.rules)
            if product not in pools.products:
                found.append(f"{named}: no product {product} is hosted here; `lls entitlement list` shows what is.")
                continue
            live = [
                pool for pool in pools.of(product) if pool.entitlement.status is Status.ACTIVE and not pool.returning
            ]
            bought = [pool.entitlement.seats for pool in live]
            if not live or None in bought:
                continue
            seats = sum(one or 0 for one in bought)
            most = most_at_once((rule.when, rule.of(seats)) for rule in rules.reservations)
            if most > seats:
                ids = ", ".join(rule.rule for rule in rules.reservations)
                found.append(f"{ids}: {most} seats of {product} are reserved at once, and {seats} were bought.")
        return found


def difference(old: Policy, new: Policy) -> tuple[list[str], list[str]]:
    """The ids of the rules that are new, and of those that are gone; an edited or moved rule is both.

    An id is the one of the policy in which the rule stands.
    """
    added: list[str] = []
    removed: list[str] = []
    for kind in RuleKind:
        before = [rule for rule in old.rules if rule.kind is kind]
        after = [rule for rule in new.rules if rule.kind is kind]
        stays = _common(before, after)
        removed += [rule.rule for place, rule in enumerate(before) if place not in stays]
        kept = set(stays.values())
        added += [rule.rule for place, rule in enumerate(after) if place not in kept]
    return added, removed


def _common(before: Sequence[Rule], after: Sequence[Rule]) -> dict[int, int]:
    """Places in ``before`` and ``after`` of rules that stayed, in the same order.

    The longest row of equal rules whose places rise on both sides, by patience sorting: a reload runs beside
    everybody's heartbeats, and looking for the very longest common row costs the square of a thousand rules.
    """
    places: dict[Rule, deque[int]] = {}
    for place, rule in enumerate(after):
        places.setdefault(rule, deque()).append(place)
    pairs = [(place, places[rule].popleft()) for place, rule in enumerate(before) if places.get(rule)]
    tops: list[int] = []
    ends: list[int] = []
    earlier: list[int | None] = []
    for number, (_, there) in enumerate(pairs):
        pile = bisect_left(tops, there)
        tops[pile : pile + 1] = [there]
        ends[pile : pile + 1] = [number]
        earlier.append(ends[pile - 1] if pile else None)
    found: dict[int, int] = {}
    at = ends[-1] if ends else None
    while at is not None:
        found[pairs[at][0]] = pairs[at][1]
        at = earlier[at]
    return found


class Membership(NamedTuple):
    """What the rules of a product say of one asker, whatever the hour and whoever else sits there."""

    reservation: Reserve | None
    limits: tuple[tuple[Limit, str | None], ...]
    """Each limit that counts it, and the group for which it does (``per = "group"``)."""
    excluded: Deny | Allow | None
    """What keeps it out; an ``allow`` rule when there are some and none names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRules:
    """The rules of one product, in the order of the file."""

    rules: tuple[Rule, ...]
    reservations: tuple[Reserve, ...] = field(init=False, compare=False, repr=False)
    limits: tuple[Limit, ...] = field(init=False, compare=False, repr=False)
    allows: tuple[Allow, ...] = field(init=False, compare=False, repr=False)
    denies: tuple[Deny, ...] = field(init=False, compare=False, repr=False)
    priorities: tuple[Priority, ...] = field(init=False, compare=False, repr=False)
    lingers: tuple[Linger, ...] = field(init=False, compare=False, repr=False)
    borrows: tuple[Borrow, ...] = field(init=False, compare=False, repr=False)
    idles: tuple[Idle, ...] = field(init=False, compare=False, repr=False)
    counting: bool = field(init=False, compare=False, repr=False)
    """Whether any rule depends on who sits where."""
    member: Callable[[Asker], Membership] = field(init=False, compare=False, repr=False)
    """What the rules say of an asker; kept for those asked about before."""

    def __post_init__(self) -> None:
        """Sort the rules by their kind."""

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("reservations", tuple(rule for rule in self.rules if isinstance(rule, Reserve)))
        put("limits", tuple(rule for rule in self.rules if isinstance(rule, Limit)))
        put("allows", tuple(rule for rule in self.rules if isinstance(rule, Allow)))
        put("denies", tuple(rule for rule in self.rules if isinstance(rule, Deny)))
        put("priorities", tuple(rule for rule in self.rules if isinstance(rule, Priority)))
        put("lingers", tuple(rule for rule in self.rules if isinstance(rule, Linger)))
        put("borrows", tuple(rule for rule in self.rules if isinstance(rule, Borrow)))
        put("idles", tuple(rule for rule in self.rules if isinstance(rule, Idle)))
        put("counting", bool(self.reservations or self.limits))
        # Not a method: a cache that leads back to its owner is a circle, and what a collector never looks at again (the
        # writer freezes what it has loaded) would stay for ever.
        kinds = self.reservations, self.limits, self.allows, self.denies
        put("member", lru_cache(maxsize=_MEMBERS_KEPT)(partial(_membership, *kinds)))

    def counts_like(self, other: ProductRules) -> bool:
        """Whether what was counted for these rules holds for the others: same words, same places."""
        ours, theirs = (*self.reservations, *self.limits), (*other.reservations, *other.limits)
        return ours == theirs and [one.rule for one in ours] == [one.rule for one in theirs]


def _membership(
    reservations: Iterable[Reserve],
    limits: Iterable[Limit],
    allows: Sequence[Allow],
    denies: Iterable[Deny],
    asker: Asker,
) -> Membership:
    look = _Look(asker)
    counted: list[tuple[Limit, str | None]] = []
    for rule in limits:
        if rule.per is Per.GROUP:
            counted += [(rule, group.name) for group in rule.who.groups if look.in_group(group)]
        elif look.names(rule.who):
            counted.append((rule, None))
    excluded: Deny | Allow | None = next((rule for rule in denies if look.names(rule.who)), None)
    if excluded is None and allows and not any(look.names(rule.who) for rule in allows):
        excluded = allows[0]
    return Membership(
        reservation=next((rule for rule in reservations if look.names(rule.who)), None),
        limits=tuple(counted),
        excluded=excluded,
    )


class _Look:
    """One asker against many rules: each group and each list of names is looked at once."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._fits: dict[str, bool] = {}
        self._groups: dict[str, bool] = {}

    def names(self, who: Who) -> bool:
        """What :meth:`Who.names` says."""
        if who.everybody or (who.own is not None and self._fit(who.own)):
            return True
        return any(map(self.in_group, who.groups))

    def in_group(self, group: Group) -> bool:
        """What :meth:`Group.names` says."""
        known = self._groups.get(group.name)
        if known is None:
            known = self._groups[group.name] = any(map(self._fit, group.parts))
        return known

    def _fit(self, names: Names) -> bool:
        known = self._fits.get(names.digest)
        if known is None:
            known = self._fits[names.digest] = names.match(self._asker)
        return known


# -------------------------------------------------------------------- the rules


class RuleKind(StrEnum):
    """The kinds of rules, in the order in which they are told."""

    RESERVE = "reserve"
    LIMIT = "limit"
    ALLOW = "allow"
    DENY = "deny"
    PRIORITY = "priority"
    LINGER = "linger"
    BORROW = "borrow"
    IDLE = "idle"


class Per(StrEnum):
    """For whom a limit counts."""

    USER = "user"
    HOST = "host"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    kind: ClassVar[RuleKind]

    product: str
    place: int = field(default=1, compare=False)
    """Among the rules of its kind, from 1."""
    name: str | None = field(default=None, compare=False)

    @property
    def rule(self) -> str:
        """Its id: kind and place."""
        return f"{self.kind.value}[{self.place}]"

    @property
    def words(self) -> str:
        """How it is told to people."""
        return self.rule if self.name is None else f"{self.rule} ({self.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve(_Rule):
    """So many seats are kept for its members: ``seats``, or ``percent`` of the seats bought, rounded down."""

    kind = RuleKind.RESERVE
    who: Who
    seats: int | None = None
    percent: int | None = None
    when: When | None = None

    def of(self, bought: int) -> int:
        """The seats that it keeps where so many were bought."""
        return bought * self.percent // 100 if self.percent is not None else self.seats or 0

    def in_force(self, at: datetime) -> bool:
        """Whether this is its hour."""
        return self.when is None or self.when.holds(at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(_Rule):
    """No user, host or group may occupy more ``seats``."""

    kind = RuleKind.LIMIT
    seats: int
    per: Per
    who: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow(_Rule):
    """These may use the product."""

    kind = RuleKind.ALLOW
    who: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny(_Rule):
    """These may not."""

    kind = RuleKind.DENY
    who: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority(_Rule):
    """Their place in the queue."""

    kind = RuleKind.PRIORITY
    value: int
    who: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Linger(_Rule):
    """A returned seat is kept for its holder."""

    kind = RuleKind.LINGER
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrow(_Rule):
    """Caps on borrowing; 0 forbids it, None leaves it to the vendor."""

    kind = RuleKind.BORROW
    max_seconds: int | None
    max_seats: int | None
    who: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle(_Rule):
    """A hint to programs."""

    kind = RuleKind.IDLE
    seconds: int


Rule: TypeAlias = Reserve | Limit | Allow | Deny | Priority | Linger | Borrow | Idle


# -------------------------------------------------------------------- whom they name


class Names:
    """Users, hosts and networks. Two that say the same are equal."""

    __slots__ = ("_hosts", "_networks", "_users", "digest")

    def __init__(
        self, *, users: Iterable[str] = (), hosts: Iterable[str] = (), networks: Iterable[Network] = ()
    ) -> None:
        users, hosts, networks = tuple(users), tuple(hosts), tuple(networks)
        self._users, self._hosts, self._networks = _patterns(users), _patterns(hosts), _networks(networks)
        said = (
            *sorted({f"user {one.casefold()}" for one in users}),
            *sorted({f"host {one.casefold()}" for one in hosts}),
            *sorted({f"network {one}" for one in networks}),
        )
        self.digest = sha256("\n".join(said).encode()).hexdigest()

    def match(self, asker: Asker) -> bool:
        """Whether any of them fits."""
        return (
            (asker.user is not None and self._users(asker.user.casefold()))
            or (asker.host is not None and self._hosts(asker.host.casefold()))
            or (asker.address is not None and self._networks(asker.address))
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Named people, with all that the groups inside it say."""

    name: str
    parts: tuple[Names, ...]

    def names(self, asker: Asker) -> bool:
        """Whether it is one of them."""
        return any(part.match(asker) for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Whom a rule means: any of these. ``everybody`` where the file does not say."""

    own: Names | None = None
    groups: tuple[Group, ...] = ()
    everybody: bool = False

    def names(self, asker: Asker) -> bool:
        """Whether the rule means it."""
        if self.everybody or (self.own is not None and self.own.match(asker)):
            return True
        return any(group.names(asker) for group in self.groups)


EVERYBODY: Final = Who(everybody=True)


def _patterns(given: Sequence[str]) -> Callable[[str], bool]:
    """Whether a casefolded text fits one of these. Names without a wildcard are looked up, the others tried at once."""
    folded = {one.casefold() for one in given}
    wild = sorted(one for one in folded if any(sign in one for sign in "*?["))
    plain = frozenset(folded.difference(wild))
    if not wild:
        return plain.__contains__
    # One automaton for all: ``translate`` makes each so that it never tries a text twice.
    tried = re.compile("|".join(f"(?:{translate(one)})" for one in wild)).match
    return lambda text: text in plain or tried(text) is not None


def _networks(given: Sequence[Network]) -> Callable[[str], bool]:
    """Whether an address lies in one of these; by one look-up for each length of prefix among them."""
    by_length: dict[tuple[int, int], set[int]] = {}
    for one in map(plain_network, given):
        shift = one.max_prefixlen - one.prefixlen
        by_length.setdefault((one.version, shift), set()).add(int(one.network_address) >> shift)
    if not by_length:
        return lambda _text: False

    def lies(text: str) -> bool:
        address = _address(text)
        if address is None:
            return False
        number, version = int(address), address.version
        return any(kind == version and number >> shift in networks for (kind, shift), networks in by_length.items())

    return lies


def plain_network(network: Network) -> Network:
    """An IPv4 network that is written as IPv6 (``::ffff:10.0.0.0/104``) as what it is."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


_MAPPED_BITS: Final = 96


@lru_cache(maxsize=4_096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """None for what is no address: the peer of a UNIX socket has none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


# -------------------------------------------------------------------- when they hold


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Days of the week (0 is Monday) and minutes of the day in a zone; ``end`` not after ``begin``: on the next day."""

    days: frozenset[int] = frozenset(range(7))
    begin: int = 0
    end: int = MINUTES_OF_A_DAY
    zone: tzinfo = UTC

    def holds(self, at: datetime) -> bool:
        """Whether the local wall clock at that instant shows a time inside."""
        local = at.astimezone(self.zone)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (minute >= self.begin and day in self.days) or (minute < self.end and (day - 1) % 7 in self.days)


def most_at_once(amounts: Iterable[tuple[When | None, int]]) -> int:
    """The highest sum of amounts that hold at the same minute of a week (all of one zone); None holds always."""
    rises = [0] * (_MINUTES_OF_A_WEEK + 1)
    for when, amount in amounts:
        if when is None:
            rises[0] += amount
            continue
        for day in when.days:
            begin = day * MINUTES_OF_A_DAY + when.begin
            lasts = when.end - when.begin
            end = begin + (lasts if lasts > 0 else lasts + MINUTES_OF_A_DAY)
            rises[begin] += amount
            if end > _MINUTES_OF_A_WEEK:
                rises[0] += amount
            rises[end % _MINUTES_OF_A_WEEK or _MINUTES_OF_A_WEEK] -= amount
    return max(accumulate(rises))


_MINUTES_OF_A_WEEK: Final = 7 * MINUTES_OF_A_DAY
