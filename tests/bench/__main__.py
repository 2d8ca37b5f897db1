"""`python -m tests.bench [--only NAME]… [--runs N] [--quick] [--json]`: runs the measures, prints what is reached."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop

from tests.bench.machine import LOAD_CORE, SUBJECT_CORE, Broken, allow_connections, pin
from tests.bench.measures import MEASURES, Bench, Row


def main() -> int:
    """The exit status: 1 when a measure could not be run at all, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="this measure; may be given again")
    parser.add_argument("--runs", type=int, default=5, help="alternated runs of each measure (5)")
    parser.add_argument("--quick", action="store_true", help="short runs, fewer leases and lines: a look")
    parser.add_argument(
        "--json", action="store_true", help="rows as JSON on standard output, the rest on standard error"
    )
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    with tempfile.TemporaryDirectory(prefix="lls-bench-") as folder:
        bench = Bench(
            folder=Path(folder),
            runs=max(1, options.runs),
            seconds=0.6 if options.quick else 3.0,
            large=0.1 if options.quick else 1.0,
            say=say,
        )
        allow_connections()
        say(_machine())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            rows, broken = loop.run(_measured(bench, options.only or list(MEASURES)))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else _table(rows))
    return 1 if broken else 0


async def _measured(bench: Bench, names: Sequence[str]) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    broken = False
    for name in names:
        bench.say(f"{name}:")
        try:
            rows += await MEASURES[name](bench)
        except Broken as error:
            broken = True
            bench.say(f"  broken: {error}")
    return rows, broken


def _machine() -> str:
    cores = "one core for both: do not trust this"
    if pin(LOAD_CORE):
        cores = f"daemon on core {SUBJECT_CORE}, load on core {LOAD_CORE}"
    return f"{platform.machine()}, Python {platform.python_version()}, {cores}, load average {os.getloadavg()[0]:.1f}"


def _table(rows: Sequence[Row]) -> str:
    lines = [f"\n{'measure':<21}{'goal':<44}{'reached':<42}{'least – most':<17}"]
    for row in rows:
        spread = f"{row.spread[0]:.2f} – {row.spread[1]:.2f}" if row.spread else ""
        lines.append(f"{row.name:<21}{row.goal:<44}{row.reached:<42}{spread:<17}{'pass' if row.passed else 'MISS'}")
        lines += [f"{'':<21}{note}" for note in row.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
