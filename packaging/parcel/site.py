"""What both packages hand out beside the program: texts of this checkout that people need where there is no network."""

from __future__ import annotations

from pathlib import Path
from typing import Final

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
