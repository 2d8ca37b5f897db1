"""Cores, processor time, memory, and processes that are sure to end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

SUBJECT_CORE: Final = 0
LOAD_CORE: Final = 1
LONGEST_ANSWER_SECONDS: Final = 600.0
LONGEST_END_SECONDS: Final = 30.0

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Broken(Exception):
    """A process did not start, did not answer, or answered what it never should."""


def pin(core: int) -> bool:
    """Stay on one core. False on a machine that does not have it: the figures are then of little use, and say so."""
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        return False
    return True


def allow_connections() -> None:
    """A herd has more sockets than many shells allow; the children inherit it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_kb(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` (its peak) of this process."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise Broken(f"/proc/self/status has no {name}")


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


class Child:
    """A module of this package in a process of its own: one order in its arguments, then a line in, a line out."""

    def __init__(self, module: str, order: Mapping[str, object], *, log: Path) -> None:
        self._module, self._log = module, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.bench.{module}", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a line, and read the answer to it."""
        self.tell(request)
        return self.answer()

    def tell(self, request: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{request}\n".encode())
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next line that the process writes. Raises Broken when there is none in time."""
        pipe = self._process.stdout
        assert pipe is not None
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            line = pipe.readline() if ready.select(LONGEST_ANSWER_SECONDS) else b""
        if not line:
            raise Broken(f"{self._module} gave no answer; the end of {self._log}:\n{_tail(self._log)}")
        read: dict[str, Any] = json.loads(line)
        return read

    def end(self) -> None:
        """Closing its input is the signal; a process that does not follow it is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(LONGEST_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def started(module: str, order: Mapping[str, object], *, log: Path) -> Iterator[tuple[Child, dict[str, Any]]]:
    """A child that has said that it is ready, and what it said."""
    with Child(module, order, log=log) as child:
        yield child, child.answer()


def run_alone(module: str, *words: str, log: Path) -> tuple[float, float]:
    """A module as a command from its start to its end: seconds, and its peak memory in MB. Raises Broken."""
    begun = time.perf_counter()
    with started("alone", {"module": module, "words": words}, log=log) as (_, told):
        seconds = time.perf_counter() - begun
    if told["status"] != 0:
        raise Broken(f"{module} {' '.join(words)} ended with {told['status']}:\n{_tail(log)}")
    return seconds, told["peak_mb"]


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2_000:]
