"""Processes that start without importing: each is forked from one that has loaded the program already.

A hundred stories start a hundred daemons and as many commands; nearly all of that time would be Python reading the same
modules. What runs in the fork is ``main`` of the program with its arguments, as ``python -m lls`` runs it; it has its
own process id and session, its own descriptors, and can be killed like any other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PRELOADED = ["lls.issuer.cli", "tests.journeys.turned_clock", "tests.journeys.warm", "uvloop"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Warm:
    """A program under way; of ``subprocess.Popen`` it has what a site needs."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, said: Path, clock: Path | None = None) -> None:
        """``arguments`` begin with the program's name, ``lls`` or ``lls-issuer``; ``said`` gets what it writes.

        With ``clock`` it runs under a turned clock.
        """
        self.arguments = arguments
        self._process = _context.Process(target=run, args=(list(arguments), cwd, said, clock))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(list(self.arguments), timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(arguments: list[str], cwd: Path, said: Path, clock: Path | None) -> None:
    """In the fork: become the command."""
    from lls import cli  # noqa: PLC0415 - the parent only forks
    from lls.issuer import cli as issuer  # noqa: PLC0415
    from tests.journeys import turned_clock  # noqa: PLC0415

    os.setsid()
    os.chdir(cwd)
    output = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(output, number)
    sys.argv = arguments
    if clock is not None:
        turned_clock.main(clock)
    elif arguments[0] == "lls":
        cli.main()
    else:
        issuer.main()
