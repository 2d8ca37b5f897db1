"""From the bytes of a body or a file to plain values: strict JSON, forms with bracketed names, tables of CSV.

Rules
1. UTF-8, whole. A member named twice, NaN, infinity, half a surrogate pair and endless nesting are refused: whatever
   gets past this room can be stored, hashed and printed.
2. A form's ``a[b][c]`` is an object in an object and ``a[]`` a list, as the web's frameworks write them.
3. A table's first row names its columns, each once whatever its case; every row has as many cells.
4. Refusals are BadRequest and name the place, never the content.

It refuses to own what the values mean.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from lls.faults import BadRequest

MOST_MEMBERS: Final = 5_000
MOST_ROWS: Final = 100_000
_DEEPEST: Final = 64
_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


def read_json(data: bytes) -> Any:
    """A JSON text (RFC 8259) as values."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
        _check_depth(value)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeError as failure:
        raise BadRequest("The body holds text that is not UTF-8.") from failure
    except (ValueError, RecursionError) as failure:
        raise BadRequest("The body is not valid JSON.") from failure
    return value


def read_object(data: bytes) -> dict[str, Any]:
    """The same, where it must be an object."""
    value = read_json(data)
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    return value


def _no_twins(members: list[tuple[str, Any]]) -> dict[str, Any]:
    # The last of two would win silently; which one the sender's own software reads, nobody knows.
    document = dict(members)
    if len(document) != len(members):
        raise BadRequest("The body names a member twice in one object.")
    return document


def _no_constant(_name: str) -> NoReturn:
    raise BadRequest("The body holds a number that JSON does not have.")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise BadRequest(f"The body nests deeper than {_DEEPEST} levels.")


def read_form(data: bytes) -> dict[str, Any]:
    """``application/x-www-form-urlencoded`` as nested objects; every value is a text."""
    try:
        pairs = parse_qsl(
            data.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_MEMBERS,
        )
    except (ValueError, UnicodeError) as failure:
        raise BadRequest("The body is not a form in UTF-8.") from failure
    form: dict[str, Any] = {}
    for name, value in pairs:
        found = _NAME.fullmatch(name)
        if found is None:
            raise BadRequest("The form has a field whose name cannot be read.")
        path = [found[1], *re.findall(r"\[([^\[\]]*)\]", found[2])]
        if len(path) > _DEEPEST:
            raise BadRequest(f"The form nests deeper than {_DEEPEST} levels.")
        _put(form, path, value)
    return form


def _put(into: dict[str, Any], path: list[str], value: str) -> None:
    key, rest = path[0], path[1:]
    if not rest:
        if key in into:
            raise BadRequest("The form names a field twice.")
        into[key] = value
    elif rest[0]:
        inner = into.setdefault(key, {})
        if not isinstance(inner, dict):
            raise BadRequest("The form uses one name for a text and for an object.")
        _put(inner, rest, value)
    else:
        items = into.setdefault(key, [])
        if not isinstance(items, list):
            raise BadRequest("The form uses one name for a text and for a list.")
        _append(items, rest[1:], value)


def _append(items: list[Any], path: list[str], value: str) -> None:
    if not path:
        items.append(value)
        return
    if not path[0]:
        raise BadRequest("The form has a list in a list, which nobody can read back.")
    # A name that the last object has already begins the next one.
    if not items or not isinstance(items[-1], dict) or (len(path) == 1 and path[0] in items[-1]):
        items.append({})
    _put(items[-1], path, value)


def read_csv(data: bytes) -> list[dict[str, str]]:
    """A table with a head, columns apart by commas or semicolons; names in lower case, cells without outer blanks.

    After an empty row only lines of one cell may follow, such as a report's title and date; they are passed over.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise BadRequest("The table is not UTF-8; export it again in that encoding.") from failure
    head = text.partition("\n")[0]
    apart = ";" if head.count(";") > head.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=apart)
    try:
        rows = list(reader)
    except csv.Error as failure:
        raise BadRequest(f"The table cannot be read at line {reader.line_num}.") from failure
    if len(rows) > MOST_ROWS:
        raise BadRequest(f"The table has more than {MOST_ROWS:,} rows.")
    if not rows or not _filled(rows[0]):
        raise BadRequest("The table is empty; its first row must name the columns.")
    names = [" ".join(name.split()).casefold() for name in rows[0]]
    if len(set(names)) != len(names):
        raise BadRequest("The table has two columns of one name.")
    table: list[dict[str, str]] = []
    over = False
    for number, row in enumerate(rows[1:], start=2):
        over = over or not _filled(row)
        if over and len(row) <= 1:
            continue
        if len(row) != len(names):
            raise BadRequest(f"Row {number} of the table has {len(row)} cells, its head {len(names)}.")
        if _filled(row):
            table.append(dict(zip(names, (cell.strip() for cell in row), strict=True)))
    return table


def _filled(row: list[str]) -> bool:
    return any(cell.strip() for cell in row)
