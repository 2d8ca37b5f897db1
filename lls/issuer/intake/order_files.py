"""What Salesforce's and NetSuite's order files share: rows become orders in the neutral form.

Rules
1. A file is a table (CSV) or the JSON of the service's own query. Both become flat rows with dotted names in lower case
   (``order.ordernumber``), so that one list of names finds a value in either.
2. A vendor whose columns are called otherwise names them in the settings (``columns``); that goes before our list.
3. The rows of one order number are one order. Where every line has a number of the service's own, the lines have that,
   or its rank where it is no small number; else their place in the file.
4. All or none: a row that cannot be read refuses the file and names the row. Orders that are not released (or were
   cancelled) there, are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lls.issuer.intake.bodies import read_csv, read_json
from lls.issuer.intake.facts import Adapter, Buyer, Event, Fact, Nothing, Ordered
from lls.issuer.intake.reading import LONGEST_ID, Told, order_of
from lls.issuer.intake.settings import Source
from lls.licensing.fields import malformed

CSV: Final = "text/csv"
JSON: Final = "application/json"
_HIGHEST_LINE: Final = 1_000_000
_MOST_DIGITS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One service's files.

    ``names`` lists, for each value, where it may stand; ``flat`` makes rows of the service's JSON; ``released`` says
    whether a status lets an order be fulfilled (empty: there is none); ``unsold`` whether a row sells nothing at all.
    """

    source: str
    about: str
    names: Mapping[str, tuple[str, ...]]
    flat: Callable[[Any], Iterator[dict[str, Any]]]
    released: Callable[[str], bool]
    unsold: Callable[[Mapping[str, Any]], bool]


def adapter(layout: Layout) -> Adapter:
    """The adapter of a service's files: a whole file is one event, known by its content."""

    def events(body: bytes, media: str) -> list[Event]:
        rows = read_csv(body) if media == CSV else list(layout.flat(read_json(body)))
        digest = hashlib.sha256(body).hexdigest()
        return [Event(event_id=digest, kind="order_file", document={"rows": rows})]

    def fact(event: Event, source: Source) -> Fact:
        orders = orders_of(Told(event.document, place="file").list("rows", most=10**6), layout, source.columns)
        if not orders:
            return Nothing(why="The file holds no order that is released.")
        return Ordered(orders=tuple(orders))

    return Adapter(
        source=layout.source,
        about=layout.about,
        media=(CSV, JSON),
        events=events,
        fact=fact,
    )


def flattened(document: Any, *, prefix: str = "", but: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object and the objects in it as one row; lists are left out."""
    row: dict[str, Any] = {}
    for key, value in document.items():
        if key in but:
            continue
        name = f"{prefix}{key}".casefold()
        if isinstance(value, dict):
            row |= flattened(value, prefix=f"{prefix}{key}.")
        elif not isinstance(value, list):
            row[name] = value
    return row


def orders_of(rows: Iterable[Any], layout: Layout, columns: Mapping[str, str]) -> list[dict[str, object]]:
    """The released orders of a file's rows. Raises RefusedDocument that names the row."""
    orders: dict[str, list[_Row]] = {}
    for number, raw in enumerate(rows, start=1):
        row = _Row(Told(raw, place=f"row {number}"), layout, columns)
        if not layout.unsold(raw) and layout.released(row.find("status") or ""):
            orders.setdefault(row.need("order_ref", most=LONGEST_ID), []).append(row)
    return [_order(reference, lines, layout) for reference, lines in orders.items()]


class _Row:
    """A row, asked for values by our names."""

    def __init__(self, told: Told, layout: Layout, columns: Mapping[str, str]) -> None:
        self.told, self._layout, self._columns = told, layout, columns

    def find(self, name: str) -> str | None:
        key = self.column(name)
        value = None if key is None else self.told.raw(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return value.strip() or None if isinstance(value, str) else None

    def column(self, name: str) -> str | None:
        if name in self._columns:
            return self._columns[name]
        names = self._layout.names.get(name, ())
        return next((key for key in names if self.told.raw(key) not in (None, "")), None)

    def need(self, name: str, *, most: int = 100) -> str:
        value = self.find(name)
        if value is None or len(value) > most or not value.isprintable():
            where = self._columns.get(name) or " or ".join(self._layout.names[name])
            raise malformed(
                self.told.place,
                f"has no {name} that can be used, in {where}; name the column in the settings (columns)",
            )
        return value


def _order(reference: str, rows: list[_Row], layout: Layout) -> dict[str, object]:
    first = rows[0]
    for name in ("account_ref", "server_id"):
        for row in rows:
            if row.find(name) != first.find(name):
                raise malformed(row.told.place, f"has another {name} than the first row of the order {reference}")
    who = Buyer(
        account_ref=first.need("account_ref"),
        name=Told({"name": first.find("customer")}, place=first.told.place).short("name"),
        server_id=first.find("server_id"),
    )
    lines = [_line(number, row) for number, row in _numbered(rows)]
    return order_of(f"{layout.source}:{reference}", who, lines, place=f"{first.told.place}.account_ref")


def _numbered(rows: list[_Row]) -> list[tuple[int, _Row]]:
    named = [(row.find("line"), row) for row in rows]
    digits = [
        (int(name), row) for name, row in named if name is not None and name.isdecimal() and len(name) <= _MOST_DIGITS
    ]
    if len(digits) != len(rows):
        return list(enumerate(rows, start=1))
    digits.sort(key=lambda one: one[0])
    for (number, row), (other, _) in zip(digits[1:], digits, strict=False):
        if number == other:
            raise malformed(row.told.place, f"has the line number {number} of another row of its order")
    if digits[0][0] < 1 or digits[-1][0] > _HIGHEST_LINE:
        return [(rank, row) for rank, (_, row) in enumerate(digits, start=1)]
    return digits


def _line(number: int, row: _Row) -> dict[str, object]:
    key = row.column("quantity")
    quantity = Told({"quantity": None if key is None else row.told.raw(key)}, place=row.told.place)
    line: dict[str, object] = {"line": number, "sku": row.need("sku"), "quantity": quantity.whole("quantity", least=1)}
    for name in ("action", "entitlement_id"):
        value = row.find(name)
        if value is not None:
            line[name] = value
    return line
