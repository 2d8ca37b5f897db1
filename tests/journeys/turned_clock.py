"""Runs the daemon's command under a clock that a story turns.

``FOLDER/clock.json`` says how far the clocks are ahead of the machine's: ``wall`` and ``elapsed`` in seconds, and
``awake``: whether the program ran all that time. A host that slept has frozen its programs with it, and the writer
prolongs every lease; a server that was awake has heard nobody for so long, and lets them end. When two sweeps of the
ledger have seen a new setting, its ``number`` stands in ``FOLDER/seen``.

Nothing else is replaced: the command, the daemon, its guarded clock and its store are those of every day.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from lls import cli, clock, daemon, writer

ENOUGH_READINGS = 12
"""A pulse takes two or three: the tick's, the sweep's group's and perhaps one when that is settled."""
PULSE_SECONDS = 0.05


@dataclass
class TurnedClock:
    """The machine's two clocks, each with what the story has put on top."""

    folder: Path
    wall_offset: timedelta = timedelta()
    elapsed_offset: float = 0.0
    number: int = -1
    readings: int = 0
    stamp: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        self._look()  # a start with a mark asks for the elapsed time first

    def wall(self) -> datetime:
        """What it finds counts for ``elapsed`` as well: the guarded clock reads this one first."""
        self._look()
        self.readings += 1
        if self.readings == ENOUGH_READINGS:
            (self.folder / "seen").write_text(str(self.number), "ascii")
        return clock.system_wall() + self.wall_offset

    def elapsed(self) -> float:
        return clock.system_elapsed() + self.elapsed_offset

    def _look(self) -> None:
        file = self.folder / "clock.json"
        stamp = file.stat().st_mtime_ns
        if stamp != self.stamp:
            self.stamp = stamp
            self._turn(json.loads(file.read_text("ascii")))

    def _turn(self, setting: dict[str, float]) -> None:
        self.wall_offset = timedelta(seconds=setting["wall"])
        self.elapsed_offset = setting["elapsed"]
        self.number, self.readings = int(setting["number"]), 0
        vars(writer)["FROZEN_SECONDS"] = math.inf if setting["awake"] else FROZEN_SECONDS


FROZEN_SECONDS = writer.FROZEN_SECONDS


def main(folder: Path) -> None:
    """Run the command in ``sys.argv`` under the clock of that folder."""
    turned = TurnedClock(folder)
    with (
        mock.patch.object(daemon, "system_wall", turned.wall),
        mock.patch.object(daemon, "system_elapsed", turned.elapsed),
        mock.patch.object(writer, "PULSE_SECONDS", PULSE_SECONDS),
    ):
        cli.main()
