"""Where a command writes: whole, into the file that was named, and never over something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.issuer.appliance import Appliance, line, order
from tests.issuer.test_cli import Terminal


@pytest.fixture
def office(home: Path, tmp_path: Path, appliance: Appliance) -> Terminal:
    terminal = Terminal(home)
    terminal.done("init", "--no-passphrase")
    terminal.done("catalog", "load", home / "catalog.toml")
    (tmp_path / "request").write_text(appliance.request())
    (tmp_path / "order.json").write_bytes(order(appliance, line()))
    terminal.done("server", "register", tmp_path / "request")
    terminal.done("order", "fulfil", tmp_path / "order.json")
    return terminal


def writers(appliance: Appliance, output: Path) -> list[tuple[str | Path, ...]]:
    issue: tuple[str | Path, ...] = ("bundle", "issue", "--server", appliance.server_id, "-o", output)
    return [
        issue,
        (*issue, "--unsigned"),
        ("keys", "export", "-o", output),
        ("usage", "export", "-o", output),
        ("usage", "export", "--format", "json", "-o", output),
        ("order", "deliver", "SO-1001", "-o", output),
    ]


@pytest.mark.parametrize("n", range(6))
def test_a_link_is_not_written_through_nor_replaced(
    office: Terminal, appliance: Appliance, tmp_path: Path, n: int
) -> None:
    for target in (tmp_path / "nowhere", tmp_path / "order.json"):
        link = tmp_path / f"link to {target.name}"
        link.symlink_to(target)
        before = (tmp_path / "order.json").read_bytes()
        office.refused(*writers(appliance, link)[n])
        assert link.is_symlink()
        assert not (tmp_path / "nowhere").exists()
        assert before == (tmp_path / "order.json").read_bytes()
    assert not list(tmp_path.glob(".*"))
    assert office.json("server", "show", appliance.server_id)["last_bundle"] is None


@pytest.mark.parametrize("n", range(6))
def test_a_file_that_is_something_else_is_left_alone(
    office: Terminal, appliance: Appliance, tmp_path: Path, n: int
) -> None:
    for name, text in {
        "customers.csv": "account_ref,name\n",
        "o.json": '{"order_ref": "SO-1"}',
        "k.pem": "-----BEGIN",
    }.items():
        (tmp_path / name).write_text(text)
        office.refused(*writers(appliance, tmp_path / name)[n])
        assert text == (tmp_path / name).read_text()
    os.mkfifo(tmp_path / "pipe")
    office.refused(*writers(appliance, tmp_path / "pipe")[n])
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("n", range(5))
def test_the_newer_file_takes_the_place_of_the_older(
    office: Terminal, appliance: Appliance, tmp_path: Path, n: int
) -> None:
    for _ in range(2):
        office.done(*writers(appliance, tmp_path / "file")[n])


def test_what_is_refused_says_which_file_and_what_to_do(office: Terminal, tmp_path: Path) -> None:
    wrong = tmp_path / "customers.csv"
    wrong.write_text("account_ref,name,qty\nC-1,A,1\n")
    for words, sentences in {
        ("server", "register", wrong): (f"{wrong} is no activation request to register", "lls server request -o FILE"),
        ("return", "accept", wrong): (f"{wrong} is no return to accept", "lls entitlement return ID"),
        ("order", "fulfil", wrong): ("names the column 'name', which no table of orders has",),
        ("catalog", "load", tmp_path / "c.yaml"): ("a catalogue is TOML",),
    }.items():
        (tmp_path / "c.yaml").write_text("products: {}\n")
        told = office.refused(*words)
        assert all(sentence in told for sentence in sentences), told
