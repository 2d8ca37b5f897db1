"""Logging in: what a stranger learns, what guessing costs, what a session survives, and who acted."""
# ruff: noqa: SLF001 - a place in the queue, a hash and a commitment are looked at where they are made

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta
from typing import Any

import aiohttp
import pyotp
import pytest

from lls.api import sessions
from lls.api.credentials import MOST_WAITING, Passwords, judge_password, step_of
from lls.api.origin import Networks
from lls.api.sessions import (
    COOKIE,
    FREE_ANYWHERE,
    FREE_FAILURES,
    LONGEST_ANYWHERE,
    LONGEST_PAUSE,
    MOST_OF_A_USER,
    Lockout,
    Sessions,
    pause,
)
from lls.faults import BadRequest, Overloaded, TooManyRequests
from lls.licensing.account import Role, User
from tests.api.conftest import World, until
from tests.api.people import (
    ON,
    PASSWORD,
    add_key,
    add_user,
    asked,
    code_of,
    credentials,
    enrol,
    journal,
    key_headers,
    log_in,
    session_headers,
)
from tests.vendor import NOW

OTHER = "another long passphrase"
HERE, ELSEWHERE = "192.0.2.7", "192.0.2.8"
DAY = 86_400


@pytest.fixture
def setting() -> dict[str, Any]:
    """Administration over the network is on."""
    return dict(ON)


# ---------------------------------------------------------------- the door


@pytest.mark.parametrize("setting", [{}])
async def test_without_the_setting_the_network_knows_no_administration(world: World) -> None:
    key = await add_key(world)
    for method, path in (("POST", "/v1/admin/session"), ("GET", "/v1/admin/server"), ("GET", "/v1/admin/users")):
        assert 404 == (await asked(world, method, path, headers=key_headers(key))).status


async def test_a_login_sets_a_cookie_that_no_script_and_no_other_site_can_use(world: World) -> None:
    await add_user(world, "alice", "operator")
    answer = await log_in(world, "alice")
    assert (200, "alice", "operator", 900) == (
        answer.status,
        answer.body["user"],
        answer.body["role"],
        answer.body["ends_in_seconds"],
    )
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert cookie.startswith("__Host-lls=")
    assert ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] == attributes
    assert "no-store" == answer.headers["Cache-Control"]
    again = await asked(world, "GET", "/v1/admin/session", headers=session_headers(answer))
    assert (200, answer.body["token"]) == (again.status, again.body["token"])


async def test_who_is_not_there_is_answered_and_hashed_like_who_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_user(world, "alice")
    assert 201 == (await world.ask("POST", "/users", json={"name": "bob", "role": "viewer", "invite_hours": 1}))[0]
    await add_user(world, "carol")
    await enrol(world, "carol")
    compared = []
    compare = Passwords._compare

    def noted(self: Passwords, kept: str | None, password: str) -> bool:
        compared.append(kept is not None)
        return compare(self, kept, password)

    monkeypatch.setattr(Passwords, "_compare", noted)
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("alice", OTHER, {}),
        ("nobody", PASSWORD, {}),
        ("Not A Name!", PASSWORD, {}),
        ("bob", PASSWORD, {}),
        ("carol", PASSWORD, {}),
        ("carol", PASSWORD, {"totp": "000000"}),
    ]
    answers = [await log_in(world, name, password, **more) for name, password, more in cases]
    bodies = {str(sorted(answer.body.items())) for answer in answers}
    assert (1, {401}, {"unauthenticated"}) == (
        len(bodies),
        {answer.status for answer in answers},
        {str(answer.code) for answer in answers},
    )
    assert [True, False, False, False, True, True] == compared


async def test_nobody_is_compared_with_a_hash_of_the_same_cost() -> None:
    passwords = Passwords(memory_kib=128, passes=2)
    assert not await passwords.fits(None, PASSWORD)
    assert passwords._nobody is not None
    parameters = (await passwords.hash(PASSWORD)).split("$")[:4]
    assert parameters == passwords._nobody.split("$")[:4]
    assert ["", "argon2id"] == parameters[:2]


# ---------------------------------------------------------------- guessing


