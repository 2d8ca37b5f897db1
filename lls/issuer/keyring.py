"""The vendor's keys on disk: private ones encrypted, every version of the key set kept.

Layout of ``keys/`` (mode 0700)
- ``v1.llskeys``, ``v2.llskeys`` …: the key sets, public. The highest is in force.
- ``<kid>.pem``: a private signing key, PKCS #8, encrypted with the passphrase unless the vendor chose none (0600).
- ``report.pem``: the private key that usage reports are encrypted to (0600).

Rules
1. The key set's file is the moment of truth: private keys are written before it, so that a crash leaves at most a key
   that nothing names.
2. A rotation makes new keys for every role. Version n+1 is signed by the root keys of n and by its own (design §4),
   and everything signed from then on is signed by the new ones. Old private keys stay, because nothing gains from
   their loss.
3. A chain on disk that does not verify is refused: a vendor who signs with a broken chain locks every site out.

It refuses to own what is signed (``issue``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from lls.faults import RefusedDocument
from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.refusals import HomeRefused, KeysLocked, NotKnown
from lls.signed.jose import EncryptionKey, SigningKey
from lls.signed.keys import ROLES, KeySet, Role, make_key_set, read_key_set

LIFE: Final = timedelta(days=730)
"""How long a key set may be used to issue; bundles refuse to be made after it, leases never end for it."""

_Key = TypeVar("_Key")
LARGEST_FILE: Final = 256 * 1024
_REPORT_KEY: Final = "report.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Private keys that reach the thresholds of the key set in force."""

    bundle: Sequence[SigningKey] = field(repr=False)
    certificate: Sequence[SigningKey] = field(repr=False)


class Keyring:
    """The keys of one vendor. Public parts are read at once, private ones when they are needed."""

    def __init__(self, folder: Path, *, passphrase: bytes | None) -> None:
        """Reads and verifies the chain of key sets. Raises :class:`HomeRefused`."""
        self._folder = folder
        self._passphrase = passphrase
        self.versions = _read_chain(folder)

    def __repr__(self) -> str:
        return f"Keyring(version={self.newest.version})"

    @classmethod
    def create(cls, folder: Path, *, passphrase: bytes | None, now: datetime) -> Keyring:
        """New keys and version 1 of the key set."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(folder / _REPORT_KEY, EncryptionKey.generate().to_pem(passphrase), mode=PRIVATE)
        _write_version(folder, 1, previous=(), passphrase=passphrase, now=now)
        return cls(folder, passphrase=passphrase)

    @property
    def newest(self) -> KeySet:
        """The key set in force."""
        return self.versions[-1]

    def version(self, number: int) -> KeySet:
        """One version. Raises :class:`NotKnown`."""
        if not 1 <= number <= len(self.versions):
            raise NotKnown(f"There is no key set version {number}; the newest is {self.newest.version}.")
        return self.versions[number - 1]

    def after(self, number: int) -> list[str]:
        """The signed key sets after version ``number``, in order."""
        return [keys.token for keys in self.versions if keys.version > number]

    def rotate(self, *, now: datetime) -> KeySet:
        """Version n+1 with new keys for every role."""
        previous = self._private("root")
        _write_version(self._folder, self.newest.version + 1, previous=previous, passphrase=self._passphrase, now=now)
        self.versions = _read_chain(self._folder)
        return self.newest

    def reread(self) -> Keyring:
        """The same keys as the disk has them now."""
        return Keyring(self._folder, passphrase=self._passphrase)

    def signers(self) -> Signers:
        """The private keys for bundles, receipts and certificates. Raises :class:`KeysLocked`."""
        return Signers(bundle=self._private("bundle"), certificate=self._private("certificate"))

    def report_key(self) -> EncryptionKey:
        """The private key of usage reports. Raises :class:`KeysLocked`."""
        return self._unlock(self._folder / _REPORT_KEY, EncryptionKey.from_pem)

    def _private(self, role: str) -> list[SigningKey]:
        needed = self.newest.roles[role]
        kids = sorted(needed.kids)[: needed.threshold]
        return [self._unlock(self._folder / f"{kid}.pem", SigningKey.from_pem) for kid in kids]

    def _unlock(self, path: Path, read: Callable[[bytes, bytes | None], _Key]) -> _Key:
        data = read_bounded(path, what="private key", most=LARGEST_FILE)
        if not _is_encrypted(data):
            return read(data, None)
        if self._passphrase is None:
            raise KeysLocked(
                "The vendor's keys are encrypted: give the passphrase with --passphrase-file or LLS_ISSUER_PASSPHRASE."
            )
        try:
            return read(data, self._passphrase)
        except RefusedDocument as refused:
            raise KeysLocked("The passphrase does not open the vendor's keys; nothing was signed.") from refused


def are_encrypted(folder: Path) -> bool:
    """Whether the private keys in ``folder`` need a passphrase; false where there are none."""
    path = folder / _REPORT_KEY
    return path.exists() and _is_encrypted(read_bounded(path, what="private key", most=LARGEST_FILE))


def _is_encrypted(pem: bytes) -> bool:
    return b"ENCRYPTED" in pem.partition(b"\n")[0]


def _read_chain(folder: Path) -> list[KeySet]:
    numbers = sorted(int(path.stem[1:]) for path in folder.glob("v*.llskeys") if path.stem[1:].isdecimal())
    if not numbers:
        raise HomeRefused(f"There is no key set in {folder}; make one with lls-issuer init, or check --home.")
    if numbers != list(range(1, len(numbers) + 1)):
        raise HomeRefused(f"The key sets in {folder} have a gap: there are {', '.join(map(str, numbers))}.")
    chain: list[KeySet] = []
    try:
        for number in numbers:
            token = read_bounded(folder / f"v{number}.llskeys", what="key set", most=LARGEST_FILE)
            chain.append(chain[-1].successor(token) if chain else read_key_set(token))
    except RefusedDocument as refused:
        raise HomeRefused(f"The key set {len(chain) + 1} in {folder} does not verify: {refused.detail}") from refused
    return chain


def _write_version(
    folder: Path, version: int, *, previous: Sequence[SigningKey], passphrase: bytes | None, now: datetime
) -> None:
    made = {role: SigningKey.generate() for role in ROLES}
    for key in made.values():
        write_whole(folder / f"{key.kid}.pem", key.to_pem(passphrase), mode=PRIVATE)
    token = make_key_set(
        version=version,
        expires_at=now.replace(microsecond=0) + LIFE,
        roles={role: Role(threshold=1, kids=frozenset({key.kid})) for role, key in made.items()},
        keys=[key.public_jwk() for key in made.values()],
        signers=[*previous, made["root"]],
    )
    write_whole(folder / f"v{version}.llskeys", token.encode())
