"""Catalogue, orders, entitlements and grants as a vendor's person types them."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lls.issuer import sample_catalog
from tests.issuer.appliance import Appliance, line, order
from tests.issuer.test_cli import Terminal


@pytest.fixture
def terminal(home: Path, appliance: Appliance, tmp_path: Path) -> Terminal:
    terminal = Terminal(home)
    terminal.done("init", "--no-passphrase")
    terminal.done("catalog", "load", home / "catalog.toml")
    appliance.now = datetime.now(UTC)  # the commands read the real clock
    (tmp_path / "site.llsreq").write_text(appliance.request())
    terminal.done("server", "register", tmp_path / "site.llsreq")
    return terminal


def fulfil(terminal: Terminal, tmp_path: Path, data: bytes, *options: str, name: str = "order.json") -> Any:
    (tmp_path / name).write_bytes(data)
    return terminal.json("order", "fulfil", tmp_path / name, *options)["orders"]


@pytest.fixture
def sold(terminal: Terminal, appliance: Appliance, tmp_path: Path) -> str:
    """A standard entitlement's id."""
    (fulfilled,) = fulfil(terminal, tmp_path, order(appliance, line(sku="CAD-STD-1Y", quantity=5, lease_seconds=120)))
    return str(fulfilled["entitlements"][0]["entitlement_id"])


def test_every_version_of_the_catalogue_is_listed_and_shown(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "new.toml").write_text(sample_catalog() + '[plans.month]\nlicense_type = "trail"\n')
    assert "plans.month.license_type" in terminal.refused("catalog", "load", tmp_path / "new.toml", "--dry-run")
    (tmp_path / "new.toml").write_text(sample_catalog().replace("Sample CAD", "Better CAD"))
    terminal.done("catalog", "load", tmp_path / "new.toml", "--dry-run")
    assert 1 == len(terminal.json("catalog", "list")["catalogs"])
    terminal.done("catalog", "load", tmp_path / "new.toml")
    assert [1, 2] == [one["version"] for one in terminal.json("catalog", "list")["catalogs"]]
    names = [terminal.json("catalog", "show", *which)["products"]["cad"]["name"] for which in ((), ("--version", "1"))]
    assert ["Better CAD", "Sample CAD"] == names
    assert sample_catalog() == terminal.done("catalog", "show", "--version", "1", "--text")
    assert "not for resale" in terminal.done("catalog", "show")
    assert "no version 9" in terminal.refused("catalog", "show", "--version", "9")


def test_a_table_is_fulfilled_by_its_name_or_by_its_format(
    terminal: Terminal, appliance: Appliance, tmp_path: Path
) -> None:
    columns = "order_ref,account_ref,customer_name,server_id,sku,quantity"
    table = f"{columns}\nSO-1,C-1,Acme,{appliance.server_id},CAD-STD-1Y,5\n"
    (first,) = fulfil(terminal, tmp_path, table.encode(), name="orders.CSV")
    (again,) = fulfil(terminal, tmp_path, table.encode(), "--format", "csv", name="orders.txt")
    assert (False, True, first["lines"][0]["entitlement_id"]) == (
        first["already_fulfilled"], again["already_fulfilled"], again["lines"][0]["entitlement_id"],
    )  # fmt: skip
    (tmp_path / "bad.csv").write_text(table.replace(",5", ",five"))
    assert "row 2.quantity must be a whole number" in terminal.refused("order", "fulfil", tmp_path / "bad.csv")


def test_an_order_is_shown_and_delivered(terminal: Terminal, sold: str, tmp_path: Path) -> None:
    assert ["SO-1001"] == [one["order_ref"] for one in terminal.json("order", "list", "--customer", "ACME")["orders"]]
    shown = terminal.json("order", "show", "SO-1001")
    assert [(1, ["new"], sold)] == [(one["line"], one["actions"], one["entitlement_id"]) for one in shown["lines"]]
    assert sold in terminal.done("order", "show", "SO-1001")
    told = terminal.json("order", "deliver", "SO-1001", "-o", tmp_path / "out")
    assert 5 == len(told["files"])
    assert all(Path(path).is_file() for path in told["files"])
    assert "cannot be made" in terminal.refused("order", "deliver", "SO-1001", "-o", tmp_path / "out")
    assert "No order SO-9" in terminal.refused("order", "show", "SO-9")


def test_where_a_value_comes_from_is_told(terminal: Terminal, sold: str) -> None:
    origins = terminal.json("entitlement", "show", sold)["origins"]
    assert [["built_in", 600], ["global", 600], ["entitlement", 120]] == origins["values"]["lease_seconds"]
    (told,) = [row for row in terminal.done("entitlement", "show", sold).splitlines() if "600 (global)" in row]
    assert "120" in told
    assert "entitlement" in told


