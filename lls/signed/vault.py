"""A file sealed in pieces: of any size, in bounded memory, to a passphrase or to somebody's public key.

The form (decision 0020): a magic line, a line of JSON (the head), then pieces. Each piece is 64 KiB of plaintext, the
last one shorter, sealed by AES-256-GCM under a key that is made for this file alone. A piece's nonce is its number and
whether it is the last; its additional data is the SHA-256 of both lines. So a piece that was changed, moved, left out
or taken from another file is noticed, and a file that was cut off, too; and the head cannot be exchanged.

The file's key stands in the head: wrapped (RFC 3394) under a key that scrypt (RFC 7914) makes of the passphrase, or as
a JWE to the recipient's P-256 key. A file that is not sealed has the same two lines and then its content as it is.

Rules
1. A piece is handed out only after its tag was right.
2. What the head asks of a reader is bounded: a stranger may have written it. scrypt takes at most 256 MiB.
3. Passphrases come as bytes and are not kept.

It refuses to own what is inside (``lls.backup``). JWE alone (``stream``) ends at 64 GiB and hands nothing out before
its one tag at the end; a backup may be large, and its reader has little room.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import Fields
from lls.signed.encoding import Json, b64decode, b64encode, malformed, read_json, write_json
from lls.signed.jose import EncryptionKey, Jwk, decrypt, encrypt, public_key_pem

PIECE: Final = 64 * 1024
SHORTEST_PASSPHRASE: Final = 12
LONGEST_PASSPHRASE: Final = 1024
_MOST_HEAD: Final = 64 * 1024
_TAG: Final = 16
_KEY: Final = 32
_SALT: Final = 16
_SCRYPT: Final = {"n": 2**17, "r": 8, "p": 1}
_MOST_N: Final = 2**18
_R_AND_P: Final = (8, 1)
_PASSPHRASE: Final = "passphrase"  # noqa: S105 - a word of the format
_RECIPIENT: Final = "recipient"


@dataclass(frozen=True, slots=True)
class ToPassphrase:
    """Whoever knows it opens the file."""

    passphrase: bytes

    def __repr__(self) -> str:
        """Without it."""
        return "ToPassphrase(…)"


@dataclass(frozen=True, slots=True)
class ToRecipient:
    """Whoever has the private key of this public one opens it."""

    jwk: Jwk


Lock = ToPassphrase | ToRecipient


class FileKey:
    """The key of one file: what it was sealed with, kept for reading it back."""

    __slots__ = ("bytes",)

    def __init__(self, key: bytes) -> None:
        self.bytes = key


Opener = ToPassphrase | EncryptionKey | FileKey


def recipient_of(pem: bytes) -> ToRecipient:
    """A public P-256 key in PEM. Refusal: ``malformed``."""
    key = public_key_pem(pem)
    if key.jwk.get("crv") != "P-256":
        raise malformed("The recipient's key must be P-256.")
    return ToRecipient(key.jwk)


class VaultWriter(io.RawIOBase):
    """Writes the lines, then seals what is written; :meth:`finish` writes the last piece. ``key`` None: not sealed."""

    def __init__(self, file: BinaryIO, *, magic: bytes, head: Mapping[str, object], lock: Lock | None) -> None:
        super().__init__()
        self.key = None if lock is None else FileKey(os.urandom(_KEY))
        lines = magic + b"\n" + write_json({**head, "sealed": self._sealed(lock)}) + b"\n"
        file.write(lines)
        self._file, self._rest, self._count = file, bytearray(), 0
        self._pieces = None if self.key is None else _Pieces(self.key.bytes, lines)

    def _sealed(self, lock: Lock | None) -> Json | None:
        if lock is None or self.key is None:
            return None
        if isinstance(lock, ToRecipient):
            return {"to": _RECIPIENT, "key": encrypt(self.key.bytes, to=lock.jwk)}
        salt = os.urandom(_SALT)
        wrapped = aes_key_wrap(_stretched(lock.passphrase, salt, _SCRYPT["n"]), self.key.bytes)
        return {"to": _PASSPHRASE, "salt": b64encode(salt), **_SCRYPT, "key": b64encode(wrapped)}

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override] # any buffer
        """Take all of it."""
        if self._pieces is None:
            self._file.write(data)
            return len(data)
        self._rest += data
        while len(self._rest) > PIECE:  # more than one piece: the last one is known by its being the last
            self._file.write(self._pieces.sealed(bytes(self._rest[:PIECE]), last=False))
            del self._rest[:PIECE]
        return len(data)

    def finish(self) -> None:
        """Nothing may be written afterwards."""
        if self._pieces is not None:
            self._file.write(self._pieces.sealed(bytes(self._rest), last=True))
            self._rest.clear()


class VaultReader(io.RawIOBase):
    """Reads the lines at once, and the content after :meth:`unlock`."""

    def __init__(self, file: BinaryIO, *, magic: bytes) -> None:
        super().__init__()
        first = file.readline(len(magic) + 1)
        second = file.readline(_MOST_HEAD)
        if first != magic + b"\n" or not second.endswith(b"\n"):
            raise malformed("The file is no backup of a license server.")
        self.head = read_json(second[:-1], most=_MOST_HEAD)
        self._lines, self._file, self._ready = first + second, file, b""
        self._pieces: _Pieces | None = None
        self._next: bytes | None = None
        self._unlocked = not self.is_sealed

    @property
    def is_sealed(self) -> bool:
        """Whether it takes a key."""
        return self.head.get("sealed") is not None

    @property
    def wants_passphrase(self) -> bool:
        """Whether it is a passphrase that it takes."""
        return self.is_sealed and self._how().text("to") == _PASSPHRASE

    def _how(self) -> Fields:
        return Fields(self.head, place="backup").object("sealed")

    def unlock(self, opener: Opener) -> None:
        """Refusals: ``decryption`` (another key or passphrase), ``malformed``."""
        self._pieces = _Pieces(self._key_by(opener), self._lines)
        self._next = self._file.read(PIECE + _TAG)
        self._unlocked = True

    def _key_by(self, opener: Opener) -> bytes:
        if isinstance(opener, FileKey):
            return opener.bytes
        how = self._how()
        to, key = how.text("to"), how.text("key", most=_MOST_HEAD)
        if to == _RECIPIENT and isinstance(opener, EncryptionKey):
            return _of_length(decrypt(key, key=opener))
        if to == _PASSPHRASE and isinstance(opener, ToPassphrase):
            n = how.integer("n", least=2, most=_MOST_N)
            if (how.integer("r"), how.integer("p")) != _R_AND_P or n & (n - 1):
                raise malformed("The backup's passphrase is stretched in a way that this program does not know.")
            wrapping = _stretched(opener.passphrase, b64decode(how.text("salt").encode()), n)
            try:
                return _of_length(aes_key_unwrap(wrapping, b64decode(key.encode())))
            except (InvalidUnwrap, ValueError) as error:
                raise RefusedDocument(Refusal.DECRYPTION, "This is not the passphrase of the backup.") from error
        wanted = "a passphrase" if to == _PASSPHRASE else "the recipient's private key"
        raise RefusedDocument(Refusal.DECRYPTION, f"The backup is sealed: it opens with {wanted}.")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override] # any buffer
        """The next bytes. Refusals: ``decryption``, ``malformed``."""
        if not self._unlocked:
            raise RefusedDocument(Refusal.DECRYPTION, "The backup is sealed and was not unlocked.")
        if self._pieces is None:
            read = self._file.read(len(buffer))
            buffer[: len(read)] = read
            return len(read)
        while not self._ready and self._next is not None:
            this, following = self._next, self._file.read(PIECE + _TAG)
            self._ready = self._pieces.opened(this, last=not following)
            self._next = following or None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


class _Pieces:
    """The pieces of one file, in their order."""

    def __init__(self, key: bytes, lines: bytes) -> None:
        self._cipher = AESGCM(key)
        self._bound = hashlib.sha256(lines).digest()
        self._count = 0

    def sealed(self, piece: bytes, *, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(last=last), piece, self._bound)

    def opened(self, piece: bytes, *, last: bool) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(last=last), piece, self._bound)
        except (InvalidTag, ValueError) as error:
            sentence = "The backup was changed or cut off after it was made."
            raise RefusedDocument(Refusal.DECRYPTION, sentence) from error

    def _nonce(self, *, last: bool) -> bytes:
        self._count += 1
        return self._count.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _stretched(passphrase: bytes, salt: bytes, n: int) -> bytes:
    r, p = _R_AND_P
    return Scrypt(salt=salt, length=_KEY, n=n, r=r, p=p).derive(passphrase)


def _of_length(key: bytes) -> bytes:
    if len(key) != _KEY:
        raise malformed("The backup's key has the wrong length.")
    return key
