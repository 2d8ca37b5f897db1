"""``lls support-bundle``: secrets and names are planted everywhere, and none of them is in the file."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import zipfile
from pathlib import Path

from tests.journeys.world import Asked, Site, until

CODE = "Y64E-G6QX-56EW-W1BG"
PEOPLE = ["ada", "zerlinda", "ws-planted-7", "Kiosk Planted", "10.77.0.0/16", "planted-group", "fingerprint-planted"]
POLICY = f"""
format = 1
[groups.{PEOPLE[5]}]
users = ["{PEOPLE[1]}"]
hosts = ["{PEOPLE[2]}"]
networks = ["{PEOPLE[4]}"]
[[deny]]
name = "{PEOPLE[3]}"
product = "cad"
for = {{ groups = ["{PEOPLE[5]}"] }}
"""


def inside(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def secrets_of(site: Site, *more: str) -> list[str]:
    keys = [path.read_bytes() for path in (site.state / "keys").iterdir() if path.suffix in (".pem", ".key")]
    lines = [line for key in keys if key.startswith(b"-----") for line in key.decode().splitlines()[1:-1]]
    return [*more, *lines, *(key.hex() for key in keys if not key.startswith(b"-----"))]


def test_nothing_that_was_planted_is_in_the_bundle(site: Site, tmp_path: Path) -> None:
    policy, log = tmp_path / "policy.toml", tmp_path / "lls.log"
    policy.write_text(POLICY)
    with site.config.open("a") as settings:
        settings.write(f'[policy]\nfile = "{policy}"\n[log]\nfile = "{log}"\n')
    site.licensed(lease_seconds=60)
    https, asked = site.https(), Asked.new(random.Random(3))
    asked.seat_id = PEOPLE[6]
    assert 201 == https.checkout(asked).status
    body = {
        "lease_id": Asked.new(random.Random(4)).lease_id,
        "product": "cad",
        "holder": {"seat_id": PEOPLE[6], "user": PEOPLE[1], "host": PEOPLE[2]},
        "nonce": "n" * 43,
    }
    https.ask("POST", "/v1/leases", body, secret=Asked.new(random.Random(5)).secret)
    # What nobody should have logged, logged: a refused policy quotes its file.
    policy.write_text(POLICY.replace(f'groups = ["{PEOPLE[5]}"]', f'groups = ["{PEOPLE[1]}"]'))
    site.signal(signal.SIGHUP)
    until(lambda: "policy_refused" in log.read_text(), seconds=10, what="refused", log=site.log)

    assert PEOPLE[1] in log.read_text(), "the name must be there to be taken out"
    secrets = [*secrets_of(site, CODE, asked.secret), *PEOPLE]
    for state in ("running", "resting"):
        file = tmp_path / f"{state}.zip"
        said = site.lls("support-bundle", "-o", file).stdout
        parts = inside(file)
        assert {"MANIFEST.txt", "doctor.json", "settings.json", "versions.json", "files.json", "log.txt"} <= set(parts)
        assert [] == [name for name in parts if name not in parts["MANIFEST.txt"] and name != "MANIFEST.txt"]
        everything = "\n".join(parts.values())
        assert [] == [secret for secret in secrets if secret.casefold() in everything.casefold()], state
        assert "policy_refused" in parts["log.txt"]
        assert 1 == json.loads(parts["journal.json"])["kinds"]["Granted"]
        assert 0o600 == file.stat().st_mode & 0o777
        assert "MANIFEST.txt" in said
        if state == "running":
            assert {"server.json", "entitlements.json", "leases.json", "metrics.json"} <= set(parts)
            (lease,) = json.loads(parts["leases.json"])["newest"]
            assert {"user", "seat_id"} <= set(lease["holder"])
            assert 0 == site.stop()
            with log.open("a") as file_:
                file_.write(f'2026-11-21T07:00:00.000Z ERROR x y why="{CODE} Bearer {asked.secret} {PEOPLE[2]}"\n')


PLACES = ["hooks-planted.site", "token-planted", "relay-planted.site", "log-planted.site", "10.77.3.0", "10.78.4.0"]
MAILS = ["keeper-planted@site.example", "sender-planted@site.example", "account-planted"]


def test_nothing_of_events_accounts_and_networks_is_in_the_bundle(site: Site, tmp_path: Path) -> None:
    secret, password, log = tmp_path / "secret", tmp_path / "password", tmp_path / "lls.log"
    secret.write_text(base64.b64encode(b"signs-planted-secret-of-webhooks").decode())
    password.write_text("password-planted")
    with site.config.open("a") as settings:
        settings.write(f"""
