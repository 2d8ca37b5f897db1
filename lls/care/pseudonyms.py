"""Names and secrets taken out of texts, so that they may be shown to a stranger.

Rules
1. The same name is the same pseudonym within one bundle, and another one in the next: support sees that one person
   holds five seats, and can lay no two bundles side by side. The key is thrown away.
2. A field that holds names is replaced whole. In every other text each word that is a known name is replaced, whatever
   its case, and names that are no single word wherever they stand, also as a line of the log writes them in quotes.
   However many names are known, a text costs what its length costs: applications choose names, as many as they like.
3. Secrets are removed: what reads like one (:func:`lls.telemetry.redacted`), and the activation codes that are known.
4. Home directories lose their owner, addresses of clients are names.

Limits: a name of one or two letters is replaced in fields only, since texts are full of them; so are words that this
server itself writes. A name that the server has never seen is known to nobody.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from lls.telemetry import REMOVED, redacted

SHORTEST: Final = 3
NAME_FIELDS: Final = frozenset(
    {
        *("user", "host", "seat_id", "seat_name", "process", "address", "actor", "by", "renamed"),
        *("named_users", "assigned", "smtp_from", "smtp_to", "smtp_user", "smtp_server", "syslog"),
        *("allow", "trusted_proxies"),
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
        self._lengths: dict[str, set[int]] = {}
        """How long the phrases are that begin with these three letters."""
        self._codes = frozenset(map(_folded, codes))
        for field, value in names:
            self.know(field, value)

    def know(self, field: str, value: str) -> None:
        """One more name."""
        folded = value.casefold()
        if len(value) < SHORTEST or folded in OUR_WORDS:
            return
        stand_in = self.of(field, value)
        if _WORD.fullmatch(value):
            self._words.setdefault(folded, stand_in)
            return
        for phrase in (folded, json.dumps(value, ensure_ascii=False)[1:-1].casefold()):
            self._phrases.setdefault(phrase, stand_in)
            self._lengths.setdefault(phrase[:SHORTEST], set()).add(len(phrase))

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
        # One letter may fold to several ("ß"): where each folded one stands in the text.
        places: Sequence[int] = range(len(text) + 1)
        if len(folded) != len(text):
            places = [*(place for place, letter in enumerate(text) for _ in letter.casefold()), len(text)]
        pieces, done, at = list[str](), 0, 0
        while at < len(folded):
            length = self._phrase_at(folded, at)
            if length:
                pieces += (text[places[done] : places[at]], self._phrases[folded[at : at + length]])
                done = at + length
            at += length or 1
        return "".join((*pieces, text[places[done] :]))

    def _phrase_at(self, folded: str, at: int) -> int:
        """The length of the longest phrase that stands there; 0 if none does."""
        lengths = self._lengths.get(folded[at : at + SHORTEST], ())
        fits = (length for length in lengths if length <= len(folded) - at)
        return max((length for length in fits if folded[at : at + length] in self._phrases), default=0)

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
