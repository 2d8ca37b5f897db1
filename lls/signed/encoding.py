"""Strict JSON and base64url: what a signed document is made of before anybody asks what it says.

Rules, in order
1. Text is UTF-8; a member appears once (RFC 7515 §4 leaves the choice to us, and two readers that choose differently
   are an attack).
2. Numbers are finite; integers are within ±(2⁵³ − 1), the range in which every JSON reader agrees (RFC 8259 §6).
3. Nesting is at most 32 deep; no text carries half a surrogate pair or a NUL, which no store could keep.
4. base64url is canonical and without padding: one value has one spelling.
5. Before a reader builds anything, the commas and opening brackets are counted: each becomes an object of some 64 bytes
   and a microsecond, and a file that is nothing else would hold the whole process.

Refuses to own: the types and ranges of members (:class:`lls.licensing.fields.Fields`).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from typing import Final, NoReturn, TypeAlias

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import LARGEST

Json: TypeAlias = dict[str, object]

MOST_DEPTH: Final = 32
MOST_STRUCTURE: Final = 4_000_000
"""Commas and opening brackets in one document. The densest part of a bundle is a feature: 140 bytes, 11 of them. A
bundle of 64 MiB, twice in base64url, holds 36 MiB of JSON, so no genuine one has more than 3,000,000."""
_MOST_DIGITS: Final = 17
_BASE64URL: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_HASH = re.compile(r"[0-9a-f]{64}")


def read_json(data: bytes, *, most: int = MOST_STRUCTURE) -> Json:
    """The JSON object in ``data``; ``malformed`` where it breaks rules 1 to 3, ``too_large`` by rule 5 (``most``)."""
    if sum(map(data.count, (b",", b"[", b"{"))) > most:
        raise RefusedDocument(Refusal.TOO_LARGE, f"The document has more than {most:,} members.")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except (ValueError, RecursionError) as error:
        raise malformed("The document is not valid JSON in UTF-8.") from error
    if not isinstance(value, dict):
        raise malformed("The document is not a JSON object.")
    _check_depth_and_texts(value)
    return value


def write_json(value: Mapping[str, object]) -> bytes:
    """Compact UTF-8 JSON in the order of the mapping; the same mapping gives the same bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def b64encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64decode(data: bytes) -> bytes:
    """The bytes that canonical base64url spells; the standard library would skip foreign characters and stray bits."""
    if data.translate(None, _BASE64URL):
        raise malformed("The document holds characters that are not base64url.")
    try:
        decoded = base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))
    except binascii.Error as error:
        raise malformed("The document is cut off or is not base64url.") from error
    # Only what is left over from whole groups of four can have two spellings.
    over = len(data) % 4
    if over and b64encode(decoded[1 - over :]).encode("ascii") != data[-over:]:
        raise malformed("The document is not canonical base64url.")
    return decoded


def required(document: Mapping[str, object], *names: str) -> None:
    """``malformed`` unless every member that the contract names is there, if only as null."""
    for name in names:
        if name not in document:
            raise malformed(f"The member {name!r} is missing.")


def members(document: Mapping[str, object], name: str) -> Json:
    """A member that is an object, as it came."""
    value = document.get(name)
    if not isinstance(value, dict):
        raise malformed(f"The member {name!r} must be an object.")
    return value


def texts(document: Mapping[str, object], name: str, *, most: int = 64) -> dict[str, str]:
    """A member that maps at most ``most`` names to texts of at most 200 characters."""
    value = members(document, name)
    found = {key: item for key, item in value.items() if isinstance(item, str) and len(key) + len(item) <= _MOST_TEXT}
    if len(found) != len(value) or len(value) > most:
        raise malformed(f"The member {name!r} must map at most {most} names to short texts.")
    return found


def hash_text(document: Mapping[str, object], name: str) -> str:
    """A SHA-256 in 64 lower-case hexadecimal digits."""
    value = document.get(name)
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise malformed(f"The member {name!r} must be a SHA-256 in 64 hexadecimal digits.")
    return value


def malformed(sentence: str) -> RefusedDocument:
    """The refusal of a document that is not of its form."""
    return RefusedDocument(Refusal.MALFORMED, sentence)


_MOST_TEXT: Final = 300


def _members(pairs: list[tuple[str, object]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise malformed("The document names a member twice.")
    return found


def _integer(digits: str) -> int:
    # The length first: int() of a million digits is quadratic, and Python refuses it with an error of its own.
    if len(digits) > _MOST_DIGITS or abs(value := int(digits)) > LARGEST:
        raise malformed("The document holds an integer beyond 2^53 - 1.")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise malformed("The document holds a number that is too large.")
    return value


def _constant(name: str) -> NoReturn:
    raise malformed(f"The document holds {name}, which is not JSON.")


def _check_depth_and_texts(value: Json) -> None:
    # Level by level instead of by recursion: the depth is the attacker's choice.
    level: list[object] = [value]
    for _ in range(MOST_DEPTH):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str) and not _can_be_kept(item):
                raise malformed("The document holds a text with a NUL or half a character.")
        if not below:
            return
        level = below
    raise malformed(f"The document is nested more than {MOST_DEPTH} deep.")


def _can_be_kept(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in value
