"""Backup and restore: the state of a server in one file, read back before it counts, and put back whole or not at all.

``archive`` is the file, ``taking`` makes one while the server runs, ``putting`` puts one back while it does not. What
follows from a restore is the domain's (``lls.licensing.restoring``).
"""

from lls.backup.archive import Manifest, lock_of
from lls.backup.putting import Found, Put, look_into, put_back, refuse_unfinished
from lls.backup.taking import Backups, Plan, Taken

__all__ = [
    "Backups",
    "Found",
    "Manifest",
    "Plan",
    "Put",
    "Taken",
    "lock_of",
    "look_into",
    "put_back",
    "refuse_unfinished",
]