def test_seats_and_editions_are_changed_by_hand(terminal: Terminal, sold: str) -> None:
    more = terminal.json("entitlement", "add-seats", sold, "--seats", "3", "--ref", "T-1")
    again = terminal.json("entitlement", "add-seats", sold, "--seats", "3", "--ref", "T-1")
    assert (8, False, 8, True) == (more["seats"], more["already_done"], again["seats"], again["already_done"])
    assert "would make 0" in terminal.refused("entitlement", "add-seats", sold, "--seats", "-8")
    upgraded = terminal.json("entitlement", "upgrade", sold, "--sku", "CAD-TO-PRO")
    assert ("pro", 120) == (upgraded["edition"], upgraded["entitlement"]["lease_seconds"])
    assert "nothing to upgrade" in terminal.refused("entitlement", "upgrade", sold, "--sku", "CAD-TO-PRO")


def test_a_grant_waits_is_released_altered_and_revoked(terminal: Terminal, sold: str) -> None:
    given = terminal.json(
        "grant", "add", sold, "--feature", "cloud", "--amount", "100000", "--price", "90000", "--currency", "USD",
        "--given-on", "invoice_paid", "--invoice", "INV-1",
    )  # fmt: skip
    key = given["grant_id"]
    assert "pending" == given["state"]
    assert "INV-1" in terminal.done("grant", "list", "--state", "pending")
    released = terminal.json("grant", "release", "--ref", "INV-1")["released"]
    assert [key] == [one["grant_id"] for one in released]
    assert [] == terminal.json("grant", "release", "--ref", "INV-1")["released"]
    assert 5 == terminal.json("grant", "alter", key, "--amount", "5")["amount"]
    assert terminal.json("grant", "revoke", key)["state"] == "revoked"
    assert terminal.json("grant", "revoke", key)["already_done"]
    shown = terminal.json("grant", "show", key)
    assert ["grant_added", "grant_released", "grant_altered", "grant_revoked"] == [
        one["kind"] for one in shown["history"]
    ]  # fmt: skip
    assert {"amount": 90_000, "currency": "USD"} == shown["price"]
    assert "90000 USD" in terminal.done("grant", "show", key)
    assert [key] == [one["grant_id"] for one in terminal.json("grant", "list", "--entitlement", sold)["grants"]]
    assert 2 == terminal.run("grant", "alter", key).exit_code
    assert "--price.currency is missing" in terminal.refused(
        "grant", "add", sold, "--feature", "cloud", "--amount", "1", "--price", "1"
    )


def test_what_people_wrote_reaches_no_terminal_as_a_command(
    terminal: Terminal, appliance: Appliance, tmp_path: Path
) -> None:
    hostile = json.loads(order(appliance))
    for changed in (
        {"order_ref": "\x1b[2J"},
        {"customer": {"name": "\x1b]0;x\x07"}},
        {"invoice_ref": "\n"},
        {"\x1b[31m": 1},
        {"\ud800": 1},
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**hostile, **changed}))
        assert "\x1b" not in terminal.refused("order", "fulfil", tmp_path / "bad.json")


def test_a_damaged_register_is_said_in_words(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "vendor")
    terminal.run("init", "--no-passphrase")
    terminal.run("customer", "add", "C-1", "One")
    with sqlite3.connect(terminal.home / "register.sqlite") as sql:
        (page,) = sql.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'customer'").fetchone()
        (size,) = sql.execute("PRAGMA page_size").fetchone()
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sql.close()
    with (terminal.home / "register.sqlite").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"Z" * size)
    for words in (("customer", "list"), ("customer", "add", "C-9", "Nine")):
        assert "malformed" in terminal.refused(*words)


@pytest.mark.parametrize(
    "words",
    [("inbox", "show"), ("inbox", "retry"), ("catalog", "show", "--version"), ("feed", "entitlements", "--since")],
)
def test_a_number_that_no_row_can_have_is_a_mistake_of_the_command_line(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    assert 2 == terminal.run(*words, str(1 << 63)).exit_code


def test_ids_are_on_standard_output_for_a_shells_variable(home: Path, tmp_path: Path, appliance: Appliance) -> None:
    terminal = Terminal(home)
    assert {"key_set": 1, "pending": None} == {
        name: value
        for name, value in terminal.json("init", "--no-passphrase").items()
        if name in {"key_set", "pending"}
    }
    assert {"version": 1, "products": 2} == {
        name: value
        for name, value in terminal.json("catalog", "load", home / "catalog.toml").items()
        if name in {"version", "products"}
    }
    assert 1 == terminal.json("keys", "export", "-o", tmp_path / "v.llskeys")["version"]
    (tmp_path / "request").write_text(appliance.request())
    assert f"{appliance.server_id}\n" == terminal.run("server", "register", tmp_path / "request").stdout


def test_what_no_server_hosts_is_said_with_what_to_do(home: Path, tmp_path: Path, appliance: Appliance) -> None:
    terminal = Terminal(home)
    terminal.done("init", "--no-passphrase")
    terminal.done("catalog", "load", home / "catalog.toml")
    (tmp_path / "o.json").write_bytes(order(appliance, line(), server_id=None))
    told = terminal.run("order", "fulfil", tmp_path / "o.json")
    (sold,) = terminal.json("entitlement", "list")["entitlements"]
    for said in (told, terminal.run("order", "show", "SO-1001")):
        assert "one entitlement is hosted by no server yet" in said.stderr
        assert f"lls-issuer entitlement host {sold['entitlement_id']} --server ID" in said.stderr