def test_pauses_double_and_end_at_a_quarter_of_an_hour() -> None:
    free, then = [pause(count) for count in range(FREE_FAILURES)], [pause(FREE_FAILURES + n) for n in range(12)]
    assert [0.0] * FREE_FAILURES == free
    assert [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] == then
    assert LONGEST_PAUSE == pause(10**9)


@pytest.mark.parametrize("known", [True, False])
def test_guessing_a_password_for_a_day_gives_hardly_more_than_a_hundred_tries(known: bool) -> None:
    lockout, tries = Lockout(), 0
    for second in range(86_400):
        try:
            lockout.attempt("alice", address=HERE, known=known, elapsed=float(second))
            tries += 1
        except TooManyRequests:
            continue
    assert 90 <= tries <= 120


def test_a_success_and_a_quiet_time_forget_failures() -> None:
    lockout = Lockout()
    for _ in range(FREE_FAILURES):
        lockout.attempt("alice", address=HERE, known=True, elapsed=0.0)
    with pytest.raises(TooManyRequests) as refused:
        lockout.attempt("alice", address=HERE, known=True, elapsed=0.0)
    assert {"retry_after_seconds": 1} == refused.value.fields
    lockout.succeeded("alice", address=HERE)
    for _ in range(FREE_FAILURES):
        lockout.attempt("alice", address=HERE, known=True, elapsed=0.0)
    lockout.attempt("alice", address=HERE, known=True, elapsed=sessions.FORGOTTEN_AFTER)


def test_strangers_names_fill_no_memory_and_push_out_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_KEPT", 10)
    lockout = Lockout()
    for _ in range(FREE_FAILURES):
        lockout.attempt("alice", address=HERE, known=True, elapsed=0.0)
    for number in range(50):
        lockout.attempt(f"stranger {number}", address=f"10.0.0.{number}", known=False, elapsed=0.0)
    assert (10, 10) == (len(lockout._strangers.here), len(lockout._strangers.anywhere))
    with pytest.raises(TooManyRequests):
        lockout.attempt("alice", address=HERE, known=True, elapsed=0.0)


def tries(lockout: Lockout, *, since: int = 0, seconds: int, known: bool = True, addresses: int) -> list[int]:
    """When a guess was judged, of a guesser who has so many addresses and asks from another one each second."""
    judged = []
    for second in range(since, since + seconds):
        try:
            address = f"10.{second % addresses // 256}.{second % addresses % 256}.1"
            lockout.attempt("alice", address=address, known=known, elapsed=float(second))
            judged.append(second)
        except TooManyRequests:
            continue
    return judged


def test_a_stranger_who_fails_in_a_users_name_keeps_nobody_out_elsewhere() -> None:
    lockout = Lockout()
    for day in range(3):
        tries(lockout, since=day * DAY, seconds=DAY, addresses=1)
        lockout.attempt("alice", address=HERE, known=True, elapsed=float((day + 1) * DAY))
        lockout.succeeded("alice", address="192.0.2.9")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("addresses", [50, 1_000, 20_000])
def test_many_addresses_together_get_few_guesses_a_day(known: bool, addresses: int) -> None:
    lockout = Lockout()
    first = tries(lockout, seconds=DAY, known=known, addresses=addresses)
    second = tries(lockout, since=DAY, seconds=DAY, known=known, addresses=addresses)
    assert len(first) <= FREE_ANYWHERE + 300
    assert 200 <= len(second) <= 300
    lockout.attempt("alice", address=HERE, known=known, elapsed=second[-1] + LONGEST_ANYWHERE)  # slowed, not locked


def test_a_success_gives_guessers_at_other_addresses_no_new_tries() -> None:
    lockout = Lockout()
    tries(lockout, seconds=DAY, addresses=1_000)
    lockout.attempt("alice", address=HERE, known=True, elapsed=DAY + 1_000.0)
    lockout.succeeded("alice", address=HERE)
    assert len(tries(lockout, since=DAY + 1_000, seconds=3_600, addresses=1_000)) <= 20


