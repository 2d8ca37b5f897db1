"""Makes a home again and again, killed each time at its next step on the disk, and makes it anew after each.

Run as a program: ``python killed_init.py FOLDER alone|several``. Prints how many steps it was killed at. A step is an
audit event of the interpreter that names a file: opening, renaming, making and removing one, and each statement that
SQLite is given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lls.issuer import Issuer
from lls.issuer.keyring import OWN_KEYS, Change
from lls.issuer.signers import make_public_part
from lls.signed.jose import SigningKey

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
STEPS = frozenset(
    {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "sqlite3.connect", "os.scandir"}
)
MOST = 500


def kill_at(step: int) -> Callable[[str, tuple[object, ...]], None]:
    left = step

    def hook(event: str, _told: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def killed(home: Path, step: int, change: Change) -> bool:
    """Whether there was such a step."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(kill_at(step))
        Issuer.create(home, now=NOW, passphrase=None, keys=change).close()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def check(home: Path, change: Change, *, waits: bool) -> str:
    """What the next one finds: nothing, which it makes anew; or all. Raises where it is neither."""
    there = (home / "keys").exists()
    opened = Issuer(home, now=NOW) if there else Issuer.create(home, now=NOW, passphrase=None, keys=change)
    with opened as issuer:
        issuer.audit.verify()
        assert waits == (not issuer.keyring.versions)
        assert waits == (home / "keys.pending").exists()
        assert (home / "catalog.toml").exists()
    return "there" if there else "made"


def main() -> None:
    folder, several = Path(sys.argv[1]), sys.argv[2] == "several"
    key = SigningKey.generate()
    part = make_public_part(key, public=key.public, name="ann", now=NOW)
    change = Change(adding={"root": [part]}, making=("bundle", "certificate")) if several else OWN_KEYS
    found: dict[str, int] = {}
    for step in range(1, MOST):
        home = folder / str(step)
        if not killed(home, step, change):
            break
        outcome = check(home, change, waits=several)
        found[outcome] = found.get(outcome, 0) + 1
    print(json.dumps(found))


if __name__ == "__main__":
    main()
