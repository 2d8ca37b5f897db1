"""The appliance's own OpenAPI document, turned against it: with every right, with few, with none.

Whatever is sent, the answer is one that the document names, none is a 5xx of ours, and none holds a secret. Every other
example names things that are there, so that handlers are reached and not only their doors.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any, Final, TypeVar

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from lls.api.app import LAN_ROUTES, NETWORK_ADMIN_ROUTES
from lls.api.credentials import Passwords, digest, new_secret, new_token
from lls.api.sessions import COOKIE, TOKEN_HEADER
from lls.config import Admin, Config, TlsMode
from lls.daemon import Daemon
from lls.faults import Fault
from lls.licensing.account import ApiKey, Role, User
from lls.licensing.fields import write_instant
from tests.api.conftest import Seat, nonce_of
from tests.vendor import NOW, Site, Vendor, entitlement

T = TypeVar("T")
PASSWORD: Final = "correct horse battery"
EXAMPLES: Final = {"admin": 7, "viewer": 4, "nobody": 4}
# The document says less than the code: dates that are past, a file's content, passwords that are easy to guess.
UNSAID: Final = [positive_data_acceptance]
# A backup holds the server's keys: that is what it is for, and why only an administrator in person may take one.
BACKUP: Final = "POST /v1/admin/backup"


class Running:
    """A daemon in a loop of its own, with a product, an administrator, a key, a lease."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._runner = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner.start()
        self.line = requests.Session()
        self._count = itertools.count()
        today = datetime.now(UTC).replace(microsecond=0)
        vendor, plain = Vendor(now=today), Config()
        keys = folder / "vendor.llskeys"
        keys.write_text(vendor.key_sets[0], "ascii")
        server = replace(
            plain.server,
            listen=("127.0.0.1:0",),
            state_dir=str(folder / "state"),
            admin_socket=str(folder / "admin.sock"),
            failures_per_minute=1_000_000_000,
            request_seconds=2,
        )
        tls, trust = replace(plain.tls, mode=TlsMode.OFF), replace(plain.trust, keys=str(keys))
        self.daemon = Daemon(replace(plain, server=server, tls=tls, trust=trust, admin=Admin(http=True)))
        self.run(self.daemon.start)
        (self.url,) = self.daemon.urls
        self.daemon.edge.passwords = Passwords(memory_kib=64, passes=1)
        identity = self.daemon.airgap.identity
        site = Site(name="site", server_id=identity.server_id, signing=identity.signing, encryption=identity.encryption)
        dates = {"starts_at": today - timedelta(days=1), "expires_at": today + timedelta(days=365)}
        hosted = entitlement(seats=None, **{name: write_instant(at) for name, at in dates.items()})
        bundle = vendor.bundle(site, entitlements=[hosted])
        self.run(lambda: self.daemon.airgap.import_bundle(bundle, actor="test", dry_run=False))
        self.totp, self.kept = new_secret(), self.run(lambda: self.daemon.edge.passwords.hash(PASSWORD))
        self.key = new_token("llsk_")
        self.secrets = [PASSWORD, "$argon2", self.totp, self.key, identity.site_key.hex(), "PRIVATE KEY", '"d":']
        key = ApiKey(key_id="key_viewer", name="probe", role=Role.VIEWER, made_at=NOW, digest=digest(self.key))
        self.change(lambda ledger, now: ledger.accounts.add_key(key, actor="test", now=now))
        self.have_user("chief")

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(60)

    def change(self, verb: Callable[[Any, Any], object]) -> None:
        self.run(lambda: self.daemon.writer.do(verb))

    def have_user(self, name: str) -> User:
        user = User(name=name, role=Role.ADMIN, made_at=NOW, password=self.kept, totp=self.totp)
        accounts = self.daemon.writer.ledger.accounts
        if accounts.user(name) is None:
            self.change(lambda ledger, now: ledger.accounts.add_user(user, actor="test", now=now))
        found = accounts.user(name)
        assert found is not None
        return found

    def headers(self, right: str) -> dict[str, str]:
        """A session of its own for each call: some of them end it."""
        if right == "nobody":
            return {}
        if right == "viewer":
            return {"Authorization": f"Bearer {self.key}"}
        user, edge = self.have_user("chief"), self.daemon.edge

        async def begun() -> tuple[str, str]:
            session_id, session = edge.sessions.begin(user, elapsed=self.daemon.writer.now().elapsed)
            return session_id, session.token

        session_id, token = self.run(begun)
        self.secrets[7:] = [session_id]
        return {"Cookie": f"{COOKIE}={session_id}", TOKEN_HEADER: token}

    def name_what_is_there(self, case: Any) -> dict[str, str]:
        """Every other example: users, leases and entitlements that exist; a lease brings its secret."""
        if next(self._count) % 2 or not case.path_parameters:
            return {}
        if "name" in case.path_parameters:
            case.path_parameters["name"] = self.have_user("target").name
        if "entitlement_id" in case.path_parameters and not case.path.endswith("/return"):  # it would be gone
            case.path_parameters["entitlement_id"] = entitlement()["entitlement_id"]
        if "lease_id" not in case.path_parameters:
            return {}
        seat = Seat(f"seat {uuid.uuid4()}")
        answer = self.line.post(
            f"{self.url}/v1/leases", json=seat.body(nonce=nonce_of("x")), headers=seat.headers, timeout=20
        )
        assert 201 == answer.status_code, answer.text
        case.path_parameters["lease_id"] = seat.lease_id
        self.secrets[8:] = [seat.secret]
        return {} if "/admin/" in case.path else seat.headers

    def close(self) -> None:
        self.line.close()
        self.run(self.daemon.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join(30)
        self._loop.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="lls"))
    previous = os.umask(0o077)
    one = Running(folder)
    yield one
    one.close()
    os.umask(previous)
    rmtree(folder)


@pytest.fixture(scope="module")
def operations(running: Running) -> list[Any]:
    """Every call that the document names."""
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    return [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]


@pytest.mark.parametrize("right", EXAMPLES)
def test_whatever_is_sent_is_answered_as_the_document_says_and_tells_no_secret(
    running: Running, operations: list[Any], right: str
) -> None:
    served = {f"{route.method} {route.path}" for route in (*LAN_ROUTES, *NETWORK_ADMIN_ROUTES)}
    assert served - {"GET /openapi.json"} == {one.label for one in operations}  # the document itself was just read
    bounded = settings(
        max_examples=EXAMPLES[right],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
    )
    problems: list[str] = []
    for operation in operations:

        @bounded
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            admin = "/v1/admin/" in case.path
            headers = running.name_what_is_there(case)
            headers |= running.headers(right) if admin else {}
            answer = case.call(base_url=running.url, headers=headers or None, session=running.line)
            case.validate_response(answer, excluded_checks=UNSAID)
            if case.operation.label != BACKUP:
                assert [] == [one for one in running.secrets if one.encode() in answer.content], "a secret was told"
            if right == "nobody" and admin:
                assert answer.status_code in (400, 401, 403, 404, 405, 408, 413, 415, 429), answer.text

        try:
            send()
        except BaseExceptionGroup as group:
            problems += [f"{operation.label}: {one}" for one in group.exceptions]
        except (AssertionError, Fault) as error:
            problems.append(f"{operation.label}: {error}")
    assert not problems, "\n\n".join(problems)
