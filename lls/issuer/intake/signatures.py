"""Whether a body comes from who shares the secret: the signature schemes that the sources publish.

| scheme | header | signs |
|---|---|---|
| ``timestamped`` | ``t=UNIX,v1=HEX`` (Stripe's, and ours) | the time, a full stop, the body |
| ``base64`` | base64 of an HMAC-SHA256 (FastSpring, Zuora) | the body |
| ``hex`` | the same in hexadecimal (Maxio, Zuora) | the body |
| ``basic`` | user name and password, RFC 7617 (Zuora) | nothing: only TLS protects the body |

Rules
1. HMAC-SHA256 over the very bytes that came, compared in constant time. Every secret and every signature of the header
   is compared, so that the time taken does not tell which of them was near.
2. Several secrets are good at once, so that one can be changed without losing an event.
3. A timestamp that is further away than the tolerance, in either direction, is refused: an old recording, or a wrong
   clock. What has no timestamp is kept from being replayed by its event id alone.
4. No refusal says what was expected, and no secret has a text form.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from lls.faults import Unauthenticated

_MOST_SIGNATURES: Final = 10
_LONGEST_HEADER: Final = 2_000
_TIME: Final = re.compile(r"[0-9]{1,12}")


class Scheme(StrEnum):
    """How a source proves who it is."""

    TIMESTAMPED = "timestamped"
    BASE64 = "base64"
    HEX = "hex"
    BASIC = "basic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a source must show: the header, and the secrets of which one must fit."""

    scheme: Scheme
    header: str
    secrets: tuple[bytes, ...] = field(repr=False)
    tolerance: timedelta = timedelta(minutes=5)
    username: str = ""

    def check(self, given: str | None, body: bytes, *, now: datetime) -> None:
        """Raises Unauthenticated, unless ``given``, the header's value, proves the body."""
        if given is None or len(given) > _LONGEST_HEADER:
            raise Unauthenticated(f"The header {self.header} is missing, so nobody knows who sent this.")
        match self.scheme:
            case Scheme.TIMESTAMPED:
                self._check_timestamped(given, body, now=now)
            case Scheme.BASIC:
                self._check_basic(given)
            case Scheme.BASE64:
                self._settle(_any_equal((base64.b64encode(mac) for mac in self._macs(body)), [_bytes(given.strip())]))
            case Scheme.HEX:
                self._settle(
                    _any_equal((mac.hex().encode() for mac in self._macs(body)), [_bytes(given.strip().lower())])
                )

    def _check_timestamped(self, given: str, body: bytes, *, now: datetime) -> None:
        parts = [part.strip().partition("=") for part in given.split(",")]
        times = [value for key, _, value in parts if key == "t"]
        signatures = [_bytes(value) for key, _, value in parts if key == "v1"]
        if len(times) != 1 or not _TIME.fullmatch(times[0]) or not 1 <= len(signatures) <= _MOST_SIGNATURES:
            raise Unauthenticated(f"The header {self.header} must look like t=1795244400,v1=HEX.")
        signed = times[0].encode() + b"." + body
        # The signature first: the time is nobody's word until then.
        self._settle(_any_equal((mac.hex().encode() for mac in self._macs(signed)), signatures))
        if abs(int(now.timestamp()) - int(times[0])) > self.tolerance.total_seconds():
            raise Unauthenticated(
                f"The signature was made more than {int(self.tolerance.total_seconds())} seconds before or after now: "
                "an old recording, or one of the two clocks is wrong."
            )

    def _check_basic(self, given: str) -> None:
        scheme, _, encoded = given.strip().partition(" ")
        try:
            credentials = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            credentials = b""
        expected = (self.username.encode() + b":" + secret for secret in self.secrets)
        self._settle(_any_equal(expected, [credentials]) and scheme.lower() == "basic")

    def _macs(self, signed: bytes) -> list[bytes]:
        return [hmac.digest(secret, signed, "sha256") for secret in self.secrets]

    def _settle(self, fits: bool) -> None:  # noqa: FBT001 - the one question
        if not fits:
            raise Unauthenticated(
                f"What the header {self.header} says does not fit the body and any secret configured here."
            )


def _any_equal(expected: Iterable[bytes], given: Sequence[bytes]) -> bool:
    return any([hmac.compare_digest(mine, theirs) for mine in expected for theirs in given])  # noqa: C419 - rule 1


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # header values keep bytes that are no UTF-8 in this form
