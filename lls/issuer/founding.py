"""Making a vendor's home: whole, or as if nobody had tried.

Rules
1. Everything is made in ``.init/`` inside the home, because the home itself may be a mount point that no rename
   replaces. Keys and register reach their places by renames, the directory ``keys/`` last: that one rename is the
   moment in which there is an issuer.
2. Whoever makes a home holds a lock on its directory, which ends with the process. So of two that begin at once one
   goes on, and what lies in ``.init/`` under the lock is what a killed one left: it is removed, and all begins anew.
3. A register without keys is removed only where ``.init/`` holds the SHA-256 of that very file: one that was ever used
   has another, and is somebody's book of what was sold.

It refuses to own what keys and register hold (``keyring``, ``register``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Final

from lls.issuer.files import PRIVATE, sync_directory, write_whole
from lls.issuer.history import Deed, Who
from lls.issuer.ids import Random, new_id
from lls.issuer.keyring import Change, Keyring
from lls.issuer.pending import Pending
from lls.issuer.refusals import HomeRefused
from lls.issuer.register import Register
from lls.issuer.rotating import Rotating

REGISTER: Final = "register.sqlite"
KEYS: Final = "keys"
SAMPLE_CATALOG: Final = "catalog.toml"
FIRST_KEYS: Final = "keys.pending"
"""The first key set, where others have to sign it."""

_STAGE: Final = ".init"
_DIGEST: Final = "register.sha256"


def found(
    home: Path, *, now: datetime, passphrase: bytes | None, random: Random, who: Who | None, keys: Change
) -> Pending | None:
    """Makes keys, register and a sample catalogue; what others have to sign first. Raises :class:`HomeRefused`."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(home):
            _check_free(home)
            stage = home / _STAGE
            shutil.rmtree(stage, ignore_errors=True)
            try:
                stage.mkdir(mode=0o700)
                pending = _make(stage, now=now, passphrase=passphrase, random=random, who=who, keys=keys)
            except BaseException:
                shutil.rmtree(stage, ignore_errors=True)
                raise
            _settle(stage, home)  # where this fails the stage stays, as rule 3 needs it
            shutil.rmtree(stage, ignore_errors=True)
            return pending
    except OSError as failure:
        raise HomeRefused(f"{home} cannot be used: {failure.strerror}.") from failure


def sample_catalog() -> str:
    """The sample that a new home has."""
    return resources.files(__package__).joinpath("sample_catalog.toml").read_text(encoding="utf-8")


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeRefused(f"Somebody else is making an issuer in {home} just now; let it finish.") from None
        yield
    finally:
        os.close(descriptor)


def _check_free(home: Path) -> None:
    """Rule 3."""
    register = home / REGISTER
    if (home / KEYS).exists():
        raise HomeRefused(f"{home} holds an issuer already, and its keys are not replaced; choose another --home.")
    if not register.exists():
        return
    digest = home / _STAGE / _DIGEST
    if not digest.exists() or digest.read_text(encoding="ascii") != _sha256(register):
        raise HomeRefused(
            f"{home} holds a register and no keys. If it is an issuer's, put its {KEYS}/ back from the backup; else "
            "choose another --home."
        )
    register.unlink()
    (home / FIRST_KEYS).unlink(missing_ok=True)


def _make(
    stage: Path, *, now: datetime, passphrase: bytes | None, random: Random, who: Who | None, keys: Change
) -> Pending | None:
    pending = Keyring.create(
        stage / KEYS, passphrase=passphrase, now=now, change=keys, pending_id=new_id("pnd", random)
    )
    with Register(stage / REGISTER, now=now, create=True, who=who) as register, register.transaction():
        keyring = Keyring(stage / KEYS, passphrase=passphrase)
        rotating = Rotating(register, keyring=keyring, random=random)
        if pending is None:
            rotating.note(Deed.KEYS_MADE, keyring.newest, now=now)
        else:
            rotating.await_first(pending)
            write_whole(stage / FIRST_KEYS, pending.to_bytes(), mode=PRIVATE)
    write_whole(stage / _DIGEST, _sha256(stage / REGISTER).encode())
    write_whole(stage / SAMPLE_CATALOG, sample_catalog().encode())
    return pending


def _settle(stage: Path, home: Path) -> None:
    """Rule 1: from the stage to the places, ``keys/`` last."""
    if not (home / SAMPLE_CATALOG).exists():
        (stage / SAMPLE_CATALOG).rename(home / SAMPLE_CATALOG)
    if (stage / FIRST_KEYS).exists():
        (stage / FIRST_KEYS).rename(home / FIRST_KEYS)
    (stage / REGISTER).rename(home / REGISTER)
    sync_directory(home)
    (stage / KEYS).rename(home / KEYS)
    sync_directory(home)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
