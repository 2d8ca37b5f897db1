"""A sealed file opens for whom it is meant, whole; whatever is done to it on the way is noticed."""

from __future__ import annotations

import io
import json

import pytest

from lls.faults import Refusal, RefusedDocument
from lls.signed.jose import EncryptionKey
from lls.signed.vault import PIECE, FileKey, Lock, Opener, ToPassphrase, ToRecipient, VaultReader, VaultWriter

MAGIC = b"TEST-1"
HEAD = {"server_id": "lls_x"}
KEY = EncryptionKey.generate()
PASSPHRASE = ToPassphrase(b"correct horse battery")


def sealed(content: bytes, lock: Lock | None = PASSPHRASE) -> tuple[bytes, FileKey | None]:
    file = io.BytesIO()
    vault = VaultWriter(file, magic=MAGIC, head=HEAD, lock=lock)
    for start in range(0, len(content), 10_000):
        vault.write(content[start : start + 10_000])
    vault.finish()
    return file.getvalue(), vault.key


def read(data: bytes, opener: Opener | None = None) -> bytes:
    vault = VaultReader(io.BytesIO(data), magic=MAGIC)
    if opener is not None:
        vault.unlock(opener)
    return vault.read()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7])
def test_what_was_sealed_comes_out_as_it_went_in(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    data, key = sealed(content, ToRecipient(KEY.public_jwk()))
    assert key is not None
    assert content == read(data, KEY) == read(data, key)
    assert size < 64 or content[:64] not in data


def test_a_passphrase_opens_it_and_no_other_one_does() -> None:
    data, _key = sealed(b"secret")
    assert b"secret" == read(data, PASSPHRASE)
    with pytest.raises(RefusedDocument, match="not the passphrase") as refused:
        read(data, ToPassphrase(b"correct horse batterz"))
    assert Refusal.DECRYPTION is refused.value.reason


def test_a_file_that_is_not_sealed_is_read_as_it_is() -> None:
    data, key = sealed(b"plain" * 100_000, None)
    assert key is None
    assert b"plain" * 100_000 == read(data)


def test_the_head_is_read_without_a_key_and_the_content_is_not() -> None:
    data, _key = sealed(b"secret")
    vault = VaultReader(io.BytesIO(data), magic=MAGIC)
    assert ("lls_x", True, True) == (vault.head["server_id"], vault.is_sealed, vault.wants_passphrase)
    with pytest.raises(RefusedDocument, match="not unlocked"):
        vault.read()


@pytest.mark.parametrize(
    ("lock", "opener", "why"),
    [
        (PASSPHRASE, KEY, "a passphrase"),
        (ToRecipient(KEY.public_jwk()), PASSPHRASE, "private key"),
        (ToRecipient(KEY.public_jwk()), EncryptionKey.generate(), "key|changed"),
    ],
)
def test_another_kind_of_key_or_another_key_does_not_open_it(lock: Lock, opener: Opener, why: str) -> None:
    data, _key = sealed(b"secret", lock)
    with pytest.raises(RefusedDocument, match=why):
        read(data, opener)


def lines_of(data: bytes) -> int:
    return data.index(b"\n", data.index(b"\n") + 1) + 1


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def moved(data: bytes) -> bytes:
    start, piece = lines_of(data), PIECE + 16
    first, second = data[start : start + piece], data[start + piece : start + 2 * piece]
    return data[:start] + second + first + data[start + 2 * piece :]


def left_out(data: bytes) -> bytes:
    start = lines_of(data)
    return data[:start] + data[start + PIECE + 16 :]


def other_head(data: bytes) -> bytes:
    first, second, rest = data.split(b"\n", 2)
    return b"\n".join((first, json.dumps(json.loads(second) | {"server_id": "lls_y"}).encode(), rest))


@pytest.mark.parametrize(
    "attack",
    [
        lambda data: flipped(data, len(data) - 1),
        lambda data: flipped(data, lines_of(data)),
        lambda data: flipped(data, lines_of(data) + PIECE + 20),
        lambda data: data[:-1],
        lambda data: data[: lines_of(data) + PIECE + 16],
        lambda data: data[: lines_of(data) + 2 * (PIECE + 16)],
        lambda data: data[: lines_of(data)],
        lambda data: data + b"\0" * 40,
        moved,
        left_out,
        other_head,
    ],
    ids=[
        "last",
        "first",
        "second piece",
        "cut",
        "one piece",
        "two pieces",
        "none",
        "more",
        "moved",
        "left out",
        "head",
    ],
)
def test_whatever_is_done_to_it_on_the_way_is_noticed(attack: object) -> None:
    assert callable(attack)
    data, key = sealed(b"x" * (2 * PIECE + 100))
    assert key is not None
    with pytest.raises(RefusedDocument) as refused:
        read(attack(data), key)
    assert Refusal.DECRYPTION is refused.value.reason


@pytest.mark.parametrize("asked", [{"n": 2**30}, {"n": 3}, {"r": 1_000}, {"p": 1_000}, {"salt": 7}, {"key": "AAAA"}])
def test_a_strangers_head_cannot_ask_for_more_work_than_ours(asked: dict[str, object]) -> None:
    data, _key = sealed(b"secret")
    first, second, rest = data.split(b"\n", 2)
    head = json.loads(second)
    head["sealed"] |= asked
    with pytest.raises(RefusedDocument):
        read(b"\n".join((first, json.dumps(head).encode(), rest)), PASSPHRASE)


def test_something_else_is_no_backup() -> None:
    for data in (b"", b"PK\3\4", MAGIC, MAGIC + b"\n", MAGIC + b"\n{}", MAGIC + b"\nno json\n"):
        with pytest.raises(RefusedDocument):
            read(data)
