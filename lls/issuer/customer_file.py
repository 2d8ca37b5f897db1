"""A file of customers, as a CRM or ERP exports them: CSV bytes → rows, and what is wrong with each. Pure.

Rules
1. The first row names the columns: ``account_ref`` and ``name``, and where wanted ``note``, ``contact_name``,
   ``contact_email``, ``contact_phone``, ``contact_role`` and ``field.KEY`` for a field of the vendor's own. Whatever
   else it names refuses the file: a column that is silently left out is missed months later.
2. Comma, semicolon, tab or bar part the cells, whichever the first row uses; a spreadsheet's ``sep=;`` may stand
   above.
3. UTF-8, with or without its mark; Windows-1252 where it is said. What can be told apart is told apart by name (UTF-16,
   a workbook, a file in another encoding), because "invalid byte" helps nobody.
4. An account reference that stands in several rows is refused in each of them: which one is right is not ours to guess.
5. A cell that begins with ``=`` is a formula, not a value, and refused: ``="00042"`` is no account reference. An empty
   cell says nothing, and leaves what is there.
6. Rows are counted as a spreadsheet counts them; the first is the header.

It refuses to own what becomes of a row (``customers``).
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lls.issuer.customer_fields import FIELD_KEY, LONGEST_VALUE
from lls.issuer.refusals import CustomersRefused

LARGEST_FILE: Final = 64 << 20
MOST_ROWS: Final = 500_000
OWN: Final = "field."
_LONGEST: Final = {
    "account_ref": 100, "name": 200, "note": 2_000, "contact_name": 200, "contact_email": 254, "contact_phone": 50,
    "contact_role": 100,
}  # fmt: skip
COLUMNS: Final = tuple(_LONGEST)
_SEPARATORS: Final = ",;\t|"
_OWN_ID = re.compile(r"cus_[A-Za-z0-9_-]{22}")
_FOREIGN: Final = (
    (b"\xff\xfe", "is UTF-16"),
    (b"\xfe\xff", "is UTF-16"),
    (b"PK\x03\x04", "is a workbook or an archive, not CSV"),
    (b"\xd0\xcf\x11\xe0", "is a workbook, not CSV"),
)


class Encoding(StrEnum):
    """How the file's letters are written."""

    UTF8 = "utf-8"
    CP1252 = "cp1252"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRefused:
    """Why a row was not taken in; ``column`` None: the row as a whole."""

    row: int
    column: str | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One customer of the file: what is not empty, by its column."""

    row: int
    cells: Mapping[str, str]

    @property
    def own(self) -> dict[str, str]:
        """The vendor's own fields, by their keys."""
        return {name.removeprefix(OWN): text for name, text in self.cells.items() if name.startswith(OWN)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerFile:
    """The rows that can be read, and what is wrong with the others."""

    rows: tuple[Row, ...]
    refused: tuple[RowRefused, ...]


def read_customer_file(data: bytes, *, encoding: Encoding = Encoding.UTF8) -> CustomerFile:
    """The file's rows. Raises :class:`CustomersRefused` where it is no such file as a whole."""
    text = _decoded(data, encoding)
    separator, text = _separator(text)
    header, *records = _records(text, separator) or [[]]
    columns = _columns(header)
    refused: list[RowRefused] = []
    rows: list[Row] = []
    places: dict[str, list[int]] = {}
    for number, record in enumerate(records, start=2):
        if not any(cell.strip() for cell in record):
            continue  # spreadsheets leave empty lines at the end
        cells, complaints = _cells(record, columns, row=number)
        refused += complaints
        if "account_ref" in cells:
            places.setdefault(cells["account_ref"], []).append(number)
        if not complaints:
            rows.append(Row(row=number, cells=cells))
    twins = _twins(places)
    refused += twins
    out = {one.row for one in twins}
    return CustomerFile(
        rows=tuple(row for row in rows if row.row not in out), refused=tuple(sorted(refused, key=lambda one: one.row))
    )


def _decoded(data: bytes, encoding: Encoding) -> str:
    for mark, complaint in _FOREIGN:
        if data.startswith(mark):
            raise CustomersRefused(f"The file {complaint}; save it as CSV in UTF-8.")
    if b"\0" in data:
        raise CustomersRefused(f"The file holds a NUL byte in line {_line(data, data.index(0))}, so it is no text.")
    if encoding is Encoding.CP1252 and not data.isascii() and _is_utf8(data):
        raise CustomersRefused("The file is UTF-8, not Windows-1252; leave --encoding out.")
    try:
        return data.decode("utf-8-sig" if encoding is Encoding.UTF8 else encoding.value)
    except UnicodeDecodeError as failure:
        where = f"byte {data[failure.start]:#04x} in line {_line(data, failure.start)}"
        if encoding is Encoding.CP1252:
            raise CustomersRefused(f"The file is not Windows-1252 either: {where} means nothing there.") from failure
        raise CustomersRefused(
            f"The file is not UTF-8: {where}. It is probably Windows-1252, as spreadsheets save plain CSV: save it as "
            "CSV UTF-8, or say --encoding cp1252."
        ) from failure


def _line(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _separator(text: str) -> tuple[str, str]:
    """What parts the cells, and the text from the header on."""
    said = re.match(rf'"?sep=([{_SEPARATORS}])"?(\r\n|\r|\n)', text, re.IGNORECASE)
    if said:
        return said[1], text[said.end() :]  # a spreadsheet does not count this line either
    known = {separator: sum(map(_is_column, _header(text, separator))) for separator in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda separator: known[separator])
    if not known[best]:
        shown = _first(text).strip()[:80]
        raise CustomersRefused(
            f"The first row must name the columns, {COLUMNS[0]} and {COLUMNS[1]} among them; it is {shown!r}."
        )
    return best, text


def _header(text: str, separator: str) -> list[str]:
    return [cell.strip().strip('"') for cell in _first(text).split(separator)]


def _first(text: str) -> str:
    return re.split(r"[\r\n]", text, maxsplit=1)[0]


def _is_column(name: str) -> bool:
    return name in COLUMNS or name.startswith(OWN)


def _records(text: str, separator: str) -> list[list[str]]:
    # Line ends of every kind; one inside of quotation marks refuses its cell anyway.
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=True)
    records: list[list[str]] = []
    try:
        for record in reader:
            records.append(record)
            if len(records) > MOST_ROWS:
                raise CustomersRefused(f"The file has more than {MOST_ROWS:,} rows; part it.")
    except csv.Error as failure:
        raise CustomersRefused(
            f"The file cannot be read as CSV at line {reader.line_num}: {failure}. A quotation mark is probably not "
            "closed, or not doubled, in the row that begins there or before."
        ) from failure
    return records


def _columns(header: Sequence[str]) -> list[str]:
    columns = [cell.strip() for cell in header]
    for name in columns:
        if not _is_column(name):
            near = difflib.get_close_matches(name, [*COLUMNS, OWN + name], n=1)
            meant = f"; perhaps {near[0]!r} is meant" if near else f"; there are {', '.join(COLUMNS)} and {OWN}KEY"
            raise CustomersRefused(f"The column {name[:80]!r} is not known{meant}.")
        if name.startswith(OWN) and not FIELD_KEY.fullmatch(name.removeprefix(OWN)):
            raise CustomersRefused(
                f"The column {name[:80]!r} names no field: after {OWN} stand 1 to 50 characters of A-Z a-z 0-9 . _ -."
            )
    twin = next((name for name, times in Counter(columns).items() if times > 1), None)
    if twin is not None:
        raise CustomersRefused(f"The column {twin!r} stands in the first row twice.")
    if "account_ref" not in columns:
        raise CustomersRefused("The column account_ref is missing; without it nobody knows whose row it is.")
    return columns


def _cells(record: Sequence[str], columns: Sequence[str], *, row: int) -> tuple[dict[str, str], list[RowRefused]]:
    if len(record) < len(columns) or any(cell.strip() for cell in record[len(columns) :]):
        why = f"has {len(record)} cells, and the first row names {len(columns)} columns"
        return {}, [RowRefused(row=row, column=None, why=why)]
    cells = {name: text for name, cell in zip(columns, record, strict=False) if (text := cell.strip())}
    judged = ((name, _complaint(name, text)) for name, text in cells.items())
    complaints = [RowRefused(row=row, column=name, why=why) for name, why in judged if why is not None]
    if "account_ref" not in cells:
        complaints.append(RowRefused(row=row, column="account_ref", why="is missing"))
    return cells, complaints


def _complaint(name: str, text: str) -> str | None:
    most = _LONGEST.get(name, LONGEST_VALUE)
    if text.startswith("="):
        return "begins with =, as a formula does; export values"
    if len(text) > most:
        return f"has {len(text):,} characters, and {most:,} at most are taken"
    if not text.isprintable():
        return "holds a line break or another character that cannot be printed"
    if name == "account_ref" and _OWN_ID.fullmatch(text):
        return "looks like an id of this register; give your own reference"
    return None


def _twins(places: Mapping[str, Sequence[int]]) -> list[RowRefused]:
    """Rule 4."""
    return [
        RowRefused(row=row, column="account_ref", why=f"stands in the rows {', '.join(map(str, same[:10]))}")
        for same in places.values()
        if len(same) > 1
        for row in same
    ]
