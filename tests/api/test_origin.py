"""Where a request comes from: what a header may say, and who is believed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from multidict import CIMultiDict

from lls.api.origin import ForwardedHeader, Networks, Origin

XFF, FWD = ForwardedHeader.X_FORWARDED_FOR, ForwardedHeader.FORWARDED
PROXIES = ("10.0.0.0/24", "2001:db8:1::/64", "127.0.0.1/32")
PROXY, OTHER_PROXY, CLIENT, STRANGER = "10.0.0.1", "10.0.0.2", "192.0.2.7", "198.51.100.9"


def request(peer: str | None, *headers: tuple[str, str], tls: bool = False) -> web.BaseRequest:
    transport = SimpleNamespace(get_extra_info=lambda name: object() if tls and name == "ssl_object" else None)
    made: Any = SimpleNamespace(remote=peer, headers=CIMultiDict(headers), transport=transport)
    return cast("web.BaseRequest", made)


def x(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


def f(*values: str) -> list[tuple[str, str]]:
    return [("Forwarded", value) for value in values]


ADDRESSES = [
    (XFF, CLIENT, x(STRANGER), CLIENT, "a stranger's header is not looked at"),
    (XFF, PROXY, x(CLIENT), CLIENT, "a proxy's is"),
    (XFF, PROXY, x(f"{STRANGER}, {CLIENT}"), CLIENT, "what the client wrote stands to the left"),
    (XFF, PROXY, x(STRANGER, CLIENT), CLIENT, "several headers are one list"),
    (XFF, PROXY, x(f"{STRANGER}, {CLIENT}, {OTHER_PROXY}"), CLIENT, "two proxies"),
    (XFF, PROXY, x(f"{PROXY}, {CLIENT}"), CLIENT, "a client that names a proxy"),
    (XFF, PROXY, x(f"{OTHER_PROXY}, {OTHER_PROXY}"), OTHER_PROXY, "nothing but proxies: the first of them"),
    (XFF, PROXY, x(""), PROXY, "an empty header"),
    (XFF, PROXY, [], PROXY, "no header"),
    (XFF, PROXY, x("unknown"), PROXY, "no address"),
    (XFF, PROXY, x(f"{CLIENT}, nonsense"), PROXY, "no address where the client should stand"),
    (XFF, PROXY, x(f"nonsense, {CLIENT}"), CLIENT, "nonsense to the left of the client"),
    (XFF, PROXY, x(f"{CLIENT}, , {OTHER_PROXY}"), OTHER_PROXY, "a gap"),
    (XFF, PROXY, x(f"{CLIENT}:4711"), CLIENT, "with a port"),
    (XFF, PROXY, x("[2001:db8::7]:4711"), "2001:db8::7", "IPv6 with a port"),
    (XFF, PROXY, x("2001:DB8::0:7"), "2001:db8::7", "IPv6 in its shortest form"),
    (XFF, PROXY, x(f"::ffff:{CLIENT}"), CLIENT, "IPv4 in IPv6 clothes"),
    (XFF, f"::ffff:{PROXY}", x(CLIENT), CLIENT, "a proxy in IPv6 clothes"),
    (XFF, "2001:db8:1::1", x(CLIENT), CLIENT, "a proxy of IPv6"),
    (XFF, PROXY, x("0300.0.2.7"), PROXY, "no octal"),
    (XFF, PROXY, x("192.0.2.7/8"), PROXY, "no network"),
    (XFF, PROXY, x(", ".join([CLIENT] + [OTHER_PROXY] * 40)), OTHER_PROXY, "no endless walk"),
    (XFF, PROXY, f(f"for={STRANGER}") + x(CLIENT), CLIENT, "the other header counts for nothing"),
    (FWD, PROXY, x(STRANGER) + f(f"for={CLIENT}"), CLIENT, "and the other way around"),
    (FWD, PROXY, f(f"for={STRANGER}, for={CLIENT};proto=https;by={PROXY}"), CLIENT, "pairs"),
    (FWD, PROXY, f('for="[2001:db8::7]:4711"'), "2001:db8::7", "quoted"),
    (FWD, PROXY, f(f'for="x, for={STRANGER}", for={CLIENT}'), CLIENT, "a comma in quotes"),
    (FWD, PROXY, f("for=_hidden"), PROXY, "an obfuscated name"),
    (FWD, PROXY, f("for=unknown"), PROXY, "unknown"),
    (FWD, PROXY, f("proto=https"), PROXY, "no for"),
    (FWD, PROXY, f(f'for="{STRANGER}'), PROXY, "an open quote"),
    (FWD, PROXY, f(f'for="{STRANGER}, for={CLIENT}'), CLIENT, "an open quote to the left"),
    (FWD, PROXY, f(f"for={CLIENT};"), PROXY, "half a pair"),
    (FWD, CLIENT, f(f"for={STRANGER}"), CLIENT, "a stranger's"),
    (XFF, None, x(STRANGER), "", "the admin socket"),
]


@pytest.mark.parametrize(
    ("header", "peer", "headers", "expected", "why"), ADDRESSES, ids=[one[-1] for one in ADDRESSES]
)
def test_the_client_is_the_first_from_the_right_that_is_no_trusted_proxy(  # a table row
    header: ForwardedHeader, peer: str | None, headers: list[tuple[str, str]], expected: str, why: str
) -> None:
    origin = Origin(proxies=Networks(PROXIES), header=header)
    assert expected == origin.address(request(peer, *headers))


def test_without_trusted_proxies_no_header_counts() -> None:
    origin = Origin(proxies=Networks(()), header=XFF)
    assert CLIENT == origin.address(request(CLIENT, *x(STRANGER)))


HTTPS = [("X-Forwarded-Proto", "https")]
PRIVATE = [
    (XFF, CLIENT, [], False, "plain HTTP from elsewhere"),
    (XFF, "127.0.0.2", [], True, "this machine"),
    (XFF, "::1", [], True, "this machine by IPv6"),
    (XFF, CLIENT, HTTPS, False, "a stranger says https"),
    (XFF, PROXY, x(CLIENT) + HTTPS, True, "a proxy says https"),
    (XFF, PROXY, [*x(CLIENT), ("X-Forwarded-Proto", "http")], False, "a proxy says http"),
    (XFF, PROXY, [*x(CLIENT), ("X-Forwarded-Proto", "https, http")], False, "one of two says http"),
    (XFF, PROXY, x(CLIENT), False, "a proxy says nothing"),
    (XFF, PROXY, HTTPS, False, "a proxy says https of nobody"),
    (XFF, "127.0.0.1", x(CLIENT), False, "a proxy on this machine says nothing"),
    (XFF, "127.0.0.1", [], False, "a proxy on this machine is no client of it"),
    (FWD, PROXY, f(f"for={CLIENT};proto=https"), True, "the other header"),
    (FWD, PROXY, f(f"for={CLIENT};proto=http, for={OTHER_PROXY};proto=https"), False, "the first hop was plain"),
    (
        FWD,
        PROXY,
        f(f"for={STRANGER};proto=http, for={CLIENT};proto=https"),
        True,
        "the client's own words do not count",
    ),
    (FWD, PROXY, HTTPS + f(f"for={CLIENT}"), False, "the wrong header says https"),
]


@pytest.mark.parametrize(("header", "peer", "headers", "expected", "why"), PRIVATE, ids=[one[-1] for one in PRIVATE])
def test_a_way_is_private_by_tls_by_a_proxys_word_or_because_it_does_not_leave_the_machine(
    header: ForwardedHeader, peer: str, headers: list[tuple[str, str]], expected: bool, why: str
) -> None:
    origin = Origin(proxies=Networks(PROXIES), header=header)
    assert expected == origin.private(request(peer, *headers))


def test_tls_to_us_is_private_unless_a_proxy_carries_somebody_elses_words() -> None:
    origin = Origin(proxies=Networks(PROXIES), header=XFF)
    assert origin.private(request(CLIENT, tls=True))
    assert not origin.private(request(PROXY, *x(CLIENT), ("X-Forwarded-Proto", "http"), tls=True))


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.0.0.9", True),
        ("::ffff:10.0.0.9", True),
        ("10.0.1.9", False),
        ("", False),
        ("x", False),
        ("fe80::1%eth0", True),
    ],
)
def test_networks_hold_addresses(address: str, inside: bool) -> None:
    assert inside == Networks(["10.0.0.0/24", "fe80::/64"]).hold(address)
