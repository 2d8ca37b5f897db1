"""What `man` and the shells look for below a ``share``: pages and completions, of one program or of both.

The packages carry those of ``lls`` alone: the vendor's tool is in no package's path, and a page for a command that is
not there would mislead. ``python -m parcel.shelf FOLDER`` writes those of both, for whoever works in a checkout
(``make manual``): with the virtual environment's ``bin`` in the path, ``man`` finds the ``share`` beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from parcel import site
from parcel.completion import completions
from parcel.pages import ISSUER, LLS, SAMPLE, pages, policy_page, settings_page
from parcel.wheels import Refused

ROOT: Final = Path(__file__).parents[2]


def site_shelf(root: Path, *, time: int) -> dict[str, bytes]:
    """What belongs on a customer's machine, by its place."""
    sample = (root / SAMPLE).read_text("utf-8")
    made = pages(LLS, time=time) | settings_page(time=time) | policy_page(sample, time=time)
    return _places(made) | completions(LLS.name)


def vendor_shelf(*, time: int) -> dict[str, bytes]:
    """What belongs beside the vendor's tool."""
    return _places(pages(ISSUER, time=time)) | completions(ISSUER.name)


def _places(made: dict[str, bytes]) -> dict[str, bytes]:
    return {f"man/man{name.rpartition('.')[2]}/{name}": content for name, content in made.items()}


def main(folder: Path) -> None:
    """Write everything into ``folder``."""
    time = site.commit_time(ROOT)
    for place, content in (site_shelf(ROOT, time=time) | vendor_shelf(time=time)).items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Refused as refused:
        sys.exit(str(refused))