[access]
allow = ["127.0.0.0/8", "{PLACES[4]}/24"]
trusted_proxies = ["{PLACES[5]}/24"]
[admin]
http = true
allow = ["127.0.0.0/8", "{PLACES[4]}/24"]
[log]
file = "{log}"
[events]
webhook_urls = ["https://{PLACES[0]}/{PLACES[1]}"]
webhook_secret_file = "{secret}"
smtp_server = "{PLACES[2]}:587"
smtp_from = "{MAILS[1]}"
smtp_to = ["{MAILS[0]}"]
smtp_user = "{MAILS[2]}"
smtp_password_file = "{password}"
syslog = "udp://{PLACES[3]}:514"
retry_hours = 0
""")
    site.licensed(lease_seconds=60)
    people = ["zerlinda-planted", "monitoring-planted"]
    invited = site.lls("user", "add", people[0], "--role", "viewer", "--invite").stdout
    made = site.lls("key", "add", people[1], "--role", "viewer").stdout
    tokens = [word for word in (*invited.split(), *made.split()) if len(word) >= 40]
    assert len(tokens) >= 2
    site.lls("events", "test")

    def names_a_place() -> bool:
        told = [line for line in log.read_text().splitlines() if "event_" in line]
        return any(place in line for line in told for place in PLACES)

    until(
        names_a_place, seconds=20, what="told of an event that nobody took, and a place to be taken out", log=site.log
    )
    signed = [secret.read_text(), password.read_text(), "signs-planted"]
    planted = [*secrets_of(site), *tokens, *people, *PLACES, *MAILS, *signed]
    for state in ("running", "resting"):
        file = tmp_path / f"{state}.zip"
        site.lls("support-bundle", "-o", file)
        everything = "\n".join(inside(file).values())
        assert [] == [one for one in planted if one.casefold() in everything.casefold()], state
        if state == "running":
            assert 0 == site.stop()
            with log.open("a") as more:
                more.write(f"2026-11-21T07:00:00.000Z ERROR x y why={people[0]} {PLACES[3]} {people[1]}\n")


def test_a_bundle_is_made_of_settings_that_are_wrong(site: Site, tmp_path: Path) -> None:
    site.config.write_text("[server]\nlistne = []\n")
    file = tmp_path / "wrong.zip"
    site.lls("support-bundle", "-o", file)
    parts = inside(file)
    assert "settings.json" in parts["MANIFEST.txt"]
    assert "listen" in parts["doctor.json"]


def test_a_databases_password_and_a_home_directory_are_not_shown(site: Site, tmp_path: Path) -> None:
    site.open_vendor()
    file = tmp_path / "url.zip"
    with site.config.open("a") as settings:
        settings.write(
            '[store]\nurl = "postgresql://lls:hunter-two@db/lls"\n[policy]\nfile = "/home/zoe/policy.toml"\n'
        )
    site.lls("support-bundle", "-o", file)
    everything = "\n".join(inside(file).values())
    assert [] == [word for word in ("hunter-two", "zoe") if word in everything]
    assert os.path.getsize(file) < 100_000  # noqa: PTH202


def test_more_is_logged_for_a_while(site: Site) -> None:
    site.licensed(lease_seconds=60)
    assert "level debug on until" in site.lls("log", "level", "debug", "--for", "10min").stdout
    assert ("debug", "info") == tuple(
        json.loads(site.lls("log", "show", "--json").stdout)[one] for one in ("level", "usual")
    )
    assert "as the settings say" in site.lls("log", "level", "info").stdout
    site.lls("log", "level", "debug", "--for", "tomorrow", status=2)
