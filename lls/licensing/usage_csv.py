"""The line of ``usage.csv``, and the table as bytes.

Rules (contract §3, ``usage.csv``)
1. A table has one form: RFC 4180, UTF-8, a header with the columns in their order, CRLF, quotes only where they are
   needed. The vendor compares its own with the server's byte for byte.
2. A text that a spreadsheet would take for a formula gets an apostrophe in front; reading takes it off again.
3. Reading refuses what writing would not write: another header, a number that is none, a row that is too short.

It refuses to own what a line says (``usage``).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import malformed, read_instant, write_instant

SEAT: Final = "seat"
"""The unit of the seat meter."""
UNIT: Final = "unit"
"""The unit of a counted feature whose own has no name, or is not known."""
LEASE: Final = "lease"
"""The unit of a tracked switch: how many leases have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """One line of ``usage.csv``; the fields stand in the order of its columns."""

    day: str
    """``2026-11-21``; in a table by the hour the instant at which the hour begins."""
    server_id: str
    customer_ref: str
    """The vendor's account reference, from the import that last touched the entitlement."""
    entitlement_id: str
    sku: str
    product: str
    feature: str = ""
    """The feature's key; empty: the seats."""
    unit: str = SEAT
    """What the amounts count; of a credit its currency, in minor units."""
    seats: int | None
    """The limit in force at the period's end, of seats or of a pool's units; None (empty) is unlimited, that no import
    of it is known, or that there is none: of switches and of what is consumed."""
    peak: int
    """The highest level in the period; a seat that was taken and freed within one instant counts. Levels are seats in
    use, units out of a pool, leases that have a switch; always 0 of what is consumed."""
    low: int
    """The lowest level in the period; the level with which the period began counts."""
    seat_seconds: int
    """The integral of the level over the period."""
    checkouts: int = 0
    """Granted lines; of a feature FeatureCheckedOut lines."""
    denials: int = 0
    """The sum of the counts of Denied lines."""
    denied_holders: int = 0
    """Distinct holders among the denials of this range's part of the bucket; those that the server no longer told apart
    are not among them. After a merge a sum: an upper bound."""
    overdraft_peak: int = 0
    """The most seats or units in use beyond ``seats``."""
    overdraft_seconds: int = 0
    """How long more than ``seats`` were in use."""
    consumed: int = 0
    """Units used up; always 0 for seats, like the two that follow. What was undone is not taken off."""
    undone: int = 0
    """Units of uses that were undone in the period, whenever they were used."""
    overage: int = 0
    """Of the units used up those beyond all grants, less those of them that were undone. Below zero where the use lies
    in an earlier period: so the sum over any periods is what is to be billed."""
    period_start: datetime
    """The part of the bucket that the range covers: from here…"""
    period_end: datetime
    """…to here. Where the range goes on beyond the bucket this is the beginning of the next."""


COLUMNS: Final = tuple(column.name for column in fields(UsageLine))


def usage_csv(lines: Iterable[UsageLine]) -> bytes:
    """The table as RFC 4180 CSV: UTF-8, a header, CRLF, quotes only where they are needed.

    A text that a spreadsheet would take for a formula gets an apostrophe in front (an account reference is the vendor's
    free choice); :func:`read_usage_csv` takes it off again.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_WRITERS[name](getattr(line, name)) for name in COLUMNS] for line in lines)
    return table.getvalue().encode()


def read_usage_csv(table: bytes) -> list[UsageLine]:
    """The lines of a ``usage.csv``.

    Raises :class:`~lls.faults.RefusedDocument` (``malformed``) that names the line and the column.
    """
    try:
        rows = list(csv.reader(io.StringIO(table.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise RefusedDocument(Refusal.MALFORMED, "usage.csv is no CSV in UTF-8.") from None
    if not rows or rows[0] != list(COLUMNS):
        raise RefusedDocument(Refusal.MALFORMED, "usage.csv does not begin with the columns of the contract.")
    return [_read_row(row, place=f"usage.csv line {n}") for n, row in enumerate(rows[1:], start=2)]


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_NUMBER = re.compile(r"[0-9]{1,30}")


def _write_text(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text


def _read_text(cell: str, *, place: str) -> str:  # noqa: ARG001  # all readers are called alike
    return cell.removeprefix("'")


def _read_number(cell: str, *, place: str) -> int:
    if not _NUMBER.fullmatch(cell):
        raise malformed(place, "must be a whole number")
    return int(cell)


def _read_difference(cell: str, *, place: str) -> int:
    return -_read_number(cell[1:], place=place) if cell.startswith("-") else _read_number(cell, place=place)


def _read_limit(cell: str, *, place: str) -> int | None:
    return _read_number(cell, place=place) if cell else None


_TEXTS = ("day", "server_id", "customer_ref", "entitlement_id", "sku", "product", "feature", "unit")
_INSTANTS = ("period_start", "period_end")
_WRITERS: Mapping[str, Callable[[Any], object]] = (
    dict.fromkeys(COLUMNS, lambda value: value)  # numbers; the writer leaves None empty
    | dict.fromkeys(_TEXTS, _write_text)
    | dict.fromkeys(_INSTANTS, write_instant)
)
_READERS: Mapping[str, Callable[..., object]] = (
    dict.fromkeys(COLUMNS, _read_number)
    | dict.fromkeys(_TEXTS, _read_text)
    | dict.fromkeys(_INSTANTS, read_instant)
    | {"seats": _read_limit, "overage": _read_difference}
)


def _read_row(row: list[str], *, place: str) -> UsageLine:
    if len(row) != len(COLUMNS):
        raise malformed(place, f"must have {len(COLUMNS)} columns")
    cells: dict[str, Any] = {
        name: _READERS[name](cell, place=f"{place}, {name}") for name, cell in zip(COLUMNS, row, strict=True)
    }
    return UsageLine(**cells)
