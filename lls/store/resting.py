"""An embedded store that no daemon uses: looked at, never changed. For examinations while the server is down.

It is the :class:`~lls.store.sqlite.SqliteStore` over connections that SQLite itself keeps from writing. What a crash
left in the write-ahead log is read, and stays there for the next start.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from lls.faults import SetupFault, StoreDown
from lls.store.sqlite import Connection, SqliteStore, connected, known_steps

__all__ = ["RestingStore", "is_in_use"]


class RestingStore(SqliteStore):
    """The protocol's reading half; what would write raises StoreDown."""

    async def take_writership(self) -> NoReturn:
        raise SetupFault("This store is only looked at.")

    async def schema(self) -> tuple[int, int]:
        """The schema's version in the file, and the one that this program would make of it. Raises StoreDown."""
        return await self._on_reader(_stored_schema), max(known_steps())

    async def _open(self) -> Connection:
        if not self._path.exists():
            raise StoreDown(f"There is no database {self._path}.")
        return await connected(lambda: _read_only(self._path))


def is_in_use(state_dir: Path) -> bool:
    """Whether a daemon holds the store. False also where the lock cannot be looked at."""
    try:
        lock = os.open(state_dir / "lls.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _read_only(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=5.0, check_same_thread=False
    )
    database.execute("PRAGMA query_only=ON")
    return database


def _stored_schema(database: sqlite3.Connection) -> int:
    (version,) = database.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()
    return int(version)
