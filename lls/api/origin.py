"""Where a request comes from: the client's address behind trusted proxies, and whether its way was encrypted.

Rules
1. An address in a header is believed only when the connection comes from a network of ``access.trusted_proxies``, and
   only in the one header that ``access.forwarded_header`` names: a proxy that writes one of them passes the other on as
   the client sent it.
2. The list is read from the right, over all headers of that name: each hop that is itself a trusted proxy vouches for
   the one before it. The first that is not trusted is the client; whatever stands to its left, the client has written.
3. What is no address ends the walk: the request then counts as the last proxy's own.
4. A way is *private* when it is TLS to us; from a trusted proxy, when every scheme that the trusted hops name is https;
   else when it does not leave this machine. What a proxy passes on from a loopback address is not private by that.
5. Without trusted proxies nothing of a header is looked at.

Limits: a client certificate that a proxy has seen is not accepted from a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from aiohttp import web

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

MOST_HOPS: Final = 32


class ForwardedHeader(StrEnum):
    """Which header the site's proxies write."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One entry of the list: what it says of the address before it, and of the scheme; empty where it says nothing."""

    address: str
    scheme: str


class Networks:
    """A list of networks, as it stands in the settings."""

    def __init__(self, written: Iterable[str]) -> None:
        self._networks = tuple(ip_network(one) for one in written)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._networks)

    def hold(self, address: str) -> bool:
        """Whether the address is in one of them; what is no address is in none."""
        parsed = parsed_address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


NO_NETWORKS: Final = Networks(())


class Origin:
    """Rules 1 to 5 for one server."""

    def __init__(self, *, proxies: Networks, header: ForwardedHeader) -> None:
        self._proxies, self._header = proxies, header

    def address(self, request: web.BaseRequest) -> str:
        """The client's address; empty for the peers of a UNIX socket."""
        peer = request.remote or ""
        if not self._proxies or not self._proxies.hold(peer):
            return peer
        return self._walk(peer, self._hops(request))[0]

    def private(self, request: web.BaseRequest) -> bool:
        """Rule 4."""
        transport = request.transport
        peer = request.remote or ""
        if self._proxies and self._proxies.hold(peer):
            schemes = self._walk(peer, self._hops(request))[1]
            return bool(schemes) and all(scheme == "https" for scheme in schemes)
        if transport is not None and transport.get_extra_info("ssl_object") is not None:
            return True
        parsed = parsed_address(peer)
        return parsed is not None and parsed.is_loopback

    def _walk(self, peer: str, hops: list[Hop]) -> tuple[str, list[str]]:
        """The client's address, and what the trusted hops say of their schemes."""
        address, schemes = peer, list[str]()
        while hops and self._proxies.hold(address):
            hop = hops.pop()
            schemes.append(hop.scheme)
            parsed = parsed_address(_bare(hop.address))
            if parsed is None:
                break
            address = str(parsed)
        return address, schemes

    def _hops(self, request: web.BaseRequest) -> list[Hop]:
        headers = request.headers
        if self._header is ForwardedHeader.FORWARDED:
            return list(_forwarded(",".join(headers.getall("Forwarded", []))))[-MOST_HOPS:]
        addresses = _listed(headers.getall("X-Forwarded-For", []))
        schemes = _listed(headers.getall("X-Forwarded-Proto", []))
        # Proxies write one scheme for the whole way or one for each hop; all of them have to be right.
        scheme = "https" if schemes and all(one.lower() == "https" for one in schemes) else ""
        return [Hop(address=one, scheme=scheme) for one in addresses][-MOST_HOPS:]


@lru_cache(maxsize=4_096)
def parsed_address(text: str) -> Address | None:
    """An address without its zone; an IPv4 address that comes in IPv6 clothes is the IPv4 address."""
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def _listed(values: list[str]) -> list[str]:
    return [one.strip() for value in values for one in value.split(",")] if values else []


_WITH_PORT: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?")
# RFC 7239 §4: pairs of token=token or token="quoted", ";" within a hop, "," between hops.
_PAIR: Final = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]+))\s*([,;]|$)')


def _bare(text: str) -> str:
    """Without brackets and port."""
    found = _WITH_PORT.fullmatch(text)
    return (found["six"] or found["four"]) if found else text


def _forwarded(text: str) -> Iterator[Hop]:
    """The hops of ``Forwarded``. What cannot be read is a hop without an address: it ends the walk (rule 3)."""
    place, pairs = 0, dict[str, str]()
    while place < len(text):
        found = _PAIR.match(text, place)
        if found is None:
            yield Hop(address="", scheme="")
            # Look for the next hop: what stands to its right is a nearer proxy's word and may be whole.
            comma = text.find(",", place)
            if comma < 0:
                return
            place, pairs = comma + 1, {}
            continue
        name, quoted, token, end = found.groups()
        pairs[name.lower()] = token if quoted is None else quoted
        place = found.end()
        if end != ";":
            yield Hop(address=pairs.get("for", ""), scheme=pairs.get("proto", "").lower())
            pairs = {}
    if pairs:
        yield Hop(address="", scheme="")