def test_nor_does_one_where_somebody_has_failed_all_day() -> None:
    lockout = Lockout()
    for second in range(0, DAY, 901):  # a forgotten script in the same house
        lockout.attempt("alice", address=HERE, known=True, elapsed=float(second))
    tries(lockout, since=DAY, seconds=7_200, addresses=1_000)
    lockout.attempt("alice", address=HERE, known=True, elapsed=DAY + 8_000.0)
    lockout.succeeded("alice", address=HERE)
    assert len(tries(lockout, since=DAY + 8_000, seconds=3_600, addresses=1_000)) <= 20


def test_where_a_user_has_logged_in_guesses_from_many_addresses_slow_nobody() -> None:
    lockout = Lockout()
    lockout.attempt("alice", address=HERE, known=True, elapsed=0.0)
    lockout.succeeded("alice", address=HERE)
    last = tries(lockout, since=1, seconds=DAY, addresses=1_000)[-1]
    with pytest.raises(TooManyRequests) as slowed:
        lockout.attempt("alice", address=ELSEWHERE, known=True, elapsed=last + 1.0)
    assert {"retry_after_seconds": LONGEST_ANYWHERE - 1} == slowed.value.fields
    for _ in range(FREE_FAILURES):
        lockout.attempt("alice", address=HERE, known=True, elapsed=last + 1.0)
    with pytest.raises(TooManyRequests):
        lockout.attempt("alice", address=HERE, known=True, elapsed=last + 1.0)
    lockout.forgive("alice")
    lockout.attempt("alice", address=ELSEWHERE, known=True, elapsed=last + 2.0)


def test_one_client_with_a_whole_ipv6_network_is_one_address() -> None:
    lockout = Lockout()
    for number in range(FREE_FAILURES):
        lockout.attempt("alice", address=f"2001:db8::{number}", known=True, elapsed=0.0)
    with pytest.raises(TooManyRequests):
        lockout.attempt("alice", address="2001:db8::ffff", known=True, elapsed=0.0)


def test_failures_of_one_user_from_many_addresses_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_KEPT", 10)
    lockout = Lockout()
    for number in range(50):
        lockout.attempt("alice", address=f"10.0.0.{number}", known=True, elapsed=0.0)
        lockout.succeeded("alice", address=f"10.0.1.{number}")
    assert (10, 1, 10) == (len(lockout._users.here), len(lockout._users.anywhere), len(lockout._familiar))


@pytest.mark.parametrize("setting", [{**ON, "trusted_proxies": Networks(("127.0.0.1/32",))}])
async def test_the_address_of_a_login_is_the_clients_behind_a_trusted_proxy(world: World) -> None:
    await add_user(world, "alice")
    there, here = ({"X-Forwarded-For": one, "X-Forwarded-Proto": "https"} for one in (ELSEWHERE, HERE))
    guesses = [(await log_in(world, "alice", f"wrong guess {n} x", headers=there)).status for n in range(6)]
    assert [401] * FREE_FAILURES + [429] == guesses
    assert 200 == (await log_in(world, "alice", headers=here)).status
    assert 429 == (await log_in(world, "alice", headers=there)).status, "a login here forgives nothing there"


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_after_five_failures_even_the_right_password_waits(world: World, name: str) -> None:
    await add_user(world, "alice")
    key, before = await add_key(world), await credentials(world, "alice")
    guesses = [(await log_in(world, name, f"wrong guess {n} x")).status for n in range(FREE_FAILURES)]
    locked = await log_in(world, name)
    assert ([401] * FREE_FAILURES, 429, "too_many_requests", "1") == (
        guesses,
        locked.status,
        locked.code,
        locked.headers["Retry-After"],
    )
    assert 200 == (await asked(world, "GET", "/v1/admin/server", headers=before)).status, "a pause ends no session"
    assert 200 == (await asked(world, "GET", "/v1/admin/server", headers=key_headers(key))).status
    assert 200 == (await world.ask("GET", "/server"))[0], "nor does it close the admin socket"
    world.machine.pass_(1.0)
    assert (200 if name == "alice" else 401) == (await log_in(world, name)).status


async def test_the_host_ends_a_pause_by_setting_the_password(world: World) -> None:
    await add_user(world, "alice")
    for n in range(FREE_FAILURES + 1):
        await log_in(world, "alice", f"wrong guess {n} x")
    assert 204 == (await world.ask("PUT", "/users/alice/password", json={"password": OTHER}))[0]
    assert 200 == (await log_in(world, "alice", OTHER)).status


