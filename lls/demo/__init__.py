"""``lls demo``: a whole throw-away world on this machine, told while it happens.

Everything in it is the real thing: the vendor's and the site's commands as a person types them, the daemon as a
process of its own with TLS, clients that use the SDK. Only the people are made up, and the leases are short so that
expiry can be watched.

The story, in order
1. The vendor opens shop, the site starts a server, a request and a bundle are carried between them on a stick.
2. A laptop borrows a seat and leaves; a machine that sees no network borrows one by stick.
3. Clients come, work, use frames and cores, wait, are refused; a room loses power and its seats come back by expiry.
4. In the middle the daemon is killed without warning and started again; every seat must still be held, those that are
   away too, and the laptop works on meanwhile.
5. The laptop is back early and everybody leaves; report and receipt are carried; the journal is verified; the vendor
   bills seats and meters, to the frame what clients were told.

Exit status 0 only if all of it was verified, 1 with a sentence otherwise, 130 when it was broken off. Whatever
happens, no process is left behind, and a folder that was not asked for is removed.

| file | owns |
|---|---|
| ``story`` | what happens when, and what has to hold |
| ``papers`` | what crosses the gap, from the first key to the bill |
| ``road`` | the seats that leave the network |
| ``meter`` | whether told, written and billed frames are the same |
| ``world`` | the folders, the commands, the daemon's process |
| ``room`` | a process full of clients |
| ``laptop`` | the application on the laptop |
| ``watch`` | what the daemon says about itself |
| ``interrupts`` | when a signal may end it |
| ``screen`` | what is shown |
"""

from __future__ import annotations

import http.client
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

BROKEN_OFF: Final = 130


def demo(port: int | None = None, clients: int = 100, seconds: int | None = None, directory: Path | None = None) -> int:
    """Run the demonstration; the exit status.

    ``port`` on 127.0.0.1 (None or 0: any free one); ``seconds`` of show, None until Ctrl-C; ``directory`` keeps all
    files.
    """
    from lls.demo.interrupts import Interrupts  # noqa: PLC0415 - as below
    from lls.demo.screen import Screen  # noqa: PLC0415 - the rooms' processes import this package and need no screen
    from lls.demo.story import Story  # noqa: PLC0415
    from lls.demo.world import Trouble, World  # noqa: PLC0415

    screen = Screen()
    with Interrupts() as interrupts:
        try:
            with (
                _folder(directory) as folder,
                World(folder, port=port, screen=screen, interrupts=interrupts) as world,
            ):
                return Story(world, screen, clients=clients, seconds=seconds, kept=directory is not None).tell()
        except Trouble as trouble:
            screen.trouble(str(trouble))
            return 1
        except BrokenPipeError:  # `lls demo | head` has seen enough; the program knows how to leave quietly
            raise
        except (OSError, http.client.HTTPException) as error:
            screen.trouble(f"This machine got in the way: {str(error) or type(error).__name__}.")
            return 1
        except KeyboardInterrupt:
            screen.trouble("Broken off; everything that was started is stopped.")
            return BROKEN_OFF


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    from lls.demo.world import Trouble  # noqa: PLC0415 - as above

    if directory is None:
        folder = Path(tempfile.mkdtemp(prefix="lls-demo-")).resolve()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        occupied = next(directory.iterdir(), None)
    except OSError as error:
        raise Trouble(f"{directory} cannot be used: {error.strerror}; name another folder with --dir.") from error
    if occupied is not None:
        raise Trouble(f"{directory} is not empty; name a new folder with --dir, so that nothing of yours is touched.")
    yield directory.resolve()
