"""Reading a site's policy: TOML text in, rules out, or a refusal that names every problem.

Rules
1. Strict: an unknown name, a wrong type, a number out of its range, a pattern, network, time or zone that is none: each
   is a problem, named by its place (``reserve[2].for.groups``). Nothing is converted, nothing is left out silently.
2. What contradicts itself is a problem too: groups in a circle, a limit of nothing, percents of one product that pass
   100 at the same moment, the same people both allowed and denied, two answers where only one can count.
3. A text that says nothing (comments only) is a policy without rules.
4. What is hosted is not looked at here (``Policy.doubts``).

The text may come from anywhere: its length, depth and numbers are bounded before they cost anything.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from fnmatch import translate
from ipaddress import ip_network
from typing import Final, TypeAlias
from zoneinfo import ZoneInfo

from lls.faults import Refusal, RefusedDocument
from lls.licensing.entitlement import LONGEST_BORROW_SECONDS, MOST_SEATS
from lls.licensing.policy import (
    DAYS,
    EVERYBODY,
    MINUTES_OF_A_DAY,
    Allow,
    Borrow,
    Deny,
    Group,
    Idle,
    Limit,
    Linger,
    Names,
    Network,
    Per,
    Policy,
    Priority,
    Reserve,
    Rule,
    RuleKind,
    When,
    Who,
    most_at_once,
    plain_network,
)

LONGEST_TEXT: Final = 256 * 1024
MOST_RULES: Final = 1_000
MOST_GROUPS: Final = 200
MOST_NAMES: Final = 10_000
LONGEST_NAME: Final = 200
LONGEST_LINGER_SECONDS: Final = 7 * 86_400
LONGEST_IDLE_SECONDS: Final = 30 * 86_400
MOST_PROBLEMS: Final = 50

_PRODUCT = re.compile(r"[A-Za-z0-9._-]{1,50}")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(/[A-Za-z0-9_+-]{1,40}){0,3}")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_KEY = r"(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]+|\"[^\"\n]*\"|'[^'\n]*')"
_DEEP_KEY = re.compile(rf"(?:{_KEY}[ \t]*\.[ \t]*){{16}}{_KEY}")
"""A key of many parts costs the TOML reader the square of their number, and none of ours has more than two."""

Table: TypeAlias = Mapping[str, object]


def read_policy(text: str) -> Policy:
    """The policy that a text says. Raises RefusedDocument (``malformed``) that names all problems."""
    document = _parsed(text)
    if not document:
        return Policy()
    reader = _Reader()
    policy = reader.policy(document)
    if reader.problems:
        named, more = reader.problems[:MOST_PROBLEMS], len(reader.problems) - MOST_PROBLEMS
        told = (*named, *([f"There are {more} more problems."] if more > 0 else []))
        raise RefusedDocument(Refusal.MALFORMED, " ".join(told), problems=told)
    return policy


def _parsed(text: str) -> Table:
    if len(text) > LONGEST_TEXT:
        raise RefusedDocument(Refusal.MALFORMED, f"The policy is longer than {LONGEST_TEXT} characters.")
    if _DEEP_KEY.search(text):
        raise RefusedDocument(Refusal.MALFORMED, "The policy has a key of more than 16 parts.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RefusedDocument(Refusal.MALFORMED, f"The policy is not TOML: {error}.") from None
    except RecursionError:
        raise RefusedDocument(Refusal.MALFORMED, "The policy is nested too deeply.") from None
    except ValueError:
        # A number of thousands of digits, a day that no calendar has: the reader does not say it in its own words.
        raise RefusedDocument(Refusal.MALFORMED, "The policy has a number or a date that cannot be read.") from None


class _Reader:
    """Reads a document and gathers what is wrong with it; where something is, a harmless value stands in its place."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._zone: tzinfo = UTC
        self._groups: dict[str, Group] = {}

    def policy(self, document: Table) -> Policy:
        self._unknown(document, ("format", "timezone", "groups", *RuleKind), "")
        if document.get("format") != 1 or isinstance(document.get("format"), bool):
            self._problem("format", "must be 1")
        self._zone = self._zone_of(document.get("timezone", "UTC"))
        self._groups = self._read_groups(document.get("groups", {}))
        rules: list[Rule] = []
        for kind, read in self._readers().items():
            for number, table in enumerate(self._tables(document, kind), 1):
                place = f"{kind}[{number}]"
                if not isinstance(table, Mapping):
                    self._problem(place, "must be a table")
                    continue
                rule = read(table, place, number)
                if rule is not None:
                    rules.append(rule)
        self._contradictions(rules)
        return Policy(rules=tuple(rules))

    def _readers(self) -> dict[RuleKind, Callable[[Table, str, int], Rule | None]]:
        return {
            RuleKind.RESERVE: self._reserve,
            RuleKind.LIMIT: self._limit,
            RuleKind.ALLOW: self._allow,
            RuleKind.DENY: self._deny,
            RuleKind.PRIORITY: self._priority,
            RuleKind.LINGER: self._linger,
            RuleKind.BORROW: self._borrow,
            RuleKind.IDLE: self._idle,
        }

    def _tables(self, document: Table, kind: RuleKind) -> Sequence[object]:
        given = document.get(kind.value, [])
        if not isinstance(given, list) or len(given) > MOST_RULES:
            self._problem(kind.value, f"must be written as [[{kind.value}]], at most {MOST_RULES} times")
            return []
        return given

    # ---------------------------------------------------------------- one rule each

    def _reserve(self, table: Table, place: str, number: int) -> Rule | None:
        product = self._begin(table, place, ("seats", "percent", "for", "when"))
        seats = percent = None
        if ("seats" in table) == ("percent" in table):
            self._problem(place, "must have either seats or percent")
        elif "seats" in table:
            seats = self._integer(table, "seats", place, least=1, most=MOST_SEATS)
        else:
            percent = self._integer(table, "percent", place, least=1, most=100)
        return Reserve(
            product=product,
            place=number,
            name=self._name(table, place),
            who=self._who(table, place, needed=True),
            seats=seats,
            percent=percent,
            when=self._when(table["when"], f"{place}.when") if "when" in table else None,
        )

    def _limit(self, table: Table, place: str, number: int) -> Rule | None:
        product = self._begin(table, place, ("seats", "per", "for"))
        per, who = table.get("per"), self._who(table, place, needed=False)
        if per not in tuple(Per):
            self._problem(f"{place}.per", f"must be one of {', '.join(Per)}")
            per = Per.USER
        if per == Per.GROUP and (not who.groups or who.own is not None):
            self._problem(f"{place}.for", 'must name groups, and nothing else, where per is "group"')
        seats = self._integer(table, "seats", place, least=1, most=MOST_SEATS)
        name = self._name(table, place)
        return Limit(product=product, place=number, name=name, seats=seats, per=Per(str(per)), who=who)

    def _allow(self, table: Table, place: str, number: int) -> Rule | None:
        product, name = self._begin(table, place, ("for",)), self._name(table, place)
        return Allow(product=product, place=number, name=name, who=self._who(table, place, needed=True))

    def _deny(self, table: Table, place: str, number: int) -> Rule | None:
        product, name = self._begin(table, place, ("for",)), self._name(table, place)
        return Deny(product=product, place=number, name=name, who=self._who(table, place, needed=True))

    def _priority(self, table: Table, place: str, number: int) -> Rule | None:
        product, name = self._begin(table, place, ("for", "value")), self._name(table, place)
        value = self._integer(table, "value", place, least=-100, most=100)
        who = self._who(table, place, needed=True)
        return Priority(product=product, place=number, name=name, value=value, who=who)

    def _linger(self, table: Table, place: str, number: int) -> Rule | None:
        product, name = self._begin(table, place, ("seconds",)), self._name(table, place)
        seconds = self._integer(table, "seconds", place, least=0, most=LONGEST_LINGER_SECONDS)
        return Linger(product=product, place=number, name=name, seconds=seconds)

    def _borrow(self, table: Table, place: str, number: int) -> Rule | None:
        product = self._begin(table, place, ("max_seconds", "max_seats", "for"))
        if "max_seconds" not in table and "max_seats" not in table:
            self._problem(place, "must have max_seconds, max_seats or both")
        return Borrow(
            product=product,
            place=number,
            name=self._name(table, place),
            max_seconds=self._optional(table, "max_seconds", place, most=LONGEST_BORROW_SECONDS),
            max_seats=self._optional(table, "max_seats", place, most=MOST_SEATS),
            who=self._who(table, place, needed=False),
        )

    def _idle(self, table: Table, place: str, number: int) -> Rule | None:
        product, name = self._begin(table, place, ("seconds",)), self._name(table, place)
        seconds = self._integer(table, "seconds", place, least=1, most=LONGEST_IDLE_SECONDS)
        return Idle(product=product, place=number, name=name, seconds=seconds)

    def _begin(self, table: Table, place: str, known: Sequence[str]) -> str:
        """What all rules have: no unknown names, and a product."""
        self._unknown(table, ("name", "product", *known), place)
        product = table.get("product")
        if not isinstance(product, str) or not _PRODUCT.fullmatch(product):
            self._problem(f"{place}.product", "must be a product key: 1 to 50 characters of A-Z a-z 0-9 . _ -")
            return "?"
        return product

    def _name(self, table: Table, place: str) -> str | None:
        return self._text(table["name"], f"{place}.name") if "name" in table else None

    # ---------------------------------------------------------------- whom

    def _read_groups(self, given: object) -> dict[str, Group]:
        if not isinstance(given, Mapping) or len(given) > MOST_GROUPS:
            self._problem("groups", f"must be tables [groups.NAME], at most {MOST_GROUPS}")
            return {}
        own: dict[str, Names | None] = {}
        inner: dict[str, tuple[str, ...]] = {}
        for name, table in given.items():
            place = f"groups.{_short(name)}"
            if not _PRODUCT.fullmatch(name):
                self._problem(place, "must have a name of 1 to 50 characters of A-Z a-z 0-9 . _ -")
            own[name], inner[name] = self._names(table, place)
            unknown = [one for one in inner[name] if one not in given]
            for one in unknown:
                self._problem(f"{place}.groups", f"names {_short(one)}, and there is no such group")
            inner[name] = tuple(one for one in inner[name] if one in given)
        return {name: self._group(name, own, inner) for name in own}

    def _group(self, name: str, own: Mapping[str, Names | None], inner: Mapping[str, Sequence[str]]) -> Group:
        """A group with everything inside it. A circle is a problem of each group that is on it."""
        found: dict[str, None] = {}
        ahead = list(inner[name])
        while ahead:
            one = ahead.pop()
            if one not in found:
                found[one] = None
                ahead += inner[one]
        if name in found:
            self._problem(f"groups.{_short(name)}", "contains itself")
        parts = (own[one] for one in sorted({name, *found}))
        return Group(name=name, parts=tuple(part for part in parts if part is not None))

    def _who(self, table: Table, place: str, *, needed: bool) -> Who:
        if "for" not in table:
            if needed:
                self._problem(f"{place}.for", "is missing: whom does it mean?")
            return EVERYBODY
        own, groups = self._names(table["for"], f"{place}.for")
        for one in groups:
            if one not in self._groups:
                self._problem(f"{place}.for.groups", f"names {_short(one)}, and there is no such group")
        known = tuple(self._groups[one] for one in dict.fromkeys(groups) if one in self._groups)
        return Who(own=own, groups=known)

    def _names(self, given: object, place: str) -> tuple[Names | None, tuple[str, ...]]:
        """Users, hosts and networks, and the names of groups."""
        if not isinstance(given, Mapping):
            self._problem(place, "must be a table of users, hosts, networks and groups")
            return None, ()
        self._unknown(given, ("users", "hosts", "networks", "groups"), place)
        if not given:
            self._problem(place, "names nobody")
        users, hosts = self._patterns(given, "users", place), self._patterns(given, "hosts", place)
        networks = [net for net in self._networks(given, place) if net is not None]
        groups = tuple(text for text, _ in self._texts(given, "groups", place))
        own = Names(users=users, hosts=hosts, networks=networks) if users or hosts or networks else None
        return own, groups

    def _patterns(self, given: Table, key: str, place: str) -> list[str]:
        found = []
        for text, at in self._texts(given, key, place):
            complaint = _wrong_pattern(text)
            if complaint:
                self._problem(at, complaint)
            else:
                found.append(text)
        return found

    def _networks(self, given: Table, place: str) -> Iterator[Network | None]:
        for text, at in self._texts(given, "networks", place):
            try:
                yield plain_network(ip_network(text))
            except ValueError:
                self._problem(at, _wrong_network(text))

    # ---------------------------------------------------------------- when

    def _zone_of(self, given: object) -> tzinfo:
        if given == "UTC":
            return UTC
        if isinstance(given, str) and _ZONE.fullmatch(given):
            try:
                return ZoneInfo(given)
            except (KeyError, ValueError, OSError):  # unknown; no zone file; a folder of zones
                pass
        self._problem("timezone", "must be a zone like Europe/Vienna that this machine knows (its package is tzdata)")
        return UTC

    def _when(self, given: object, place: str) -> When | None:
        if not isinstance(given, Mapping):
            self._problem(place, "must be a table of days, from and to")
            return None
        self._unknown(given, ("days", "from", "to"), place)
        if not given:
            self._problem(place, "names no time")
        days = {text for text, _ in self._texts(given, "days", place)} if "days" in given else set(DAYS)
        if not days <= set(DAYS):
            self._problem(f"{place}.days", f"must be of {', '.join(DAYS)}")
        begin = self._minute(given, "from", place) if "from" in given else 0
        end = self._minute(given, "to", place) if "to" in given else MINUTES_OF_A_DAY
        numbers = frozenset(number for number, day in enumerate(DAYS) if day in days)
        return When(days=numbers, begin=begin, end=end, zone=self._zone)

    def _minute(self, given: Table, key: str, place: str) -> int:
        text = given[key]
        if key == "to" and text == "24:00":
            return MINUTES_OF_A_DAY
        found = _TIME.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            self._problem(f"{place}.{key}", 'must be a time in quotes like "08:30"')
            return 0
        return int(found[1]) * 60 + int(found[2])

    # ---------------------------------------------------------------- what contradicts itself

    def _contradictions(self, rules: Sequence[Rule]) -> None:
        for product in dict.fromkeys(rule.product for rule in rules):
            mine = [rule for rule in rules if rule.product == product]
            shares = [(one.when, one.percent) for one in mine if isinstance(one, Reserve) and one.percent is not None]
            together = most_at_once(shares)
            if together > _ALL:
                self.problems.append(f"The reservations of {product} keep {together} percent of its seats at once.")
            self._only_one(mine, Linger)
            self._only_one(mine, Idle)
            denied = {rule.who: rule.rule for rule in mine if isinstance(rule, Deny)}
            for rule in mine:
                if isinstance(rule, Allow) and rule.who in denied:
                    self._problem(rule.rule, f"allows the very people whom {denied[rule.who]} denies")

    def _only_one(self, rules: Sequence[Rule], kind: type[Linger | Idle]) -> None:
        found = [rule for rule in rules if isinstance(rule, kind)]
        for rule in found[1:]:
            self._problem(rule.rule, f"is one too many for {rule.product}: {found[0].rule} says it already")

    # ---------------------------------------------------------------- values

    def _problem(self, place: str, complaint: str) -> None:
        self.problems.append(f"{place} {complaint}.")

    def _unknown(self, table: Table, known: Sequence[str], place: str) -> None:
        for key in table:
            if key not in known:
                at = f"{place}.{_short(key)}" if place else _short(key)
                self._problem(at, f"is unknown; known are {', '.join(known)}")

    def _integer(self, table: Table, key: str, place: str, *, least: int, most: int) -> int:
        value = table.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._problem(f"{place}.{key}", f"must be an integer from {least} to {most}")
            return least
        return value

    def _optional(self, table: Table, key: str, place: str, *, most: int) -> int | None:
        return self._integer(table, key, place, least=0, most=most) if key in table else None

    def _text(self, value: object, place: str) -> str | None:
        if isinstance(value, str) and 1 <= len(value) <= LONGEST_NAME and value.isprintable():
            return value
        self._problem(place, f"must be a printable text of 1 to {LONGEST_NAME} characters")
        return None

    def _texts(self, table: Table, key: str, place: str) -> Iterator[tuple[str, str]]:
        """The texts of an array and their places."""
        if key not in table:
            return
        values = table[key]
        if not isinstance(values, list) or not 1 <= len(values) <= MOST_NAMES:
            self._problem(f"{place}.{key}", f"must be an array of 1 to {MOST_NAMES} texts")
            return
        for number, value in enumerate(values, 1):
            at = f"{place}.{key}[{number}]"
            text = self._text(value, at)
            if text is not None:
                yield text, at


_ALL: Final = 100


def _wrong_pattern(text: str) -> str:
    """What is wrong with a shell pattern; empty: nothing."""
    rest = text
    while "[" in rest:
        # A bracket right after the opening one, or after its `!`, is one of the characters.
        inside = rest[rest.index("[") + 1 :].removeprefix("!")
        end = inside.find("]", 1)
        if end < 0:
            return "has a [ without its ]"
        rest = inside[end + 1 :]
    return "has a range that is empty, like [z-a]" if "(?!)" in translate(text.casefold()) else ""


def _wrong_network(text: str) -> str:
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        return "must be a network like 10.1.0.0/16 or 2001:db8::/32"
    return f"has bits beyond its prefix; was {meant} meant?"


def _short(text: str) -> str:
    """A name from a foreign text, fit to be shown."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:50])
    return shown if len(text) <= len(shown) else f"{shown}…"
