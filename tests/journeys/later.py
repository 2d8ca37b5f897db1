"""Runs the daemon's command so many days later: the number stands in the file ``later``. Nothing else is replaced."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from lls import cli, daemon
from lls.clock import system_wall

FILE = "later"


def wall() -> datetime:
    return system_wall() + timedelta(days=int(Path(FILE).read_text("ascii")))


if __name__ == "__main__":
    with mock.patch.object(daemon, "system_wall", wall):
        cli.main()
