"""JWE in compact form for documents that do not fit into memory: ``header.key.iv.ciphertext.tag``, written as it grows.

The same profile as :func:`lls.signed.jose.encrypt` (ECDH-ES+A256KW on P-256, A256GCM), so that any JOSE library opens
the file. joserfc has no streaming, hence the key agreement of RFC 7518 §4.6 by hand; tests open its output with
joserfc and jwcrypto, and the other way round.

Rules
1. The ciphertext is encoded in multiples of three bytes, so that chunks join to one base64url text.
2. A reader gets nothing before the tag was right: the plaintext grows in an unnamed file, which is dropped if it was
   not.

Limits: 2 GiB sealed. AES-GCM allows 64 GiB under one key and IV, and both are new for each file.
"""

from __future__ import annotations

import os
import tempfile
from typing import BinaryIO, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from lls.faults import Refusal, RefusedDocument
from lls.signed.encoding import b64decode, b64encode, malformed, write_json
from lls.signed.jose import CONTENT, KEY_WRAP, EncryptionKey, Jwk, check_sealed_header, jwk_of, p256, thumbprint

MOST_STREAMED: Final = 2**31 - 1
_CHUNK: Final = 3 * 64 * 1024
_MOST_HEAD: Final = 4096
_HEAD_PARTS: Final = 3
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_TAG_LENGTH: Final = 22


class Sink(Protocol):
    """Where bytes go; all that a ZIP archive needs of a file."""

    def write(self, data: bytes, /) -> int:
        """Take all of ``data``."""

    def flush(self) -> None:
        """Pass on what can be passed on."""


class SealedSink:
    """Encrypts to the holder of the private key of ``to`` whatever is written; :meth:`finish` writes the tag."""

    __slots__ = ("_encryptor", "_file", "_rest")

    def __init__(self, file: Sink, *, to: Jwk) -> None:
        recipient = p256(to)
        ephemeral = ec.generate_private_key(ec.SECP256R1())
        header = write_json(
            {
                "alg": KEY_WRAP,
                "enc": CONTENT,
                "kid": thumbprint(jwk_of(recipient)),
                "epk": jwk_of(ephemeral.public_key()),
            }
        )
        content_key, iv = os.urandom(_KEY_BYTES), os.urandom(_IV_BYTES)
        wrapped = aes_key_wrap(_agreed_key(ephemeral, recipient), content_key)
        protected = b64encode(header).encode("ascii")
        self._encryptor = Cipher(algorithms.AES(content_key), modes.GCM(iv)).encryptor()
        self._encryptor.authenticate_additional_data(protected)
        self._file = file
        self._rest = b""
        file.write(b".".join((protected, b64encode(wrapped).encode("ascii"), b64encode(iv).encode("ascii"), b"")))

    def write(self, data: bytes) -> int:
        """Encrypt ``data``; up to two bytes wait for the next write."""
        ready = self._rest + self._encryptor.update(data)
        whole = len(ready) - len(ready) % 3
        self._rest = ready[whole:]
        self._file.write(b64encode(ready[:whole]).encode("ascii"))
        return len(data)

    def flush(self) -> None:
        """Pass on the whole triples; the rest cannot be written yet."""
        self._file.flush()

    def finish(self) -> None:
        """Write the last bytes and the tag; nothing may be written afterwards."""
        last = b64encode(self._rest + self._encryptor.finalize())
        self._file.write(f"{last}.{b64encode(self._encryptor.tag)}".encode("ascii"))


def open_sealed(file: BinaryIO, *, key: EncryptionKey) -> BinaryIO:
    """The plaintext of a sealed ``file`` as an unnamed temporary file at its beginning, which the caller closes.

    Refusals: ``too_large``, ``malformed``, ``decryption``.
    """
    size = file.seek(0, os.SEEK_END)
    if size > MOST_STREAMED:
        raise RefusedDocument(Refusal.TOO_LARGE, f"The file is larger than {MOST_STREAMED} bytes.")
    file.seek(0)
    head = file.read(_MOST_HEAD).split(b".", _HEAD_PARTS)
    if len(head) != _HEAD_PARTS + 1:
        raise malformed("The file is cut off, or is not an encrypted document of a license server.")
    start, end = sum(map(len, head[:_HEAD_PARTS])) + _HEAD_PARTS, size - _TAG_LENGTH - 1
    file.seek(max(end, 0))
    dot_and_tag = file.read(_TAG_LENGTH + 1)
    if end < start or not dot_and_tag.startswith(b"."):
        raise malformed("The encrypted file is cut off.")
    decryptor = _decryptor(head[0], b64decode(head[1]), b64decode(head[2]), b64decode(dot_and_tag[1:]), key)
    plain = tempfile.TemporaryFile()  # noqa: SIM115  # it is the answer; the caller closes it
    try:
        file.seek(start)
        for position in range(start, end, _CHUNK // 3 * 4):
            plain.write(decryptor.update(b64decode(file.read(min(_CHUNK // 3 * 4, end - position)))))
        plain.write(decryptor.finalize())
    except InvalidTag as error:
        plain.close()
        raise RefusedDocument(Refusal.DECRYPTION, "The file was changed on the way, or is not for this key.") from error
    except BaseException:
        plain.close()
        raise
    plain.seek(0)
    return plain


class _Decryptor(Protocol):
    def update(self, data: bytes, /) -> bytes: ...

    def finalize(self) -> bytes: ...


def _decryptor(protected: bytes, wrapped: bytes, iv: bytes, tag: bytes, key: EncryptionKey) -> _Decryptor:
    ephemeral = check_sealed_header(b64decode(protected), key)
    try:
        content_key = aes_key_unwrap(_agreed_key(key.native, ephemeral), wrapped)
    except (InvalidUnwrap, ValueError) as error:
        raise RefusedDocument(Refusal.DECRYPTION, "The file was changed on the way, or is not for this key.") from error
    if len(content_key) != _KEY_BYTES or len(iv) != _IV_BYTES or len(tag) != _TAG_BYTES:
        raise malformed("The encrypted file's key, IV or tag has the wrong length.")
    decryptor = Cipher(algorithms.AES(content_key), modes.GCM(iv, tag)).decryptor()
    decryptor.authenticate_additional_data(protected)
    return decryptor


def _agreed_key(private: ec.EllipticCurvePrivateKey, public: ec.EllipticCurvePublicKey) -> bytes:
    # RFC 7518 §4.6.2: AlgorithmID, PartyUInfo and PartyVInfo (both empty), each with its length; the key's length in
    # bits.
    name = KEY_WRAP.encode("ascii")
    other = len(name).to_bytes(4, "big") + name + bytes(4) + bytes(4) + (_KEY_BYTES * 8).to_bytes(4, "big")
    return ConcatKDFHash(hashes.SHA256(), _KEY_BYTES, other).derive(private.exchange(ec.ECDH(), public))
