"""Orders as a table: CSV (RFC 4180) in UTF-8, as spreadsheets and shops export them.

Rules
1. The first row names the columns, in any order; an unknown one refuses the file. A comma or a semicolon separates,
   whichever the first row has.
2. Every row is a line of an order. Rows of one ``order_ref`` make one order, wherever they stand, and must agree on
   the columns that belong to the order.
3. An empty cell is a member that is left out. ``line`` left out in all rows of an order: they are numbered as they
   stand, so a longer export of the same order keeps its first numbers.
4. The rows become the documents that JSON would have been, and the same reader judges them: a table can say less, and
   nothing else. Refusals name the order and the line, and here the row of the file.

It refuses to own what an order means (``orders``, ``ordering``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.orders import Order, orders_of
from lls.issuer.refusals import OrderRefused
from lls.licensing.fields import malformed

MOST_ROWS: Final = 100_000
ORDER_COLUMNS: Final = ("order_ref", "account_ref", "customer_name", "server_id", "invoice_ref")
"""Those that every row of an order says alike, or leaves empty after the first."""
_NUMBERS: Final = frozenset({"line", "quantity", "grace_seconds", "lease_seconds", "linger_seconds", "price_amount"})
LINE_COLUMNS: Final = (
    "line",
    "action",
    "sku",
    "quantity",
    "entitlement_id",
    "of_sku",
    "starts_at",
    "expires_at",
    "grace_seconds",
    "lease_seconds",
    "linger_seconds",
    "sharing",
    "max_version",
    "named_users",
    "price_amount",
    "price_currency",
)
_BEYOND_INT: Final = 18


def read_order_table(data: bytes) -> list[Order]:
    """The orders of a table. Raises :class:`OrderRefused`."""
    try:
        rows = list(_rows(data))
        grouped: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
        for number, row in rows:
            if "order_ref" not in row:
                raise malformed(f"row {number}.order_ref", "is missing")
            grouped.setdefault(row["order_ref"], []).append((number, row))
        documents = [(f"order {reference}", _document(group)) for reference, group in grouped.items()]
    except RefusedDocument as refused:
        raise OrderRefused(f"The table of orders was refused: {refused.detail}") from refused
    return orders_of(documents)


def _rows(data: bytes) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The cells that are not empty, by column, with the row's number in the file as a spreadsheet counts it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise malformed(f"byte {failure.start}", "is not UTF-8") from failure
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first else ",", strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(header)
        for number, cells in enumerate(reader, start=2):
            if number > MOST_ROWS + 1:
                raise malformed("the table", f"has more than {MOST_ROWS:,} rows")
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise malformed(
                    f"row {number}", f"has {len(cells)} cells, and the first row names {len(header)} columns"
                )
            yield number, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    except csv.Error as failure:
        raise malformed(f"row {reader.line_num}", f"is not valid CSV: {failure}") from failure


def _check_header(header: list[str]) -> None:
    if not header:
        raise malformed("the table", "is empty: its first row must name the columns")
    known = (*ORDER_COLUMNS, *LINE_COLUMNS)
    for name in header:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"perhaps {near[0]!r} is meant" if near else f"there are {', '.join(known)}"
            raise malformed("the first row", f"names the column {name!r}, which no table of orders has; {hint}")
    for name in header:
        if header.count(name) > 1:
            raise malformed(f"the first row.{name}", "stands there twice")
    for name in ("order_ref", "account_ref", "sku"):
        if name not in header:
            raise malformed(f"the first row.{name}", "is missing")


def _document(group: list[tuple[int, Mapping[str, str]]]) -> dict[str, Any]:
    first_number, first = group[0]
    for number, row in group[1:]:
        for name in ORDER_COLUMNS:
            if name in row and row[name] != first.get(name):
                raise malformed(f"row {number}.{name}", f"differs from row {first_number}, which is of the same order")
    order: dict[str, Any] = {name: first[name] for name in ORDER_COLUMNS if name in first and name != "customer_name"}
    if "customer_name" in first:
        order["customer"] = {"name": first["customer_name"]}
    numbered = sum("line" in row for _, row in group)
    if numbered not in (0, len(group)):
        raise malformed(f"order {first['order_ref']}", "has a line number in some of its rows only")
    order["lines"] = [_line(row, position=n, row=number) for n, (number, row) in enumerate(group, start=1)]
    return order


def _line(cells: Mapping[str, str], *, position: int, row: int) -> dict[str, Any]:
    line: dict[str, Any] = {"line": position}
    for name in LINE_COLUMNS:
        if name in cells:
            line[name] = _value(name, cells[name], place=f"row {row}.{name}")
    price = {key.removeprefix("price_"): line.pop(key) for key in ("price_amount", "price_currency") if key in line}
    return {**line, "price": price} if price else line


def _value(name: str, cell: str, *, place: str) -> object:
    if name == "named_users":
        return [user.strip() for user in cell.split("|") if user.strip()]
    return _number(cell, place=place) if name in _NUMBERS else cell


def _number(cell: str, *, place: str) -> int:
    digits = cell.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > _BEYOND_INT:
        raise malformed(place, "must be a whole number")
    return int(cell)
