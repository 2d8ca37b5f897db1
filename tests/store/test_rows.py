"""Every kind of row comes back as it was committed, and goes when it is told to."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lls.faults import LeaseEnd
from lls.licensing.account import ApiKey, Role, User
from lls.licensing.changes import (
    AnsweredRequest,
    Batch,
    Ended,
    Fact,
    FeatureAct,
    KeptBundle,
    Loaded,
    LotUse,
    Placed,
    ReturnedEntitlement,
    SealedReport,
)
from lls.licensing.journal import Entry, Head, Kind, entry
from lls.licensing.lease import Holder, Lease, LeaseState, Mode
from lls.store.sqlite import DATABASE, SqliteStore
from tests.ledgers import T0

LATER = T0 + timedelta(days=14, microseconds=7)

PLAIN = Lease(
    lease_id="plain",
    secret=b"s" * 32,
    content=b"c" * 32,
    product="cad",
    entitlement_id="ent_1",
    holder=Holder(seat_id="machine 1"),
    seats=1,
    ttl=600,
    overdraft=False,
    granted_at=T0,
)
BORROWED = replace(
    PLAIN,
    lease_id="borrowed",
    holder=Holder(seat_id="machine 2", seat_name="desk", user="ann", host="ws1", process="7"),
    mode=Mode.BORROWED,
    until=LATER,
    key="thumbprint",
    address="10.1.0.9",
    features={"render": 3, "größe": 1},
    overdraft=True,
)
LOCKED = replace(PLAIN, lease_id="locked", mode=Mode.NODE_LOCKED, state=LeaseState.LINGERING)
BUNDLE = KeptBundle(
    bundle_id="bnd_1", sequence=1, keys_version=1, issued_at=T0, imported_at=LATER, digest="d", jws="signed"
)
PLACED = Placed(
    entitlement_id="ent_1",
    session_id="ses_1",
    sequence=1,
    bundle_id="bnd_1",
    started_at=LATER,
    returning=True,
    assigned=("Ann", 'b "o" b'),
    renamed_at=(T0, LATER),
)
UNTOUCHED = Placed(entitlement_id="ent_2", session_id="ses_2", sequence=4, bundle_id="bnd_1")
LOT = LotUse(entitlement_id="ent_1", feature="render", lot="allowance", used=10**15, ended=True)
OTHER_LOT = replace(LOT, lot="overdraft", used=0, ended=False)
USE = AnsweredRequest(
    seq=7,
    lease_id="plain",
    request_id="use",
    act=FeatureAct.USE,
    entitlement_id="ent_1",
    feature="render",
    amount=12,
    at=T0,
    held=0,
    available=None,
    total=None,
    draws=(("grt_1", 5), ("overdraft", 7)),
    undone=True,
)
TAKEN = replace(
    USE,
    seq=8,
    request_id="taken",
    act=FeatureAct.CHECKOUT,
    at=LATER,
    held=12,
    available=3,
    total=15,
    draws=(),
    undone=False,
)
RETURNED = ReturnedEntitlement(
    entitlement_id="ent_9",
    session_id="ses_9",
    up_to_seq=1,
    head="h",
    meters='[{"feature":"render"}]',
    borrowed_until=LATER,
    made_at=T0,
)
USER = User(
    name="ann",
    role=Role.OPERATOR,
    made_at=T0,
    password="$argon2id$v=19$…",
    totp="JBSWY3DPEHPK3PXP",
    totp_step=59_000_000,
    invite=b"i" * 32,
    invite_until=LATER,
    version=7,
)
INVITED = User(name="bob", role=Role.VIEWER, made_at=LATER)
KEY = ApiKey(
    key_id="key_1",
    name="größe",
    role=Role.ADMIN,
    made_at=T0,
    digest=b"d" * 32,
    scopes=("leases:read", "metrics"),
    expires_at=LATER,
)
LASTING = ApiKey(key_id="key_2", name="x", role=Role.VIEWER, made_at=T0, digest=b"e" * 32)
AGAIN = replace(RETURNED, session_id="ses_10", up_to_seq=2, borrowed_until=None)
REPORT = SealedReport(report_id="rpt_1", from_seq=1, to_seq=1, prev_head="p", head="h", made_at=T0, pseudonymised=True)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path)
    await opened.take_writership()
    yield opened
    await opened.close()


def batch(before: Head | None = None, **changes: Any) -> tuple[Batch, Head]:
    """One line and what comes with it."""
    before = before or Head()
    line = entry(before, at=T0, kind=Kind.ADMIN_ACTED, data={"act": "noted"})
    head = Head(seq=line.seq, hash=line.hash)
    return Batch(before=before, head=head, entries=[line], **changes), head


def everything() -> tuple[Batch, Entry]:
    made, _ = batch(
        leases={lease.lease_id: lease for lease in (PLAIN, BORROWED, LOCKED)},
        ended={"gone": Ended(secret=b"x", reason=LeaseEnd.BORROW_ENDED, at=T0)},
        names={("commitment", "user"): "ann"},
        bundles=[BUNDLE],
        placed={"ent_1": PLACED, "ent_2": UNTOUCHED},
        key_sets={1: "keys"},
        closed_sessions={"ses_9"},
        commands={"cmd_1"},
        receipts={"rcp_1"},
        reports=[REPORT],
        facts={Fact.POLICY: "format = 1\n"},
        lots={(lot.entitlement_id, lot.feature, lot.lot): lot for lot in (LOT, OTHER_LOT)},
        requests={(one.lease_id, one.request_id): one for one in (TAKEN, USE)},
        returns=[RETURNED, AGAIN],
        users={"ann": USER, "bob": INVITED},
        api_keys={"key_1": KEY, "key_2": LASTING},
    )
    return made, made.entries[0]


async def commit(store: SqliteStore, made: Batch) -> Loaded:
    await store.commit(made, epoch=1, mark=T0)
    return await store.load()


async def test_a_commit_with_every_kind_of_row_is_loaded_as_it_was(store: SqliteStore) -> None:
    made, line = everything()
    loaded = await commit(store, made)
    assert made.head == loaded.head
    assert {key: lease and lease.facts() for key, lease in made.leases.items()} == {
        lease.lease_id: lease.facts() for lease in loaded.leases
    }
    assert made.ended == loaded.ended
    assert made.bundles == loaded.bundles
    assert [PLACED, UNTOUCHED] == sorted(loaded.placed, key=lambda placed: placed.entitlement_id)
    assert made.key_sets == loaded.key_sets
    assert made.closed_sessions == loaded.closed_sessions
    assert made.commands == loaded.commands
    assert made.receipts == loaded.receipts
    assert made.reports == loaded.reports
    assert made.facts == loaded.facts
    assert [LOT, OTHER_LOT] == sorted(loaded.lots, key=lambda lot: lot.lot)
    assert [USE, TAKEN] == loaded.requests  # in the order of their instants
    assert [RETURNED, AGAIN] == loaded.returns
    assert [USER, INVITED] == sorted(loaded.users, key=lambda user: user.name)
    assert [KEY, LASTING] == sorted(loaded.api_keys, key=lambda key: key.key_id)
    assert (T0, line.line) == (loaded.last_at, loaded.last_line)


async def test_a_row_that_is_written_again_stands_there_once(store: SqliteStore) -> None:
    made, _ = everything()
    await commit(store, made)
    lease, placed = replace(BORROWED, until=LATER + timedelta(days=1), features={}), replace(PLACED, returning=False)
    lot, use = replace(LOT, used=7), replace(USE, undone=False)
    key = lot.entitlement_id, lot.feature, lot.lot
    changed, _ = batch(
        made.head,
        leases={lease.lease_id: lease},
        placed={"ent_1": placed},
        lots={key: lot},
        requests={("plain", "use"): use},
    )
    loaded = await commit(store, changed)
    assert lease.facts() in [one.facts() for one in loaded.leases]
    assert [3, 2, 2, 2] == [len(rows) for rows in (loaded.leases, loaded.placed, loaded.lots, loaded.requests)]
    assert placed in loaded.placed
    assert lot in loaded.lots
    assert use in loaded.requests


async def test_a_row_that_is_none_goes_and_no_other(store: SqliteStore) -> None:
    made, _ = everything()
    await commit(store, made)
    gone, _ = batch(
        made.head,
        leases={"borrowed": None},
        placed={"ent_1": None},
        lots={(LOT.entitlement_id, LOT.feature, LOT.lot): None, ("ent_1", "render", "never written"): None},
    )
    loaded = await commit(store, gone)
    assert {"plain", "locked"} == {lease.lease_id for lease in loaded.leases}
    assert [UNTOUCHED] == loaded.placed
    assert [OTHER_LOT] == loaded.lots


async def test_users_and_keys_go_and_change_one_by_one_without_a_line(store: SqliteStore) -> None:
    made, _ = everything()
    await commit(store, made)
    stepped = replace(USER, totp_step=USER.totp_step + 1)
    users: dict[str, User | None] = {"ann": stepped, "bob": None}
    after = Batch(before=made.head, head=made.head, users=users, api_keys={"key_1": None})
    assert not after.empty
    loaded = await commit(store, after)
    assert ([stepped], [LASTING], made.head) == (loaded.users, loaded.api_keys, loaded.head)


async def test_answered_requests_are_forgotten_when_they_were_kept_long_enough(
    store: SqliteStore, tmp_path: Path
) -> None:
    long = replace(USE, seq=9, request_id="long", strict=LATER, kept_until=T0 + timedelta(days=20))
    ahead = replace(TAKEN, seq=10, request_id="ahead", kept_until=T0 + timedelta(days=2))
    made, head = batch(requests={(one.lease_id, one.request_id): one for one in (long, TAKEN, USE, ahead)})
    assert {"long", "taken", "use", "ahead"} == {one.request_id for one in (await commit(store, made)).requests}
    for before, left in (
        (T0 + timedelta(hours=25), [long, USE, TAKEN, ahead]),
        (T0 + timedelta(hours=25, seconds=1), [long, TAKEN, ahead]),
        (T0 + timedelta(days=2, seconds=1), [long, TAKEN]),
        (T0 + timedelta(days=19), [long]),
        (T0 + timedelta(days=21), []),
    ):
        forgetting, head = batch(head, forget_requests_before=before)
        await store.commit(forgetting, epoch=1, mark=LATER)
        assert {one.request_id: one for one in left} == {one.request_id: one for one in (await store.load()).requests}
    with sqlite3.connect(tmp_path / DATABASE) as database:
        (plan,) = database.execute("EXPLAIN QUERY PLAN DELETE FROM requests WHERE kept_until < 1").fetchall()
    database.close()
    assert "INDEX requests_kept_until" in plan[-1]


@pytest.mark.parametrize("parameters", [999, 32_766])
async def test_many_rows_go_in_whatever_number_of_parameters_the_database_takes(
    store: SqliteStore, parameters: int
) -> None:
    def limit(database: sqlite3.Connection) -> None:
        database.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, parameters)

    await store._on_writer(limit)  # noqa: SLF001 - a limit needs the connection itself
    wanted = {f"lease {number}" for number in range(203)}
    made, _ = batch(
        leases={name: replace(PLAIN, lease_id=name) for name in wanted},
        requests={("plain", name): replace(USE, seq=seq, request_id=name) for seq, name in enumerate(wanted)},
    )
    loaded = await commit(store, made)
    assert wanted == {lease.lease_id for lease in loaded.leases}
    assert wanted == {request.request_id for request in loaded.requests}