@pytest.mark.parametrize("setting", [{**ON, "failures_per_minute": 4}])
async def test_an_address_that_tries_many_names_is_stopped_before_anything_is_hashed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    compare = Passwords._compare

    def noted(self: Passwords, kept: str | None, password: str) -> bool:
        hashed.append(kept)
        return compare(self, kept, password)

    monkeypatch.setattr(Passwords, "_compare", noted)
    statuses = [(await log_in(world, f"user{n}")).status for n in range(8)]
    assert ([401] * 4 + [429] * 4, 4) == (statuses, len(hashed))


async def test_hanging_up_saves_no_failure_and_frees_no_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await add_user(world, "alice")
    go = threading.Event()
    monkeypatch.setattr(Passwords, "_compare", lambda *_: bool(go.wait(10)) and False)
    try:
        for n in range(FREE_FAILURES):
            trying = asyncio.create_task(log_in(world, "alice", f"wrong guess {n} x"))
            await until(lambda n=n: len(world.edge.passwords._under_way) == n + 1)  # type: ignore[misc] # bound now
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
        assert FREE_FAILURES == len(world.edge.passwords._under_way)
        assert 429 == (await log_in(world, "alice")).status
    finally:
        go.set()
    await until(lambda: not world.edge.passwords._under_way)


async def test_few_wait_for_the_hash_and_the_others_are_told_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, inside, most = threading.Event(), [0], [0]

    def slow(*_: object) -> bool:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        go.wait(10)
        inside[0] -= 1
        return False

    monkeypatch.setattr(Passwords, "_compare", slow)
    trying = [asyncio.create_task(log_in(world, f"user{n}")) for n in range(MOST_WAITING)]
    try:
        await until(lambda: len(world.edge.passwords._under_way) == MOST_WAITING)
        full = await log_in(world, "one-more")
        assert (503, "overloaded", "2") == (full.status, full.code, full.headers["Retry-After"])
        assert 200 == (await asked(world, "GET", "/livez")).status, "the loop goes on"
    finally:
        go.set()
    assert [401] * MOST_WAITING == [(await one).status for one in trying]
    assert 1 == most[0], "one hash at a time"


async def test_a_hash_that_fails_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(memory_kib=64, passes=1)
    for _ in range(MOST_WAITING + 1):
        with pytest.raises(UnicodeEncodeError):
            await passwords.hash("\ud800" * 12)
    assert not passwords._under_way
    with pytest.raises(Overloaded):
        await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(MOST_WAITING + 1)))
    await until(lambda: not passwords._under_way)


