"""What both packages hand out beside the program: texts of this checkout that people need where there is no network.

And the one time that everything in them bears.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from parcel.wheels import Refused

DOCUMENTS: Final = (
    "CHANGELOG.md",
    "docs/administrators-manual.md",
    "docs/developer-guide.md",
    "docs/formats.md",
    "docs/getting-started.md",
    "docs/threat-model.md",
)
SETTINGS: Final = "config/lls.toml"
SAMPLES: Final = ("config/policy.toml", "systemd/lls-credentials.conf")
LAUNCHER: Final = "packaging/launcher.py"
LICENCE: Final = "LICENSE"


def read(root: Path, *names: str) -> dict[str, bytes]:
    """Files of the checkout by their bare names."""
    return {Path(name).name: (root / name).read_bytes() for name in names}


def commit_time(root: Path) -> int:
    """``SOURCE_DATE_EPOCH``, else the time of the last commit: never the present, which does not repeat."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        done = subprocess.run(
            ["git", "log", "-1", "--format=%ct"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        told = done.stdout.strip()
    if not told.isdecimal():
        raise Refused("This is no git checkout, so the packages have no date; set SOURCE_DATE_EPOCH.")
    return int(told)
