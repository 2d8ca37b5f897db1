"""Promises about what a person types for a request: refused on the spot, in a sentence, with nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from lls.client import BadSetup, BorrowRequest, Holder
from lls.client.__main__ import main
from tests.client.folders import in_days

FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    "wishes",
    [
        {"product": "c ad/.."},
        {"product": ""},
        {"product": "a" * 51},
        {"product": "cad\n"},
        {"features": {"cores": 0}},
        {"features": {"cores": 1_000_001}},
        {"features": {"cores": True}},
        {"features": {"cores": 1.5}},
        {"features": {"two words": 1}},
        {"features": {f"f{n}": 1 for n in range(101)}},
        {"edition": "the best"},
        {"version": ""},
        {"version": "1" * 51},
        {"version": "1\x1b[31m"},
        {"released_on": "yesterday"},
        {"released_on": "2026-02-30"},
        {"released_on": "20261121"},
        {"activation_code": "A" * 201},
        {"activation_code": "\ud800"},
        {"holder": Holder(seat_id="")},
        {"holder": Holder(seat_id="x" * 101)},
        {"holder": Holder(seat_id="x", user="a\u202eb")},
        {"until": FAR},
        {"until": FAR.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59)))},
        {"until": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
    ],
)
def test_what_no_server_would_accept_is_not_asked_for(state_folder: Path, wishes: dict[str, Any]) -> None:
    product, rest = wishes.get("product", "cad"), {name: one for name, one in wishes.items() if name != "product"}
    with pytest.raises(BadSetup) as caught:
        BorrowRequest.make(product, **{"until": in_days(1)} | rest)
    assert "AAAA" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not state_folder.exists()


@pytest.mark.parametrize(
    "wishes",
    [
        {"product": "CAD-2.0_x"},
        {"features": {"cores": 1_000_000, "gpu": 1}},
        {"version": "2026.1 beta – spring", "released_on": "2026-02-28", "edition": "pro"},
        {"until": datetime(2126, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
    ],
)
def test_what_a_server_may_accept_is_asked_for(wishes: dict[str, Any]) -> None:
    product, rest = wishes.get("product", "cad"), {name: one for name, one in wishes.items() if name != "product"}
    assert BorrowRequest.make(product, **{"until": in_days(1)} | rest).document


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["c ad/..", "--days", "1"], "key"),
        (["cad", "--days", "1", "--feature", "cores=99999999999"], "KEY=N"),
        (["cad", "--days", "1", "--feature", "cores=2000000"], "1000000"),
        (["cad", "--days", "1", "--feature", "cores=٣"], "KEY=N"),
        (["cad", "--days", "1", "--released-on", "yesterday"], "not a day"),
        (["cad", "--until", "0001-01-01"], "no sensible end"),
        (["cad", "--until", "9999-12-31"], "no sensible end"),
        (["cad", "--until", "9999-12-31T23:59:59-23:59"], "no sensible end"),
        (["cad", "--until", "0001-01-01T00:00:00+14:00"], "no sensible end"),
    ],
)
def test_a_slip_of_the_hand_is_wrong_usage(
    arguments: list[str], words: str, tmp_path: Path, state_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["request", *arguments, "-o", str(tmp_path / "new")])
    assert 2 == caught.value.code
    assert words in capsys.readouterr().err
    assert not state_folder.exists()


@pytest.mark.parametrize("arguments", [["--edition", "the best"], ["--version", ""], ["--code-file", "code"]])
def test_a_wish_that_no_server_reads_is_one_sentence(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("code").write_text("A" * 201)
    assert 1 == main(["request", "cad", "--days", "1", "-o", str(tmp_path / "new"), *arguments])
    assert 1 == capsys.readouterr().err.count("\n")


def test_an_error_names_the_file_that_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for named in ("nodir/z", "folder"):
        assert 1 == main(["request", "cad", "--days", "1", "--force", "-o", named])
        assert capsys.readouterr().err.startswith(f"{named}: ")
    assert ["folder", "state"] == sorted(path.name for path in tmp_path.iterdir())


def test_a_terminal_without_the_letters_is_told_all_the_same(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "lls.client", "request", "cad", "--days", "1", "-o", "für unterwegs"]
    environment = os.environ | ascii_only | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=30)
    assert b"f\\xfcr unterwegs" in done.stdout or b"f\\udcc3" in done.stdout
    assert b"" == done.stderr
