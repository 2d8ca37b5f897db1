"""Upgrade and downgrade of a real process: no lease is lost, and an older program keeps its hands off."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing

from lls.store.sqlite import known_steps
from tests.journeys.world import Asked, Site, one_sentence
from tests.releases.test_releases import HERE, RELEASES, thaw

LUCK = random.Random(23)
FIRST = 1
"""The schema of release 0.1.0."""


def _back_to_the_first_release(database: sqlite3.Connection) -> None:
    """Its tables, its notes of them, and the rows as they are: what it would have left of the same life."""
    with closing(sqlite3.connect(":memory:")) as first:
        first.executescript(known_steps()[FIRST])
        columns = {
            table: [name for _, name, *_ in first.execute(f"PRAGMA table_info({table})")]  # the first release's own
            for (table,) in first.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    kept = {
        table: database.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()  # noqa: S608 - our own names
        for table, names in columns.items()
    }
    database.execute("DELETE FROM migrations WHERE version > ?", (FIRST,))
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        if table not in ("migrations", "sqlite_sequence"):
            database.execute(f"DROP TABLE {table}")
    database.executescript(known_steps()[FIRST])
    for table, rows in kept.items():
        database.execute(f"DELETE FROM {table}")  # noqa: S608
        marks = ", ".join("?" * len(columns[table]))
        database.executemany(f"INSERT INTO {table} ({', '.join(columns[table])}) VALUES ({marks})", rows)  # noqa: S608


def test_an_upgrade_in_place_under_live_leases_loses_none(site: Site) -> None:
    site.licensed(quantity=9, lease_seconds=60)
    https, held = site.https(), [Asked.new(LUCK) for _ in range(6)]
    assert {201} == {https.checkout(one).status for one in held}
    assert 204 == https.checkin(held.pop()).status
    assert 0 == site.stop()
    with closing(sqlite3.connect(site.state / "lls.sqlite3")) as database, database:
        _back_to_the_first_release(database)
    assert "warn" in site.lls("doctor", "--json").stdout
    site.start()
    after = site.https()
    assert {200} == {after.heartbeat(one).status for one in held}
    assert {one.lease_id for one in held} == {
        one["lease_id"] for one in site.admin("GET", "/v1/admin/leases")["leases"]
    }
    site.verify_journal()
    kinds = [line["kind"] for line in site.journal()]
    assert ("Resumed", 0) == (kinds[-1], kinds.count("Expired"))
    with closing(sqlite3.connect(site.state / "lls.sqlite3")) as database:
        assert max(known_steps()) == database.execute("SELECT MAX(version) FROM migrations").fetchone()[0]


def test_this_program_serves_the_clients_of_every_frozen_release(site: Site) -> None:
    for release in RELEASES:
        expected = thaw(release, site.state)
        shutil.copy(HERE / release / "vendor.llskeys", site.keys)
        site.start()
        https = site.https()
        for lease_id, one in expected["leases"].items():
            asked = Asked(lease_id=lease_id, secret=one["token"], seat_id="")
            assert 200 == https.heartbeat(asked).status, (release, one)
        for lease_id, secret in expected["ended"].items():
            answer = https.lease(Asked(lease_id=lease_id, secret=secret, seat_id=""))
            assert (410, "lease_ended") == (answer.status, answer.code)
        site.verify_journal()
        assert 0 == site.stop()
        shutil.rmtree(site.state)


def test_a_newer_database_is_refused_by_an_older_program_with_one_sentence(site: Site) -> None:
    site.licensed(quantity=3, lease_seconds=60)
    asked = Asked.new(LUCK)
    assert 201 == site.https().checkout(asked).status
    assert 0 == site.stop()
    path = site.state / "lls.sqlite3"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO migrations (version, sha256) VALUES (9999, 'of the future')")
    before = path.read_bytes()
    said = one_sentence(site.refused_to_start())
    assert "newer version" in said
    assert "restore a backup" in said
    assert before == path.read_bytes(), "an older program changes nothing"
    done = site.lls("doctor", status=1)
    assert "newer version" in done.stdout
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM migrations WHERE version = 9999")
    site.start()
    assert 200 == site.https().heartbeat(asked).status


def test_the_copy_from_before_the_upgrade_is_the_way_back(site: Site) -> None:
    """What the manual says of a downgrade: the old package, and the state folder as it was before."""
    site.licensed(quantity=3, lease_seconds=60)
    asked = Asked.new(LUCK)
    assert 201 == site.https().checkout(asked).status
    assert 0 == site.stop()
    copy = site.root / "before-the-upgrade"
    shutil.copytree(site.state, copy)
    with closing(sqlite3.connect(site.state / "lls.sqlite3")) as database, database:
        database.execute("INSERT INTO migrations (version, sha256) VALUES (9999, 'of the future')")
    assert "newer version" in one_sentence(site.refused_to_start())
    shutil.rmtree(site.state)
    shutil.copytree(copy, site.state)
    site.start()
    assert 200 == site.https().heartbeat(asked).status
    site.verify_journal()
