"""The lock of a state folder: whoever holds it is the only one who writes there.

The kernel gives it back with the process, whatever kills it (``flock``), so it is never stale.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from lls.faults import SetupFault


def take_lock(path: Path) -> int:
    """Take it. Raises SetupFault, naming the process that has it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SetupFault(f"The state directory {path.parent} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise SetupFault(
            f"Another daemon (process {owner}) runs on {path.parent}; stop it first, or use another state_dir."
        ) from None
    with suppress(OSError):  # the number is a courtesy to the next one; a full disk must not cost the writership
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def give_lock_back(lock: int) -> None:
    """Let the next one have it."""
    os.close(lock)
