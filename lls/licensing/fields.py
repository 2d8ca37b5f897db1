"""Typed reading of a JSON object that somebody else wrote.

One reader for everything inside a signed document. A value of the wrong type or out of its range is refused with the
name of its place (``entitlements[2].seats``); an unknown member is left alone, so that newer producers stay readable
(contract, common rules). Nothing is converted silently: ``true`` is no number, ``1.0`` is no integer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

from lls.faults import Refusal, RefusedDocument

E = TypeVar("E", bound=StrEnum)
Json: TypeAlias = object
"""A parsed JSON value, nothing known of it yet."""

LONGEST_TEXT: Final = 200
LARGEST: Final = 2**53 - 1
"""The largest integer that every JSON implementation carries exactly (RFC 8259 §6)."""

_ID = re.compile(r"[a-z]{3}_[A-Za-z0-9_-]{22}")
_WORD = re.compile(r"[A-Za-z0-9._-]{1,50}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def malformed(place: str, complaint: str) -> RefusedDocument:
    """The refusal for a member that is not what the contract says."""
    return RefusedDocument(Refusal.MALFORMED, f"{place} {complaint}.")


def read_instant(text: Json, *, place: str) -> datetime:
    """RFC 3339 in UTC with ``Z`` → an aware instant."""
    if isinstance(text, str) and _INSTANT.fullmatch(text):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass  # a date like February 30th; the sentence below fits it
    raise malformed(place, "must be an instant like 2026-11-21T07:00:00Z")


@lru_cache(maxsize=64)
def write_instant(at: datetime) -> str:
    """An aware instant → RFC 3339 in UTC with ``Z``, microseconds only where there are any."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Fields:
    """A JSON object with its place in the document, for error messages."""

    __slots__ = ("_document", "place")

    def __init__(self, document: Json, *, place: str) -> None:
        if not isinstance(document, Mapping):
            raise malformed(place, "must be an object")
        self._document: Mapping[str, Json] = document
        self.place = place

    def _get(self, key: str) -> Json:
        try:
            return self._document[key]
        except KeyError:
            raise malformed(self._at(key), "is missing") from None

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def has(self, key: str) -> bool:
        """Whether the member is there with another value than null."""
        return self._document.get(key) is not None

    def text(self, key: str, *, most: int = LONGEST_TEXT) -> str:
        """A string of 1 to ``most`` characters without control characters."""
        value = self._get(key)
        if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
            raise malformed(self._at(key), f"must be a printable text of 1 to {most} characters")
        return value

    def content(self, key: str, *, most: int) -> str:
        """A text of any characters, lines and all; it may be empty."""
        value = self._get(key)
        if not isinstance(value, str) or len(value) > most:
            raise malformed(self._at(key), f"must be a text of at most {most} characters")
        return value

    def optional_text(self, key: str, *, most: int = LONGEST_TEXT) -> str | None:
        """The same, or None where it is null or absent."""
        return self.text(key, most=most) if self.has(key) else None

    def word(self, key: str) -> str:
        """A key of the vendor's own: 1 to 50 of ``A-Za-z0-9._-``."""
        value = self._get(key)
        if not isinstance(value, str) or not _WORD.fullmatch(value):
            raise malformed(self._at(key), "must be 1 to 50 characters of A-Z a-z 0-9 . _ -")
        return value

    def optional_word(self, key: str) -> str | None:
        """The same, or None where it is null or absent."""
        return self.word(key) if self.has(key) else None

    def id(self, key: str, prefix: str) -> str:
        """An opaque id: its prefix and 22 base64url characters."""
        value = self._get(key)
        if not isinstance(value, str) or not value.startswith(prefix) or not _ID.fullmatch(value):
            raise malformed(self._at(key), f"must be an id like {prefix}… with 22 characters")
        return value

    def integer(self, key: str, *, least: int = 0, most: int = LARGEST) -> int:
        """An integer within its range; neither a boolean nor a float."""
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise malformed(self._at(key), f"must be an integer from {least} to {most}")
        return value

    def optional_integer(self, key: str, *, least: int = 0, most: int = LARGEST) -> int | None:
        """The same, or None where it is null or absent."""
        return self.integer(key, least=least, most=most) if self.has(key) else None

    def instant(self, key: str) -> datetime:
        """An RFC 3339 instant in UTC."""
        return read_instant(self._get(key), place=self._at(key))

    def optional_instant(self, key: str) -> datetime | None:
        """The same, or None where it is null or absent."""
        return self.instant(key) if self.has(key) else None

    def optional_day(self, key: str) -> date | None:
        """A calendar day ``YYYY-MM-DD``, or None."""
        if not self.has(key):
            return None
        value = self._get(key)
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass  # February 30th; the sentence below fits it
        raise malformed(self._at(key), "must be a day like 2026-11-21")

    def names(self) -> list[str]:
        """The members that there are."""
        return list(self._document)

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self._get(key)
        if not isinstance(value, bool):
            raise malformed(self._at(key), "must be true or false")
        return value

    def kind(self, key: str, kinds: type[E]) -> E:
        """One word of a closed list."""
        value = self._get(key)
        if not isinstance(value, str) or value not in set(kinds):
            raise malformed(self._at(key), f"must be one of {', '.join(kinds)}")
        return kinds(value)

    def object(self, key: str) -> Fields:
        """A member that is an object itself."""
        return Fields(self._get(key), place=self._at(key))

    def list(self, key: str, *, most: int = 10_000) -> Sequence[Json]:
        """An array of at most ``most`` items; absent means empty."""
        value = self._document.get(key, ())
        if not isinstance(value, list | tuple) or len(value) > most:
            raise malformed(self._at(key), f"must be an array of at most {most} items")
        return value

    def objects(self, key: str, *, most: int = 10_000) -> Sequence[Fields]:
        """An array of objects."""
        return [Fields(item, place=f"{self._at(key)}[{n}]") for n, item in enumerate(self.list(key, most=most))]

    def texts(self, key: str, *, most: int = 10_000) -> tuple[str, ...]:
        """An array of printable texts."""
        values = self.list(key, most=most)
        for n, value in enumerate(values):
            if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_TEXT or not value.isprintable():
                raise malformed(f"{self._at(key)}[{n}]", f"must be a printable text of 1 to {LONGEST_TEXT} characters")
        return tuple(str(value) for value in values)
