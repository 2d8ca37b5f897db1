"""What may stand in a borrow request: judged on the spot, because a refusal would come back days later, by hand.

1. A product, feature or edition is a key: 1 to 50 of ``A-Z a-z 0-9 . _ -``.
2. A feature is asked for in whole units, from 1 to a million; at most 100 features.
3. A day is written ``2026-11-21``; every other word is printable, and no longer than a server takes it.

``BadSetup`` with one sentence otherwise. Refuses to own: whether a server has such a product or feature, and the end,
which is a question of time (``borrowing``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date

from .errors import BadSetup

MOST_UNITS = 1_000_000

_KEY = re.compile(r"[A-Za-z0-9._-]{1,50}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOST_FEATURES = 100
_LONGEST = {"seat_id": 100, "version": 50}
_LONGEST_WORD = 200


def require_product(product: str) -> None:
    """Rule 1."""
    _require_key("The product", product)


def require_wishes(asked: Mapping[str, object]) -> None:
    """The members of a request that say who asks and for what; absent ones are not wished for."""
    for name, one in asked.items():
        if name == "features":
            _require_features(one)
        elif name == "edition":
            _require_key("The edition", one)
        elif name == "released_on":
            require_day(one)
        elif name == "holder" and isinstance(one, dict):
            for member, word in one.items():
                _require_word(f"The holder's {member}", word, most=_LONGEST.get(member, _LONGEST_WORD))
        elif name == "version":
            _require_word("The version", one, most=_LONGEST["version"])


def require_code(code: str | None) -> None:
    """An activation code, or none. The sentence does not repeat it."""
    if code is not None:
        _require_word("The activation code", code, most=_LONGEST_WORD)


def require_feature(key: object, amount: object) -> None:
    """Rules 1 and 2 for one feature."""
    _require_key("A feature", key)
    if isinstance(amount, bool) or not isinstance(amount, int) or not 1 <= amount <= MOST_UNITS:
        raise BadSetup(f"Of {key} 1 to {MOST_UNITS} units can be asked for.")


def require_day(day: object) -> None:
    """Rule 3."""
    if not isinstance(day, str) or not _DAY.fullmatch(day) or not _exists(day):
        raise BadSetup(f"{_shown(day)} is not a day such as 2026-11-21.")


def _exists(day: str) -> bool:
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return True


def _require_features(asked: object) -> None:
    if not isinstance(asked, dict) or len(asked) > _MOST_FEATURES:
        raise BadSetup(f"At most {_MOST_FEATURES} features can be asked for, each as a key and a number.")
    for key, amount in asked.items():
        require_feature(key, amount)


def _require_key(what: str, key: object) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise BadSetup(f"{what} is named by its key, 1 to 50 of A-Z a-z 0-9 . _ -; {_shown(key)} is none.")


def _require_word(what: str, word: object, *, most: int) -> None:
    if not isinstance(word, str) or not 1 <= len(word) <= most or not word.isprintable():
        raise BadSetup(f"{what} must be a printable text of 1 to {most} characters.")


def _shown(word: object) -> str:
    """Short, and harmless on a terminal."""
    text = ascii(word)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004  (a line's worth)