async def test_a_failed_login_is_logged_and_counted_and_never_journalled(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await add_user(world, "alice")
    before = world.writer.ledger.head.seq
    await log_in(world, "alice", "my-secret-typo x")
    await log_in(world, "password-typed-here")
    await log_in(world, "alice")
    told = [(one.message, one.__dict__.get("fields")) for one in caplog.records if one.name == "lls.api.admin_session"]
    address = "127.0.0.1"
    assert [
        ("login_refused", {"user": "alice", "address": address, "why": "unauthenticated"}),
        ("login_refused", {"user": None, "address": address, "why": "unauthenticated"}),
        ("logged_in", {"user": "alice", "address": address}),
    ] == told
    assert before == world.writer.ledger.head.seq
    text = await (await world.admin.get("/metrics")).text()
    assert 'lls_logins_total{outcome="refused"} 2.0' in text
    assert 'lls_logins_total{outcome="ok"} 1.0' in text


# ---------------------------------------------------------------- sessions


async def test_a_session_id_that_was_planted_is_never_taken_over(world: World) -> None:
    await add_user(world, "alice")
    planted = "A" * 43
    answer = await log_in(world, "alice", headers={"Cookie": f"{COOKIE}={planted}"})
    assert planted != answer.session_id
    assert 401 == (await asked(world, "GET", "/v1/admin/session", headers={"Cookie": f"{COOKIE}={planted}"})).status


async def test_a_login_ends_the_session_that_came_with_it(world: World) -> None:
    await add_user(world, "alice")
    first = await credentials(world, "alice")
    second = await log_in(world, "alice", headers=first)
    assert 401 == (await asked(world, "GET", "/v1/admin/session", headers=first)).status
    assert 200 == (await asked(world, "GET", "/v1/admin/session", headers=session_headers(second))).status


async def test_a_session_ends_when_idle_at_its_last_hour_and_at_logout(world: World) -> None:
    await add_user(world, "alice")
    idle, busy, leaving = [await credentials(world, "alice") for _ in range(3)]

    async def alive(headers: dict[str, str]) -> bool:
        return (await asked(world, "GET", "/v1/admin/session", headers=headers)).status == 200

    left = await asked(world, "DELETE", "/v1/admin/session", headers=leaving)
    assert (204, True) == (left.status, "Max-Age=0" in left.headers["Set-Cookie"])
    assert not await alive(leaving)
    for _ in range(43_200 // 800 - 1):
        world.machine.pass_(800)
        assert await alive(busy)
    assert not await alive(idle)
    world.machine.pass_(800)
    assert not await alive(busy), "however busy it is"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/users/alice/password", {"password": OTHER}),
        ("PUT", "/users/alice/role", {"role": "viewer"}),
        ("POST", "/users/alice/invitation", {"hours": 1}),
        ("DELETE", "/users/alice/totp", None),
        ("DELETE", "/users/alice", None),
    ],
)
async def test_sessions_end_with_what_they_stood_on(
    world: World, method: str, path: str, body: dict[str, Any] | None
) -> None:
    await add_user(world, "alice")
    headers = await credentials(world, "alice")
    more = {} if body is None else {"json": body}
    assert (await world.ask(method, path, **more))[0] in (200, 204)
    if path == "/users/alice":
        await add_user(world, "alice")  # somebody of the same name is somebody else
    assert 401 == (await asked(world, "GET", "/v1/admin/session", headers=headers)).status


async def test_ones_own_new_password_needs_the_old_one_and_ends_the_other_sessions(world: World) -> None:
    await add_user(world, "alice")
    here, there = await credentials(world, "alice"), await credentials(world, "alice")
    path = "/v1/admin/session/password"
    wrong = {"password": "not the password", "new_password": OTHER}
    assert 401 == (await asked(world, "PUT", path, json=wrong, headers=here)).status
    body = {"password": PASSWORD, "new_password": OTHER}
    changed = await asked(world, "PUT", path, json=body, headers=here)
    assert 200 == changed.status
    for headers, status in ((here, 401), (there, 401), (session_headers(changed), 200)):
        assert status == (await asked(world, "GET", "/v1/admin/session", headers=headers)).status
    assert [401, 200] == [(await log_in(world, "alice", one)).status for one in (PASSWORD, OTHER)]
    (line,) = await journal(world, "user_password_set")
    assert world.airgap._commit_to("user:alice") == line["actor"]


def test_sessions_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 20)
    kept = Sessions(idle=900, most=43_200)
    user = User(name="alice", role=Role.ADMIN, made_at=NOW)
    first, _ = kept.begin(user, elapsed=0.0)
    for _ in range(MOST_OF_A_USER):
        kept.begin(user, elapsed=0.0)
    assert (MOST_OF_A_USER, None) == (len(kept), kept.find(first, elapsed=0.0))
    for number in range(50):
        kept.begin(User(name=f"user{number}", role=Role.ADMIN, made_at=NOW), elapsed=0.0)
    assert 20 == len(kept)


# ---------------------------------------------------------------- second factor


async def test_a_code_is_good_once_and_for_a_minute_and_a_half(world: World) -> None:
    await add_user(world, "alice")
    totp = await enrol(world, "alice")
    assert 401 == (await log_in(world, "alice", totp=code_of(world, totp))).status, "it proved the enrolment"
    world.machine.pass_(30)
    code = code_of(world, totp)
    assert 401 == (await log_in(world, "alice")).status
    assert [200, 401] == [(await log_in(world, "alice", totp=code)).status for _ in range(2)]
    world.machine.pass_(60)
    late = code_of(world, totp)
    world.machine.pass_(60)
    assert 401 == (await log_in(world, "alice", totp=late)).status


