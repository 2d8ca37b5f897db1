"""Passwords, second factors and tokens: made, hashed and compared. The only home of argon2 and pyotp.

Rules
1. A password is kept as argon2id (RFC 9106), in its own form with its own parameters: 64 MiB, three passes, one lane.
2. Hashing runs in a thread, one at a time, and few may wait for it: however many strangers knock, logins cost 64 MiB
   and one core, and the loop goes on. Who finds too many waiting is told ``overloaded`` at once. A caller who hangs up
   does not free its place before its hash is done.
3. Where there is no hash to compare with, another one is compared: who is not there takes as long as who is.
4. A one-time code (RFC 6238) is the step before, this one or the next, and a step counts once.
5. Tokens are 32 random bytes in base64url; their SHA-256 alone is kept. They need no slow hash: nobody guesses them.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import unicodedata
from base64 import b32decode
from binascii import Error as Base32Error
from collections.abc import Callable
from typing import Final, TypeVar

import pyotp
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from lls.faults import BadRequest, Overloaded

T = TypeVar("T")

MEMORY_KIB: Final = 65_536
PASSES: Final = 3
MOST_WAITING: Final = 8
LEAST_PASSWORD: Final = 12
MOST_PASSWORD: Final = 256
STEP_SECONDS: Final = 30
TOKEN_BYTES: Final = 32
KEY_PREFIX: Final = "llsk_"
INVITE_PREFIX: Final = "llsi_"
_LEAST_SECRET: Final = 20  # bytes; RFC 4226 §4 asks for 16 and recommends 20


class Passwords:
    """Rules 1 to 3."""

    def __init__(self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
        self._turn = asyncio.Semaphore(1)
        self._under_way: set[asyncio.Task[object]] = set()
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """A password that was judged, as it is kept. Raises Overloaded."""
        return await self._in_turn(lambda: self._hasher.hash(_normal(password)))

    async def fits(self, kept: str | None, password: str) -> bool:
        """Whether it is the password behind a hash; never behind None. Raises Overloaded."""
        return await self._in_turn(lambda: self._compare(kept, _normal(password)))

    def _compare(self, kept: str | None, password: str) -> bool:
        if self._nobody is None:
            self._nobody = self._hasher.hash(secrets.token_hex(16))
        try:
            self._hasher.verify(kept or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return kept is not None

    async def _in_turn(self, work: Callable[[], T]) -> T:
        if len(self._under_way) >= MOST_WAITING:
            raise Overloaded("Too many logins wait; try again shortly.", retry_after_seconds=2)
        task = asyncio.get_running_loop().create_task(self._run(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._turn:
            return await asyncio.to_thread(work)


def judge_password(password: str, *, user: str) -> None:
    """Whether it may be chosen. Raises BadRequest.

    NIST SP 800-63B: length counts, composition does not.
    """
    normal = _normal(password)
    if not LEAST_PASSWORD <= len(normal) <= MOST_PASSWORD:
        raise BadRequest(f"A password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters.")
    if len(set(normal.casefold())) < LEAST_PASSWORD // 2 or user in normal.casefold():
        raise BadRequest("That password is too easy to guess: use more different characters, and not the user's name.")


def _normal(password: str) -> str:
    """One password for each way of typing it (RFC 8265 §4.2)."""
    return unicodedata.normalize("NFC", password)


def new_secret() -> str:
    """A shared secret for one-time codes, in base32."""
    return pyotp.random_base32()


def enrolment(user: str, secret: str, *, server: str) -> str:
    """What an authenticator reads: an ``otpauth`` URI."""
    return pyotp.TOTP(secret).provisioning_uri(name=user, issuer_name=f"LLS {server}")


def is_secret(secret: str) -> bool:
    """Whether it is a shared secret of a length that holds."""
    try:
        return len(b32decode(secret)) >= _LEAST_SECRET
    except (Base32Error, ValueError):
        return False


def step_of(secret: str, code: str, *, seconds: float) -> int | None:
    """Rule 4: which step's code that is at that time (Unix seconds); None if it is none."""
    totp, now = pyotp.TOTP(secret, interval=STEP_SECONDS), int(seconds) // STEP_SECONDS
    fitting = [step for step in (now - 1, now, now + 1) if step > 0 and _same(totp.at(step * STEP_SECONDS), code)]
    return max(fitting, default=None)


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode())


def new_token(prefix: str = "") -> str:
    """Rule 5: a session's id, an API key, a one-time token."""
    return prefix + secrets.token_urlsafe(TOKEN_BYTES)


def new_key_id() -> str:
    """What a key is called in lists and in the journal."""
    return f"key_{secrets.token_urlsafe(16)}"


def digest(token: str) -> bytes:
    """What is kept of a token. One that came in a header may hold any bytes (PEP 383)."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
