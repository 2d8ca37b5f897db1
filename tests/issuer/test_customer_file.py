"""What a file of customers may be, and how each thing that it may not be is told."""

from __future__ import annotations

import csv
import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.issuer.customer_file import COLUMNS, Encoding, RowRefused, read_customer_file
from lls.issuer.refusals import CustomersRefused


def rows(data: bytes, *, encoding: Encoding = Encoding.UTF8) -> list[dict[str, str]]:
    read = read_customer_file(data, encoding=encoding)
    assert () == read.refused
    return [dict(row.cells) for row in read.rows]


def refused(data: bytes) -> list[tuple[int, str | None, str]]:
    return [(one.row, one.column, one.why) for one in read_customer_file(data).refused]


ACME = {"account_ref": "C-1", "name": "Äcme"}


@pytest.mark.parametrize(
    "data",
    [
        "account_ref,name\nC-1,Äcme\n",
        "account_ref;name\r\nC-1;Äcme\r\n",
        "account_ref\tname\nC-1\tÄcme",
        "account_ref|name\rC-1|Äcme\r",
        'sep=;\naccount_ref;name\n"C-1";"Äcme"\n',
        '\ufeff"account_ref","name"\n C-1 ,Äcme \n\n,\n',
        "name,account_ref,note\nÄcme,C-1,\n",
    ],
)
def test_files_of_every_spreadsheet_are_read(data: str) -> None:
    assert [ACME] == rows(data.encode())


def test_windows_1252_is_read_where_it_is_said() -> None:
    data = "account_ref;name\nC-1;Äcme\n".encode("cp1252")
    assert [ACME] == rows(data, encoding=Encoding.CP1252)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("account_ref;name\nC-0;X\nC-1;Äcme".encode("cp1252"), "byte 0xc4 in line 3.*--encoding cp1252"),
        ("account_ref,name\nC-1,Äcme".encode("utf-16"), "is UTF-16"),
        (b"PK\x03\x04\x14\x00", "workbook"),
        (b"account_ref,name\nC-1,A\x00B\n", "NUL byte in line 2"),
        (b"", "must name the columns"),
        (b"C-1,Acme\n", "must name the columns.*'C-1,Acme'"),
        (b"account_ref,name,phone\n", "column 'phone' is not known"),
        (b"account_ref,nmae\n", "perhaps 'name' is meant"),
        (b"account_ref,field.\x1b[2J\n", r"'field.\\x1b\[2J' names no field"),
        (b"account_ref,field.\n", "names no field"),
        (b"account_ref,name,name\n", "'name' stands in the first row twice"),
        (b"name,note\nA,B\n", "account_ref is missing"),
        (b'account_ref,name\nC-1,"Acme\nC-2,B\n', "not closed"),
        (b'account_ref,name\nC-1,"A"cme\n', "not doubled"),
        (b"account_ref,name\nC-1," + b"x" * 200_000, "cannot be read as CSV at line 2"),
    ],
)
def test_what_is_no_such_file_is_told_by_name(data: bytes, sentence: str) -> None:
    with pytest.raises(CustomersRefused, match=sentence):
        read_customer_file(data)


def test_an_encoding_that_is_wrong_is_told() -> None:
    with pytest.raises(CustomersRefused, match="is UTF-8, not Windows-1252"):
        read_customer_file("account_ref,name\nC-1,Äcme".encode(), encoding=Encoding.CP1252)
    with pytest.raises(CustomersRefused, match="not Windows-1252 either"):
        read_customer_file(b"account_ref,name\nC-1,\x81\xff", encoding=Encoding.CP1252)


@pytest.mark.parametrize(
    ("line", "column", "why"),
    [
        ('"=""00042""",Acme', "account_ref", "begins with ="),
        ("C-1,=HYPERLINK(1)", "name", "begins with ="),
        ("C-1," + "x" * 201, "name", "201 characters"),
        ('C-1,"A\nB"', "name", "line break"),
        ("C-1,A\x1b[31mB", "name", "cannot be printed"),
        (",Acme", "account_ref", "is missing"),
        ("C-1", None, "has 1 cells"),
        ("C-1,Acme,more", None, "has 3 cells"),
        (f"cus_{'A' * 22},Acme", "account_ref", "looks like an id"),
    ],
)
def test_a_row_is_refused_with_its_number_column_and_reason(line: str, column: str | None, why: str) -> None:
    data = f"account_ref,name\nC-0,Good\n{line}\nC-2,Good\n"
    ((row, where, said),) = refused(data.encode())
    assert (3, column) == (row, where)
    assert why in said
    assert ["C-0", "C-2"] == [one.cells["account_ref"] for one in read_customer_file(data.encode()).rows]


def test_twins_are_refused_in_every_row_of_theirs_also_where_one_is_wrong_by_itself() -> None:
    data = b"account_ref,name\nC-1,A\nC-2,B\nC-1,C\nC-1,=D\n"
    read = read_customer_file(data)
    assert ["C-2"] == [one.cells["account_ref"] for one in read.rows]
    assert {2, 4, 5} == {one.row for one in read.refused}
    assert RowRefused(row=4, column="account_ref", why="stands in the rows 2, 4, 5") in read.refused


def test_own_fields_stand_under_their_own_prefix() -> None:
    (row,) = read_customer_file(b"account_ref,field.region\nC-1,north\n").rows
    assert {"region": "north"} == row.own


@given(st.binary(max_size=300))
def test_no_bytes_are_a_programming_error(data: bytes) -> None:
    for whole in (data, b"account_ref,name\n" + data):
        for encoding in Encoding:
            with suppress(CustomersRefused):
                read_customer_file(whole, encoding=encoding)


_CELL = st.text(st.characters(min_codepoint=32, exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
    lambda text: not text.startswith("=")
)


@given(st.dictionaries(_CELL, _CELL, min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_what_a_program_writes_is_read_as_it_was(customers: dict[str, str], separator: str) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter=separator)
    writer.writerow(COLUMNS[:2])
    writer.writerows(customers.items())
    read = read_customer_file(table.getvalue().encode())
    assert customers == {row.cells["account_ref"]: row.cells["name"] for row in read.rows}