async def test_of_two_logins_with_one_code_at_once_one_gets_in(world: World) -> None:
    await add_user(world, "alice")
    totp = await enrol(world, "alice")
    world.machine.pass_(30)
    code = code_of(world, totp)
    answers = await asyncio.gather(*(log_in(world, "alice", totp=code) for _ in range(3)))
    assert [200, 401, 401] == sorted(answer.status for answer in answers)


async def test_a_used_code_is_on_the_disk_before_it_lets_in(world: World) -> None:
    await add_user(world, "alice")
    totp = await enrol(world, "alice")
    world.machine.pass_(30)
    assert 200 == (await log_in(world, "alice", totp=code_of(world, totp))).status
    (kept,) = (await world.store.load()).users
    assert int(world.machine.wall.timestamp()) // 30 == kept.totp_step


def test_a_code_fits_the_step_before_this_one_and_the_next() -> None:
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    steps = {
        offset: step_of(secret, pyotp.TOTP(secret).at(30 * (1_000 + offset)), seconds=30_000) for offset in range(-3, 4)
    }
    assert {-3: None, -2: None, -1: 999, 0: 1_000, 1: 1_001, 2: None, 3: None} == steps


async def test_a_second_factor_of_ones_own_is_in_force_once_it_is_proved(world: World) -> None:
    await add_user(world, "alice", "viewer")
    headers = await credentials(world, "alice")
    path = "/v1/admin/session/totp"
    made = (await asked(world, "POST", path, headers=headers)).body
    assert made["uri"].startswith("otpauth://totp/")
    assert 200 == (await log_in(world, "alice")).status, "nothing is in force yet"
    right = pyotp.TOTP(made["secret"]).at(int(world.machine.wall.timestamp()))
    body = {"password": PASSWORD, "secret": made["secret"], "totp": right}
    for broken in ({"password": "not the password"}, {"totp": f"{(int(right) + 1) % 10**6:06}"}, {"secret": "A" * 31}):
        answer = await asked(world, "PUT", path, json=body | broken, headers=headers)
        assert answer.status in (400, 401)
    assert 200 == (await asked(world, "PUT", path, json=body, headers=headers)).status
    assert 401 == (await log_in(world, "alice")).status
    assert 401 == (await asked(world, "GET", "/v1/admin/session", headers=headers)).status


async def test_the_hosts_shell_takes_a_lost_second_factor_away(world: World) -> None:
    await add_user(world, "alice")
    await enrol(world, "alice")
    assert 401 == (await log_in(world, "alice")).status
    assert 204 == (await world.ask("DELETE", "/users/alice/totp"))[0]
    assert 200 == (await log_in(world, "alice")).status


# ---------------------------------------------------------------- invitations


async def test_an_invitation_sets_a_password_once_and_in_time(world: World) -> None:
    _, added = await world.ask("POST", "/users", json={"name": "bob", "role": "viewer", "invite_hours": 2})
    body = {"user": "bob", "token": added["invitation"]["token"], "password": OTHER}
    path = "/v1/admin/invitation"
    assert 401 == (await asked(world, "POST", path, json=body | {"token": "llsi_" + "A" * 43})).status
    assert 401 == (await asked(world, "POST", path, json=body | {"user": "eve"})).status
    assert 400 == (await asked(world, "POST", path, json=body | {"password": "short"})).status
    assert 204 == (await asked(world, "POST", path, json=body)).status
    assert 401 == (await asked(world, "POST", path, json=body | {"password": PASSWORD})).status
    assert 200 == (await log_in(world, "bob", OTHER)).status
    _, again = await world.ask("POST", "/users/bob/invitation", json={"hours": 1})
    assert 401 == (await log_in(world, "bob", OTHER)).status, "the former password opens nothing any more"
    world.machine.pass_(3_601)
    late = {"user": "bob", "token": again["token"], "password": OTHER}
    assert 401 == (await asked(world, "POST", path, json=late)).status


