"""Who signs for the vendor: a small interface, the key files of people, and how a key is opened.

A :class:`~lls.signed.jose.Signer` has a ``kid``, an ``alg`` and ``sign(bytes)``. Two kinds are behind it: a private key
in a file, encrypted with its owner's passphrase, and a key that a command holds (``signing_agent``).

A person makes a key on a machine of their own and hands out its *public part* (``.llskey``): a document signed by the
very key that it names (``lls-public-key+jws``, with the key in the header ``jwk``). So a part that was mixed up or
mistyped is found when it is read, and not when the first bundle waits for a signature that nobody can make.

Rules
1. A public part proves that somebody holds the key, and nothing about who that is. Two people compare its kid.
2. A private key never leaves the file that it was made in.

It refuses to own which key may sign what (``keyring``, ``lls.signed.keys``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from lls.faults import RefusedDocument
from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.refusals import HomeRefused, KeysLocked
from lls.issuer.signing_agent import read_command
from lls.licensing.fields import Fields, write_instant
from lls.signed.jose import PublicKey, Signer, SigningKey, sign_compact, token_text, verify_self_signed

TYP: Final = "lls-public-key+jws"
LARGEST_FILE: Final = 256 * 1024
_BEGIN: Final = b"-----BEGIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicPart:
    """The public part of somebody's key; ``name`` is what its owner called it."""

    name: str
    key: PublicKey
    made_at: datetime
    token: str

    @property
    def kid(self) -> str:
        """The key's thumbprint: what two people compare."""
        return self.key.kid


def make_public_part(signer: Signer, *, public: PublicKey, name: str, now: datetime) -> PublicPart:
    """The public part of a key, signed by it. Raises HomeRefused for a name that is none."""
    if not (1 <= len(name) <= 100 and name.isprintable()):  # noqa: PLR2004 - said in the sentence
        raise HomeRefused("The key's name must be a printable text of 1 to 100 characters.")
    payload = {"name": name, "kid": public.kid, "made_at": write_instant(now.replace(microsecond=0))}
    return read_public_part(sign_compact(payload, key=signer, typ=TYP, header={"jwk": public.jwk}))


def read_public_part(data: bytes | str) -> PublicPart:
    """The public part in a ``.llskey`` file. Raises RefusedDocument."""
    verified, key = verify_self_signed(data, typ=TYP)
    fields = Fields(verified.payload, place="public key")
    return PublicPart(
        name=fields.text("name", most=100), key=key, made_at=fields.instant("made_at"), token=token_text(data)
    )


def read_part_file(path: Path) -> PublicPart:
    """The same from a file. Raises HomeRefused."""
    try:
        return read_public_part(read_bounded(path, what="public part of a key", most=LARGEST_FILE))
    except RefusedDocument as refused:
        raise HomeRefused(f"{path} is not the public part of a key (.llskey): {refused.detail}") from refused


def make_key_file(path: Path, *, passphrase: bytes | None) -> SigningKey:
    """A new private key in a new file of mode 0600; an existing file is refused."""
    if path.exists():
        raise HomeRefused(f"{path} is there already, and a key is never overwritten; choose another file.")
    key = SigningKey.generate()
    write_whole(path, key.to_pem(passphrase), mode=PRIVATE)
    return key


def open_signer(path: Path, *, command: str | None, passphrase: Callable[[], bytes | None]) -> Signer:
    """The signer of ``--key FILE``: a private key, or a public part with the ``command`` that holds the private one.

    ``passphrase`` is asked only where the file is encrypted. Raises HomeRefused and KeysLocked.
    """
    data = read_bounded(path, what="key", most=LARGEST_FILE)
    if not data.startswith(_BEGIN):
        part = read_part_file(path)
        if command is None:
            raise HomeRefused(
                f"{path} is the public part of a key. To sign, give the private key's file, or say with --sign-with "
                "which command holds it."
            )
        return read_command(command, public=part.key)
    if command is not None:
        raise HomeRefused(f"{path} is a private key itself; --sign-with goes with the public part of a key (.llskey).")
    return read_private_key(data, passphrase=passphrase, whose=str(path))


def read_private_key(data: bytes, *, passphrase: Callable[[], bytes | None], whose: str) -> SigningKey:
    """A private signing key. Raises KeysLocked where its passphrase is missing or wrong."""
    if not is_encrypted(data):
        return _read(data, None, whose=whose)
    given = passphrase()
    if given is None:
        raise KeysLocked(f"{whose} is encrypted: give the passphrase with --passphrase-file or LLS_ISSUER_PASSPHRASE.")
    return _read(data, given, whose=whose)


def is_encrypted(pem: bytes) -> bool:
    """Whether a private key in PEM form needs a passphrase."""
    return b"ENCRYPTED" in pem.partition(b"\n")[0]


def _read(data: bytes, passphrase: bytes | None, *, whose: str) -> SigningKey:
    try:
        return SigningKey.from_pem(data, passphrase)
    except RefusedDocument as refused:
        if passphrase is None:
            raise HomeRefused(f"{whose} is no private key: {refused.detail}") from refused
        raise KeysLocked(f"The passphrase does not open {whose}; nothing was signed.") from refused
