"""The same at a terminal: as wide as it is, in colour only if wanted, and no id cut in two."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lls.cli import show

if TYPE_CHECKING:
    from tests.cli.conftest import Daemon

LEASE = {
    "lease_id": "0d9c8b7a-0000-4000-8000-000000000001",
    "state": "active",
    "mode": "floating",
    "product": "cad",
    "seats": 1,
    "holder": {"seat_id": "f1", "user": "alice the engineer", "host": "workstation-17"},
    "granted_at": "2026-11-21T09:00:00.123Z",
    "expires_in_seconds": 580,
}
BOLD = re.compile(r"\x1b\[[01]m")

PROGRAM = [sys.executable, "-c", "from lls.cli import main; main()"]


def at_terminal(*arguments: str, columns: int, **environment: str) -> str:
    """What a terminal of that width gets."""
    ours, theirs = pty.openpty()
    settings = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment
    with subprocess.Popen([*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=settings) as started:
        os.close(theirs)
        read = b""
        try:
            while piece := os.read(ours, 65_536):
                read += piece
        except OSError:  # the terminal's other end is closed
            pass
        finally:
            os.close(ours)
        assert 0 == started.wait(60)
    return read.decode().replace("\r\n", "\n")


@pytest.fixture
def leases(daemon: Daemon) -> None:
    daemon.says("GET leases", {"leases": [LEASE]})


def test_a_wide_terminal_gets_a_table(leases: None) -> None:
    shown = BOLD.sub("", at_terminal("lease", "list", columns=140, NO_COLOR="1"))
    heading, rule, row = (line.rstrip() for line in shown.splitlines())
    assert heading == (
        "LEASE                                  PRODUCT   SEATS   HOLDER                              "
        "SINCE                  EXPIRES         STATE"
    )
    assert rule == "─" * 140
    assert row == (
        "0d9c8b7a-0000-4000-8000-000000000001   cad           1   alice the engineer@workstation-17   "
        "2026-11-21 09:00:00Z   in 9 min 40 s   floating"
    )


def test_a_narrow_terminal_gets_blocks_rather_than_a_cut_id(leases: None) -> None:
    shown = BOLD.sub("", at_terminal("lease", "list", columns=60, NO_COLOR="1"))
    assert shown == (
        "LEASE    0d9c8b7a-0000-4000-8000-000000000001\n"
        "PRODUCT  cad\n"
        "SEATS    1\n"
        "HOLDER   alice the engineer@workstation-17\n"
        "SINCE    2026-11-21 09:00:00Z\n"
        "EXPIRES  in 9 min 40 s\n"
        "STATE    floating\n"
        "\n"
    )


def test_no_color_is_respected(leases: None) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38;)")
    assert None is colour.search(at_terminal("lease", "list", columns=140, NO_COLOR="1"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (580, "9 min 40 s"),
        (3_600, "1 h"),
        (86_405, "1 d"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, words: str) -> None:
    assert (words, f"in {words}") == (show.duration(seconds), show.ahead(seconds))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-21T10:00:00.999Z", "2026-11-21 10:00:00Z"),
        ("2026-11-21T10:00:00+02:00", "2026-11-21 08:00:00Z"),
        ("2026-11-21", "2026-11-21"),
        (None, "–"),
        ("soon", "soon"),
    ],
)
def test_instants_are_utc_and_say_so(text: object, shown: str) -> None:
    assert shown == show.instant(text)


def test_a_transfer_that_takes_long_shows_a_bar_at_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lls.cli.show._PATIENCE_SECONDS", -1.0)
    with show.progress("Sending", 10) as advance:
        advance(5)
    assert ("", "") == capfd.readouterr()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with show.progress("Sending", 10) as advance:
        advance(5)
        advance(5)
    out, err = capfd.readouterr()
    assert ("", True) == (out, "Sending" in err)
