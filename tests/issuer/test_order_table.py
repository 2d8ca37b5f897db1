"""Orders as a table say the same as in JSON, and are judged by the same rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.issuer import Issuer
from lls.issuer.order_table import read_order_table
from lls.issuer.orders import read_orders
from lls.issuer.refusals import OrderRefused
from lls.licensing.entitlement import read_entitlement
from tests.issuer.appliance import NOW, Appliance

SERVER = "lls_0000000000000000000000"
TABLE = """order_ref,account_ref,customer_name,server_id,line,action,sku,quantity,of_sku,named_users,price_amount,\
price_currency
SO-1,ACME,"Acme, ""the"" GmbH",lls_0000000000000000000000,1,new,CAD-PRO-1Y,50,,,,
SO-2,ACME,,,7,add_grant,CLOUD-1000,2,CAD-PRO-1Y,,170000,EUR
SO-1,,,,2,new,CAD-STD-NAMED,2,,ann | bo,,

"""
DOCUMENTS = [
    {
        "order_ref": "SO-1", "account_ref": "ACME", "server_id": SERVER, "customer": {"name": 'Acme, "the" GmbH'},
        "lines": [
            {"line": 1, "action": "new", "sku": "CAD-PRO-1Y", "quantity": 50},
            {"line": 2, "action": "new", "sku": "CAD-STD-NAMED", "quantity": 2, "named_users": ["ann", "bo"]},
        ],
    },
    {
        "order_ref": "SO-2", "account_ref": "ACME",
        "lines": [
            {"line": 7, "action": "add_grant", "sku": "CLOUD-1000", "quantity": 2, "of_sku": "CAD-PRO-1Y",
             "price": {"amount": 170000, "currency": "EUR"}},
        ],
    },
]  # fmt: skip


@pytest.mark.parametrize(
    "data", [TABLE.encode(), TABLE.encode("utf-8-sig"), TABLE.replace("\n", "\r\n").encode()]
)  # fmt: skip
def test_a_table_is_the_json_that_it_could_have_been(data: bytes) -> None:
    assert read_orders(json.dumps(DOCUMENTS).encode()) == read_order_table(data)


def test_a_semicolon_separates_where_the_first_row_has_one() -> None:
    (order,) = read_order_table(b"order_ref;account_ref;sku;quantity\nSO-1;A,B;X;-3\n")
    assert ("A,B", -3, 1) == (order.account_ref, order.lines[0].quantity, order.lines[0].line)


def test_a_table_is_fulfilled_like_json(issuer: Issuer, appliance: Appliance) -> None:
    issuer.register_server(appliance.request(), now=NOW)
    data = TABLE.replace(SERVER, appliance.server_id).encode()
    sold, given = issuer.fulfil(data, table=True, now=NOW)
    assert [50, 2] == [read_entitlement(one.document).seats for one in sold.entitlements]
    assert 'Acme, "the" GmbH' == sold.customer.name
    assert given.entitlements[0].entitlement_id == sold.entitlements[0].entitlement_id
    assert [True, True] == [each.again for each in issuer.fulfil(data, table=True, now=NOW)]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", r"is empty: its first row"),
        ("order_ref,account_ref\n", r"first row\.sku is missing"),
        ("order_ref,account_ref,sku,quanity\n", r"column 'quanity', which no table of orders has; perhaps 'quantity'"),
        ("order_ref,account_ref,sku,sku\n", r"first row\.sku stands there twice"),
        ("order_ref,account_ref,sku\n", r"The file holds no order"),
        ("order_ref,account_ref,sku\nSO-1,A\n", r"row 2 has 2 cells, and the first row names 3"),
        ("order_ref,account_ref,sku\n,A,X\n", r"row 2\.order_ref is missing"),
        ("order_ref,account_ref,sku\nSO-1,A,X\nSO-1,B,X\n", r"row 3\.account_ref differs from row 2"),
        ("order_ref,account_ref,sku,quantity\nSO-1,A,X,1.5\n", r"row 2\.quantity must be a whole number"),
        ("order_ref,account_ref,sku,quantity\nSO-1,A,X,٣\n", r"row 2\.quantity must be a whole number"),
        ("order_ref,account_ref,sku,quantity\nSO-1,A,X," + "9" * 5000, r"row 2\.quantity must be a whole number"),
        ("order_ref,account_ref,sku,line\nSO-1,A,X,1\nSO-1,A,X,\n", r"order SO-1 has a line number in some"),
        ("order_ref,account_ref,sku,line\nSO-1,A,X,1\nSO-1,A,X,1\n", r"SO-1 was refused: line 1 stands in the order"),
        ("order_ref,account_ref,sku,action\nSO-1,A,X,buy\n", r"SO-1 was refused: line 1\.action must be one of"),
        ('order_ref,account_ref,sku\n"SO-1,A,X\n', r"is not valid CSV"),
        ('order_ref,account_ref,sku\n"SO"-1,A,X\n', r"is not valid CSV"),
        ("order_ref,account_ref,sku\nSO-1,A\x00,X\n", r"must be a printable text|not valid CSV"),
        ("order_ref,account_ref,sku\nSO-1,A\x1b[2J,X\n", r"must be a printable text"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused_with_its_row(table: str, sentence: str) -> None:
    with pytest.raises(OrderRefused, match=sentence):
        read_order_table(table.encode())


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(OrderRefused, match=r"byte 3 is not UTF-8"):
        read_order_table(b"abc\xff")


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"order_ref,account_ref,sku\n{text}".encode()))
def test_nothing_but_a_refusal_comes_of_any_bytes(data: bytes) -> None:
    try:
        orders = read_order_table(data)
    except OrderRefused as refused:
        assert refused.detail  # noqa: PT017 - either is right
    else:
        assert orders
