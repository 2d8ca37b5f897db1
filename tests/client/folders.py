"""What tests do to the folder of borrowed seats, and the days in which they count."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def the_file(folder: Path) -> Path:
    (found,) = folder.glob("*.json")
    return found


def kept(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(the_file(folder).read_text())
    return found


def edit(folder: Path, **members: Any) -> None:
    the_file(folder).write_text(json.dumps(kept(folder) | members))