@pytest.mark.parametrize("password", ["short", "a" * 300, "aaaaaaaaaaaaaa", "abababababab", "alice-is-my-name"])
async def test_weak_passwords_are_refused_wherever_they_are_chosen(world: World, password: str) -> None:
    await add_user(world, "alice")
    headers = await credentials(world, "alice")
    body = {"password": PASSWORD, "new_password": password}
    assert 400 == (await asked(world, "PUT", "/v1/admin/session/password", json=body, headers=headers)).status
    assert 400 == (await world.ask("PUT", "/users/alice/password", json={"password": password}))[0]
    with pytest.raises(BadRequest):
        judge_password(password, user="alice")


# ---------------------------------------------------------------- keys


async def test_a_key_is_shown_once_and_only_its_digest_is_kept(world: World, tmp_path: Any) -> None:
    secret = await add_key(world)
    _, listed = await world.ask("GET", "/keys")
    assert (1, False) == (len(listed["keys"]), secret in str(listed))
    for file in tmp_path.glob("lls.sqlite3*"):
        assert secret.encode() not in file.read_bytes()
        assert PASSWORD.encode() not in file.read_bytes()
    assert 200 == (await asked(world, "GET", "/v1/admin/server", headers=key_headers(secret))).status


async def test_a_key_ends_by_its_date_and_by_being_revoked(world: World) -> None:
    dated = await add_key(world)
    ends = (world.machine.wall + timedelta(hours=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
    ending = await add_key(world, expires_at=ends)
    assert 200 == (await asked(world, "GET", "/v1/admin/server", headers=key_headers(ending))).status
    world.machine.pass_(3_600)
    assert 401 == (await asked(world, "GET", "/v1/admin/server", headers=key_headers(ending))).status
    _, listed = await world.ask("GET", "/keys")
    (key_id,) = (key["key_id"] for key in listed["keys"] if not key["expired"])
    assert 200 == (await asked(world, "GET", "/v1/admin/server", headers=key_headers(dated))).status
    assert 204 == (await world.ask("DELETE", f"/keys/{key_id}"))[0]
    assert 401 == (await asked(world, "GET", "/v1/admin/server", headers=key_headers(dated))).status
    assert 404 == (await world.ask("DELETE", f"/keys/{key_id}"))[0]


async def test_every_act_on_accounts_is_journalled_with_its_actor_and_without_a_name(world: World) -> None:
    await add_user(world, "chief")
    headers = await credentials(world, "chief")

    async def act(method: str, path: str, **more: Any) -> Any:
        answer = await asked(world, method, f"/v1/admin{path}", headers=headers, **more)
        assert answer.status in (200, 201, 204), answer.body
        return answer.body

    await act("POST", "/users", json={"name": "dave", "role": "viewer", "password": PASSWORD})
    await act("PUT", "/users/dave/role", json={"role": "operator"})
    await act("PUT", "/users/dave/password", json={"password": OTHER})
    await act("POST", "/users/dave/invitation", json={"hours": 1})
    await act("DELETE", "/users/dave/totp")
    made = await act("POST", "/keys", json={"name": "grafana", "role": "viewer"})
    await act("DELETE", f"/keys/{made['key']['key_id']}")
    await act("DELETE", "/users/dave")
    mine, dave = world.airgap._commit_to("user:chief"), world.airgap._commit_to("dave")
    for name in (
        "user_added",
        "user_role_set",
        "user_password_set",
        "user_invited",
        "user_totp_removed",
        "user_removed",
    ):
        line = (await journal(world, name))[-1]
        assert (mine, dave) == (line["actor"], line["user"]), name
    for name in ("key_added", "key_revoked"):
        (line,) = await journal(world, name)
        assert (mine, made["key"]["key_id"]) == (line["actor"], line["key_id"])
    async with world.admin.get("/v1/admin/journal?limit=10000") as response:
        text = await response.text()
    assert not any(name in text for name in ("dave", "chief", "grafana"))


async def test_a_browsers_cookie_jar_is_enough_to_work(world: World) -> None:
    await add_user(world, "alice")
    jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=[f"http://127.0.0.1:{world.port}"])
    async with aiohttp.ClientSession(f"http://127.0.0.1:{world.port}", cookie_jar=jar) as browser:
        async with browser.post("/v1/admin/session", json={"user": "alice", "password": PASSWORD}) as response:
            assert 200 == response.status
        async with browser.get("/v1/admin/leases") as response:
            assert 200 == response.status
