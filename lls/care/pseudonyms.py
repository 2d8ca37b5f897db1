"""Names and secrets taken out of texts, so that they may be shown to a stranger.

Rules
1. The same name is the same pseudonym within one bundle, and another one in the next: support sees that one person
   holds five seats, and can lay no two bundles side by side. The key is thrown away.
2. A field that holds names is replaced whole. In every other text each word that is a known name is replaced, whatever
   its case, and names that are no single word wherever they stand.
3. Secrets are removed: what reads like one (:func:`lls.telemetry.redacted`), and the activation codes that are known.
4. Home directories lose their owner, addresses of clients are names.

Limits: a name of one or two letters is replaced in fields only, since texts are full of them; so are words that this
server itself writes. A name that the server has never seen is known to nobody.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from lls.telemetry import REMOVED, redacted

SHORTEST: Final = 3
NAME_FIELDS: Final = frozenset(
    {
        *("user", "host", "seat_id", "seat_name", "process", "address", "actor", "by", "renamed"),
        *("named_users", "assigned", "smtp_from", "smtp_to", "smtp_user"),
    }
)
OUR_WORDS: Final = frozenset(
    {"root", "lls", "admin", "start", "sighup", "info", "warning", "error", "debug", "time", "server"}
)

_WORD: Final = re.compile(r"[^\W_][\w.@$+-]*")
_HOME: Final = re.compile(r"(/home/|/Users/|\\Users\\)[^/\\\s\"']+")
_CODE: Final = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")


class Pseudonyms:
    """What stands for what, in one bundle. ``names`` are ``(field, value)``; ``codes`` activation codes."""

    def __init__(self, key: bytes, *, names: Iterable[tuple[str, str]] = (), codes: Collection[str] = ()) -> None:
        self._key = key
        self._words: dict[str, str] = {}
        self._phrases: dict[str, str] = {}
        self._codes = frozenset(map(_folded, codes))
        for field, value in names:
            self.know(field, value)

    def know(self, field: str, value: str) -> None:
        """One more name."""
        folded = value.casefold()
        if len(value) < SHORTEST or folded in OUR_WORDS:
            return
        place = self._words if _WORD.fullmatch(value) else self._phrases
        place.setdefault(folded, self.of(field, value))

    def of(self, field: str, value: str) -> str:
        """What stands for a name; the same name in another field is the same person."""
        digest = hmac.digest(self._key, value.casefold().encode("utf-8", "surrogatepass"), "sha256").hex()
        return f"[{field} {digest[:8]}]"

    def text(self, text: str) -> str:
        """A text without names and secrets."""
        text = redacted(text)
        if self._codes:
            text = _CODE.sub(lambda found: REMOVED if _folded(found[0]) in self._codes else found[0], text)
        text = _HOME.sub(lambda found: f"{found[1]}[user]", text)
        if self._phrases:
            text = self._without_phrases(text)
        return _WORD.sub(self._word, text)

    def tree(self, value: object, *, field: str = "") -> object:
        """A JSON value without them."""
        if isinstance(value, Mapping):
            return {str(key): self.tree(one, field=str(key)) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(one, field=field) for one in value]
        if isinstance(value, str):
            return self.of(field, value) if field in NAME_FIELDS and value else self.text(value)
        return value

    def _without_phrases(self, text: str) -> str:
        folded = text.casefold()
        for phrase, stand_in in self._phrases.items():
            if phrase in folded:
                text = re.sub(re.escape(phrase), lambda _found, by=stand_in: by, text, flags=re.IGNORECASE)  # type: ignore[misc]
        return text

    def _word(self, found: re.Match[str]) -> str:
        word = found[0]
        bare = word.rstrip(".-+$@")
        stand_in = self._words.get(word.casefold()) or self._words.get(bare.casefold())
        if stand_in is not None:
            return stand_in + ("" if self._words.get(word.casefold()) else word[len(bare) :])
        for mark in ("@", "."):
            if mark in word:
                return mark.join(_WORD.sub(self._word, part) for part in word.split(mark))
        return word


def _folded(code: str) -> str:
    return code.replace("-", "").upper()
