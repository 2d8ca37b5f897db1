"""Who this server is: its id, its keys, and what identifies the machine under it.

Rules (design §4)
1. Keys are made at the first start, with mode 0600, whole or not at all, and never leave the machine. A name on a
   public key is a request's and a certificate's business.
2. The site key makes commitments of names; it is symmetric and stays here, so that nobody outside can guess a name from
   one.
3. Components of the host are hashed together with the server id: the vendor can compare, never read.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lls.faults import SetupFault
from lls.signed.jose import EncryptionKey, SigningKey

_COMPONENTS: Final = {
    "machine_id": "/etc/machine-id",
    "product_uuid": "/sys/class/dmi/id/product_uuid",
    "board_serial": "/sys/class/dmi/id/board_serial",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The server's id and private keys."""

    server_id: str
    signing: SigningKey = field(repr=False)
    encryption: EncryptionKey = field(repr=False)
    site_key: bytes = field(repr=False)


def load_identity(folder: Path) -> Identity:
    """The identity kept in ``folder``, made there when it is empty. Raises SetupFault."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Identity(
            server_id=_kept(folder / "server-id", _new_server_id).decode("ascii").strip(),
            signing=SigningKey.from_pem(_kept(folder / "signing.pem", lambda: SigningKey.generate().to_pem())),
            encryption=EncryptionKey.from_pem(
                _kept(folder / "encryption.pem", lambda: EncryptionKey.generate().to_pem())
            ),
            site_key=_kept(folder / "site.key", lambda: secrets.token_bytes(32)),
        )
    except OSError as error:
        raise SetupFault(f"The keys in {folder} cannot be read or made: {error.strerror}.") from error


def new_id(prefix: str) -> str:
    """An opaque id: its prefix and 16 random bytes in base64url (contract, common rules)."""
    return prefix + urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode("ascii")


def host_components(server_id: str) -> dict[str, str]:
    """What the machine under us has to say for itself, hashed; a component that cannot be read is left out."""
    found: dict[str, str] = {}
    for name, path in _COMPONENTS.items():
        value = _read_component(Path(path))
        if value:
            found[name] = hashlib.sha256(f"{server_id}\0{name}\0{value}".encode()).hexdigest()
    return found


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


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        write_private(path, make())
    return path.read_bytes()


def _new_server_id() -> bytes:
    return new_id("lls_").encode("ascii")


def _read_component(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # not this kind of machine, or not for our eyes; the binding counts what is there
