"""Who may speak: bearer secrets of leases, peers of the admin socket, and the limit on those who fail.

Rules
1. A lease's secret is 32 bytes in base64url (43 characters) behind ``Bearer``; only its SHA-256 goes further.
2. On the admin socket the kernel says who connects (``SO_PEERCRED``): root, the daemon's own user, or a member of the
   named group. Nothing that the peer sends is believed.
3. Failures are limited per client address, nothing else (contract §2: terminal servers and NAT): malformed requests,
   missing or malformed credentials, and by themselves wrong activation codes. When an address has failed too often, its
   failures are answered ``too_many_requests``. After too many wrong codes so is every checkout with an activation code,
   right or wrong, since an answer would be one more guess; malformed requests do not lead to that, or one broken
   program would lock out whoever shares its address. Leases that are held go on: a secret of 256 bits cannot be
   guessed, and one broken client behind a terminal server must not throw out the others.

Limits: an unknown lease does not count, because after a restore a whole site meets it at once. Addresses behind a proxy
are the proxy's. IPv6 is counted by /64, which is what one client has.
"""

from __future__ import annotations

import grp
import ipaddress
import math
import os
import pwd
import re
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from lls.api.wire import SECRET_PATTERN, secret_digest
from lls.faults import Forbidden, TooManyRequests, Unauthenticated

COUNTED: Final = frozenset(
    {"bad_request", "unauthenticated", "bad_activation_code", "too_large", "unsupported_media_type", "timeout"}
)
"""The codes that use up an address's allowance."""

MOST_ADDRESSES: Final = 10_000
MINUTE_SECONDS: Final = 60.0

_BEARER = re.compile(f"(?i:bearer) +({SECRET_PATTERN[1:]})")
_PEER = struct.Struct("3i")


def bearer(request: web.Request) -> bytes:
    """The digest of the lease secret that came with a request. Raises Unauthenticated."""
    found = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    if found is None:
        raise Unauthenticated("Send the lease's secret as Authorization: Bearer, 32 bytes in base64url.")
    return secret_digest(found[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of the admin socket."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The account's name, or its number where there is none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid:{self.uid}"

    def belongs_to(self, group: str) -> bool:
        """Whether the account is in that group, as its first or another one."""
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            return False
        return gid in (self.gid, *os.getgrouplist(self.name, self.gid))


def peer(request: web.Request) -> Peer:
    """The kernel's word for who connected. Raises Forbidden where there is none (not a UNIX socket)."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is None or connection.family != socket.AF_UNIX:
        raise Forbidden("Administration is answered on the admin socket.")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _pid, uid, gid = _PEER.unpack(credentials)
    return Peer(uid=uid, gid=gid)


def administrator(request: web.Request, *, group: str) -> str:
    """The name of an administrator on the admin socket. Raises Forbidden."""
    who = peer(request)
    if who.uid not in (0, os.geteuid()) and not who.belongs_to(group):
        raise Forbidden(f"Administration is for root and the group {group}; act as one of them.")
    return who.name


class FailureLimit:
    """A bucket of failures per client address, refilled evenly; ``elapsed`` are seconds that never go back.

    Memory is bounded: with more than ``MOST_ADDRESSES`` the one that failed longest ago is forgotten.
    """

    def __init__(self, *, per_minute: int) -> None:
        self._most = float(per_minute)
        self._each_second = per_minute / MINUTE_SECONDS
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str, *, elapsed: float) -> None:
        """Whether one more failure would be allowed now. Raises TooManyRequests."""
        left = self._now_left(address, elapsed)
        if left < 1:
            wait = max(1, math.ceil((1 - left) / self._each_second))
            raise TooManyRequests(retry_after_seconds=wait)

    def fail(self, address: str, *, elapsed: float) -> None:
        """Count a failure. Raises TooManyRequests when there were too many already."""
        self.check(address, elapsed=elapsed)
        key = counted_as(address)
        self._left[key] = self._now_left(address, elapsed) - 1, elapsed
        self._left.move_to_end(key)
        if len(self._left) > MOST_ADDRESSES:
            self._left.popitem(last=False)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._left)

    def _now_left(self, address: str, elapsed: float) -> float:
        left, at = self._left.get(counted_as(address), (self._most, elapsed))
        return min(self._most, left + (elapsed - at) * self._each_second)


def counted_as(address: str) -> str:
    """The address that failures are counted under: IPv6 by /64, an IPv4 address in IPv6 clothes as itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.IPv6Network((int(parsed), 64), strict=False).network_address)
