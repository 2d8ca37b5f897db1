"""Ids and activation codes, made from randomness that is passed in.

An id is a prefix and 16 random bytes in base64url (contract, common rules). An activation code is 80 random bits in
Crockford's base32, which has no I, L, O or U: it is read out over the telephone and typed by hand.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final, TypeAlias

Random: TypeAlias = Callable[[int], bytes]
"""How many bytes → that many random bytes; ``secrets.token_bytes`` outside tests."""

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(prefix: str, random: Random) -> str:
    """``new_id("ent", …)`` → ``ent_`` and 22 characters."""
    return f"{prefix}_{base64.urlsafe_b64encode(random(16)).decode().rstrip('=')}"


def new_activation_code(random: Random) -> str:
    """Sixteen characters in four groups, such as ``Y64E-G6QX-56EW-W1BG``."""
    bits = int.from_bytes(random(10))
    letters = "".join(_CROCKFORD[bits >> shift & 31] for shift in range(75, -1, -5))
    return "-".join(letters[at : at + 4] for at in range(0, 16, 4))
