"""Runs a module as a command on the core of whoever calls, and says how it ended and what memory it ever had.

The order (JSON in the first argument): ``module``, ``words``. The answer: ``status``, ``peak_mb``. What the command
itself prints on standard output goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys

from tests.bench.machine import memory_kb

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.argv = [asked["module"], *asked["words"]]
    status: object = 0
    with contextlib.redirect_stdout(sys.stderr):
        try:
            runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
    # VmHWM is of this program alone; the peak that wait4(2) gives counts the parent's memory, too.
    print(json.dumps({"status": status, "peak_mb": memory_kb("VmHWM") / 1024}), flush=True)
