"""Who this server is: its id and its keys.

Rules (design §4)
1. Keys are made at the first start, with mode 0600, all of them or none, and never leave the machine. A name on a
   public key is a request's and a certificate's business.
2. Keys are never made beside others: when one of the files is missing, damaged or open to other users, the server
   does not start. Whether an empty folder is a first start or a loss, the store's history says (``airgap``).
3. The site key makes commitments of names; it is symmetric and stays here, so that nobody outside can guess a name from
   one.
4. Keys that systemd hands over in ``$CREDENTIALS_DIRECTORY`` (``LoadCredentialEncrypted=``) go before the files: all of
   them or none. Keys of another server beside them are two servers in one place, and neither is started.
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from lls.faults import RefusedDocument, SetupFault
from lls.signed.jose import EncryptionKey, SigningKey

Key = TypeVar("Key", SigningKey, EncryptionKey)

SERVER_ID_FILE: Final = "server-id"
SIGNING_FILE: Final = "signing.pem"
ENCRYPTION_FILE: Final = "encryption.pem"
SITE_KEY_FILE: Final = "site.key"
KEY_FILES: Final = (SERVER_ID_FILE, SIGNING_FILE, ENCRYPTION_FILE, SITE_KEY_FILE)
SITE_KEY_BYTES: Final = 32

CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"

_SERVER_ID = re.compile(rb"lls_[A-Za-z0-9_-]{22}\s*")
_OPEN_TO_OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The server's id and private keys."""

    server_id: str
    signing: SigningKey = field(repr=False)
    encryption: EncryptionKey = field(repr=False)
    site_key: bytes = field(repr=False)


def load_identity(folder: Path, *, make: bool = True) -> Identity:
    """The identity that systemd hands over, else the one kept in ``folder``.

    ``make``: whether keys may be made when none of the files is there; not beside a history, which names other ones.
    Raises SetupFault that names the file which is missing, damaged or readable by others.
    """
    try:
        handed_over = _from_credentials(folder)
        if handed_over is not None:
            return handed_over
        if make:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        missing = [name for name in _MAKERS if not _finished(folder, name)]
        if missing and len(missing) < len(_MAKERS):
            raise SetupFault(
                f"Of the server's keys in {folder}, {' and '.join(missing)} is missing; put it back from your backup."
                " Nothing was made in its place, because a new key would make this another server."
            )
        if missing and not make:
            raise SetupFault(
                f"There are no keys in {folder}, and the database has a history with keys: nothing was made in their"
                " place. Where systemd hands them over, start the server by systemctl; else put them back from your"
                " backup."
            )
        if missing:
            _make(folder)
        return _read(folder, _read_private)
    except OSError as error:
        raise SetupFault(f"The keys in {folder} cannot be read or made: {error.strerror}.") from error


def read_identity(folder: Path) -> Identity:
    """The identity whose files are in ``folder``, whatever systemd hands over. Raises SetupFault, OSError."""
    return _read(folder, _read_private)


def key_files(folder: Path) -> dict[str, Path]:
    """Where the keys in use lie, by their names: among what systemd hands over, else in ``folder``."""
    handed_over = {name: path for name in KEY_FILES if (path := credential(name)) is not None}
    return handed_over or {name: folder / name for name in KEY_FILES if (folder / name).is_file()}


def credential(name: str) -> Path | None:
    """A file that systemd hands over to this service under that name, if it does."""
    folder = os.environ.get(CREDENTIALS_VARIABLE)
    path = Path(folder, name) if folder else None
    return path if path is not None and path.exists() else None


def new_id(prefix: str) -> str:
    """An opaque id: its prefix and 16 random bytes in base64url (contract, common rules)."""
    return prefix + urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode("ascii")


def write_private(path: Path, content: bytes) -> None:
    """A file that only we may read: whole under its name after a power cut, or not there at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_MAKERS: Final[dict[str, Callable[[], bytes]]] = {
    SERVER_ID_FILE: lambda: new_id("lls_").encode("ascii"),
    SIGNING_FILE: lambda: SigningKey.generate().to_pem(),
    ENCRYPTION_FILE: lambda: EncryptionKey.generate().to_pem(),
    SITE_KEY_FILE: lambda: secrets.token_bytes(SITE_KEY_BYTES),
}


def _make(folder: Path) -> None:
    """All of them under other names first, so that a power cut between two renames leaves what can be finished."""
    for name, make in _MAKERS.items():
        write_private(_unfinished(folder, name), make())
    for name in _MAKERS:
        _unfinished(folder, name).replace(folder / name)


def _finished(folder: Path, name: str) -> bool:
    """Whether a file is there, after what a power cut has left of :func:`_make` was finished."""
    others = any((folder / other).exists() for other in _MAKERS)
    if others and not (folder / name).exists() and _unfinished(folder, name).exists():
        _unfinished(folder, name).replace(folder / name)
    return (folder / name).exists()


def _unfinished(folder: Path, name: str) -> Path:
    return folder / f"{name}.new"


def _from_credentials(folder: Path) -> Identity | None:
    """What systemd hands over. Its files stand in a folder of its own for this service alone, so modes say nothing."""
    given = {name: path for name in _MAKERS if (path := credential(name)) is not None}
    if not given:
        return None
    missing = [name for name in _MAKERS if name not in given]
    if missing:
        raise SetupFault(
            f"Of the server's keys, {' and '.join(missing)} is missing among the credentials that systemd hands over;"
            " name all four in LoadCredentialEncrypted=, or none."
        )
    identity = _read(given[SERVER_ID_FILE].parent, Path.read_bytes)
    beside = folder / SERVER_ID_FILE
    if beside.exists() and _read_server_id(beside, _read_private) != identity.server_id:
        raise SetupFault(
            f"systemd hands over the keys of {identity.server_id}, and {folder} holds those of another server;"
            " decide which of the two this is, and move the others away."
        )
    return identity


Reader: TypeAlias = Callable[[Path], bytes]


def _read(folder: Path, read: Reader) -> Identity:
    return Identity(
        server_id=_read_server_id(folder / SERVER_ID_FILE, read),
        signing=_read_key(folder / SIGNING_FILE, read, SigningKey.from_pem),
        encryption=_read_key(folder / ENCRYPTION_FILE, read, EncryptionKey.from_pem),
        site_key=_read_site_key(folder / SITE_KEY_FILE, read),
    )


def _read_private(path: Path) -> bytes:
    if path.stat().st_mode & _OPEN_TO_OTHERS:
        raise SetupFault(f"The key file {path} is open to other users; run: chmod 600 {path}")
    return path.read_bytes()


def _read_server_id(path: Path, read: Reader) -> str:
    content = read(path)
    if not _SERVER_ID.fullmatch(content):
        raise _damaged(path, "holds no server id")
    return content.decode("ascii").strip()


def _read_key(path: Path, read: Reader, make: Callable[[bytes], Key]) -> Key:
    try:
        return make(read(path))
    except RefusedDocument as fault:
        raise _damaged(path, "holds no private key of its kind") from fault


def _read_site_key(path: Path, read: Reader) -> bytes:
    content = read(path)
    if len(content) != SITE_KEY_BYTES:
        raise _damaged(path, f"is not {SITE_KEY_BYTES} bytes long")
    return content


def _damaged(path: Path, complaint: str) -> SetupFault:
    return SetupFault(f"The key file {path} {complaint}; put it back from your backup.")
