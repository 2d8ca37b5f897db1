"""Packages on a bare system without any network: installed, served from, upgraded, removed, purged; and the archive.

One journey, because a bare system costs a minute. Its parts stand below it, each called by its promise.
"""

from __future__ import annotations

import faulthandler
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lls.issuer import Issuer
from tests.journeys.bare import Booted, Guest, Plain, bootstrap, settings, why_not
from tests.journeys.world import CATALOG, ROOT, until
from tests.packaging.stock import make_key

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")

ANSWER_SECONDS = 30.0
NAME = "local-license-server"
NAMED = "plant-4"
REQUEST = f"/mnt/{NAMED}.llsreq"
SEALED = ("--passphrase-file", "/mnt/passphrase")
BEFORE_THE_UPGRADE = "/mnt/before.llsbackup"
DOCUMENTS = f"/usr/share/doc/{NAME}"
COMPLETION = "/usr/share/bash-completion/completions/lls"
HOLD = """
import subprocess
from lls.client import checkout
with checkout("cad") as seat:
    print(subprocess.run(["lls", "lease", "list", "--json"], capture_output=True, text=True, check=True).stdout)
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: sockets in it must fit into 108 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lls-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Vendor:
    """The office beyond the gap, which also makes the packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "issuer"
        folder.mkdir()
        make_key(folder / "sign")
        now = datetime.now(UTC)
        with Issuer.create(self.home, now=now, passphrase=None) as issuer:
            issuer.load_catalog(CATALOG, now=now)
            (folder / "vendor.llskeys").write_text(issuer.keyring.newest.token, "ascii")

    def make(self, revision: int) -> Path:
        """`make package`, branded and signed; the folder of what was made."""
        out = self.folder / f"dist-{revision}"
        words = ["--vendor", "acme", "--vendor-keys", self.folder / "vendor.llskeys", "--revision", revision]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "parcel", "--sign-key", self.folder / "sign", "--out", out),
                *map(str, words),
            ],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'packaging'}", "SOURCE_DATE_EPOCH": "1795000000"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return out

    def sell(self, request: bytes) -> bytes:
        """Register the server, fulfil an order, issue the bundle."""
        now = datetime.now(UTC)
        with Issuer(self.home, now=now) as issuer:
            server = issuer.register_server(request, customer=None, binding=None, now=now)
            order = {
                "order_ref": f"SO-{server.server_id}",
                "account_ref": "ACME",
                "server_id": server.server_id,
                "customer": {"name": "ACME"},
                "lines": [{"line": 1, "action": "new", "sku": "CAD-1Y", "quantity": 5}],
            }
            issuer.fulfil(json.dumps(order).encode(), now=now)
            return issuer.issue_bundle(server.server_id, now=now).data

    def answer(self, request: bytes) -> bytes:
        """Where a restored server goes on: its new request, and the bundle that answers it."""
        now = datetime.now(UTC)
        with Issuer(self.home, now=now) as issuer:
            adopted = issuer.adopt(request, confirm=NAMED, now=now)
            return issuer.issue_bundle(adopted.server.server_id, now=now).data

    def acknowledge(self, report: Path) -> str:
        """Judge a report; the receipt for it."""
        now = datetime.now(UTC)
        with Issuer(self.home, now=now) as issuer:
            taken = issuer.ingest(report, now=now)
            return issuer.issue_receipt(taken.report.report_id, now=now).token


class Service:
    """The server inside, by whichever means the guest has."""

    def __init__(self, guest: Guest, log: Path, unit: str = "/lib/systemd/system/lls.service") -> None:
        self.guest, self.log, self.unit = guest, log, guest.path(unit)

    def start(self) -> None:
        if isinstance(self.guest, Booted):
            self.guest.run("systemctl", "enable", "--now", "lls")
        elif isinstance(self.guest, Plain):
            self.guest.start(self.unit, self.log)

    def stop(self) -> None:
        if isinstance(self.guest, Booted):
            self.guest.run("systemctl", "stop", "lls")
        elif isinstance(self.guest, Plain):
            self.guest.stop()

    def shown(self) -> dict[str, Any]:
        """What the server says of itself."""
        told: dict[str, Any] = json.loads(self.guest.said("lls", "server", "show", "--json"))
        return told


def test_packages_live_their_whole_life_without_any_network(tmp_path: Path, short: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # it may take longer than a test that hangs is given
    root = short / "root"
    vendor = Vendor(tmp_path / "vendor")
    with ThreadPoolExecutor(max_workers=1) as beside:
        bootstrapping = beside.submit(bootstrap, root)
        first = vendor.make(1)
        second = vendor.make(2)
        bootstrapping.result()
    guest: Booted | Plain = Booted.boots(root, tmp_path / "boot.log") or Plain(root)
    try:
        service = Service(guest, tmp_path / "service.log")
        there_is_no_network(guest)
        a_forged_package_is_told_before_it_is_installed(guest, vendor, first)
        the_package_installs_and_starts_nothing(guest)
        the_installed_unit_is_right(guest)
        man_and_the_shell_find_what_they_look_for(guest)
        what_is_typed_sets_a_server_up(guest, service)
        what_is_the_servers_is_nobody_elses(guest)
        the_socket_is_for_root_and_its_group(guest)
        the_whole_loop_goes_by_file(guest, vendor)
        an_examination_finds_nothing_to_mend(guest)
        if isinstance(guest, Booted):
            the_sandbox_is_in_force(guest)
            a_program_that_hangs_is_started_again(guest)
            sealed_keys_are_the_same_server(guest, service)
            the_service_writes_in_the_sites_folder(guest)
        a_backup_comes_back(guest, service, vendor)
        guest.run("lls", "backup", "-o", BEFORE_THE_UPGRADE, *SEALED)
        an_upgrade_keeps_what_there_is(guest, service, second)
        the_way_back_is_the_older_package_and_its_backup(guest, service, first, vendor)
        removed_keeps_and_purged_puts_aside(guest, service, second)
        if isinstance(guest, Booted):
            the_archive_installs_a_service_too(guest, vendor, second)
    finally:
        guest.close()
    container = Plain(root)
    try:
        the_containers_steps_make_a_server(container, tmp_path / "container.log", vendor, second)
    finally:
        container.close()


def deb(folder: Path) -> Path:
    (found,) = folder.glob("*.deb")
    return found


def hand_in(guest: Guest, *files: Path) -> None:
    for file in files:
        shutil.copy(file, guest.path("/mnt"))


def there_is_no_network(guest: Guest) -> None:
    assert "lo" == guest.said("python3", "-c", "import socket; print(*(n for _, n in socket.if_nameindex()))")


def a_forged_package_is_told_before_it_is_installed(guest: Guest, vendor: Vendor, made: Path) -> None:
    hand_in(guest, *made.iterdir(), vendor.folder / "sign.pub")
    whole = guest.path(f"/mnt/{deb(made).name}")
    assert "Verified" in guest.run("sh", "/mnt/verify.sh", "/mnt/sign.pub", "/mnt").stdout
    content = whole.read_bytes()
    whole.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "REFUSED" in guest.run("sh", "/mnt/verify.sh", "/mnt/sign.pub", "/mnt", status=1).stderr
    whole.write_bytes(content)


def the_package_installs_and_starts_nothing(guest: Guest) -> None:
    (file,) = guest.path("/mnt").glob("*.deb")
    told = guest.run("dpkg", "--install", f"/mnt/{file.name}").stdout
    assert "  lls setup\n" in told
    assert ".llskeys" not in told, "a branded package brings the key set"
    assert 3 == guest.run("lls", "server", "show", status=None).returncode
    assert "" == guest.said("dpkg", "--verify", NAME)
    assert "" == guest.run("lls", "config", "check").stderr
    assert "False" == guest.said(
        "/usr/lib/lls/bin/python3", "-c", "import importlib.util as u; print(u.find_spec('pip') is not None)"
    )


def the_installed_unit_is_right(guest: Guest) -> None:
    done = guest.run("systemd-analyze", "verify", "--man=no", "lls.service", status=None)
    assert (0, "") == (done.returncode, done.stderr)
    shown = guest.said("systemd-analyze", "security", "--offline=true", "--no-pager", "/lib/systemd/system/lls.service")
    exposure = re.search(r"Overall exposure level for lls.service: ([0-9.]+)", shown)
    assert exposure is not None
    assert 1.5 >= float(exposure[1])


def man_and_the_shell_find_what_they_look_for(guest: Guest) -> None:
    """Pages as Debian wants them, and a word completed by the installed script and program, with no server running."""
    for page in ("man1/lls.1", "man1/lls-lease.1", "man5/lls.toml.5"):
        assert gzip.decompress(guest.path(f"/usr/share/man/{page}.gz").read_bytes()).startswith(b".TH LLS")
    completed = f"source {COMPLETION}; COMP_WORDS=(lls leas) COMP_CWORD=1; _lls_completion lls; echo $COMPREPLY"
    assert "lease" == guest.said("bash", "-c", completed)


def what_is_typed_sets_a_server_up(guest: Guest, service: Service) -> None:
    """The manual's first start: one command; where nobody starts services, it says how and goes on when typed again."""
    words = ("lls", "setup", "--yes", "--name", NAMED, "--admin", "ann", "--invite", "--request", REQUEST)
    told = guest.run(*words).stdout
    if not isinstance(guest, Booted):
        assert "type lls setup again" in told
        service.start()
        told = guest.run(*words).stdout
    assert "one-time token" in told
    assert "key's fingerprint, by telephone: " in told
    assert f"Next: send {REQUEST} to your vendor" in told
    assert NAMED == service.shown()["name"]


def what_is_the_servers_is_nobody_elses(guest: Guest) -> None:
    listed = guest.said("find", "/var/lib/lls", "-printf", r"%u:%g %m %y\n").splitlines()
    assert {"lls:lls 700 d", "lls:lls 600 f"} == set(listed)


def the_socket_is_for_root_and_its_group(guest: Guest) -> None:
    assert "lls:lls-admin 660" == guest.said("stat", "--format", "%U:%G %a", "/run/lls/admin.sock")
    for name, groups in (("ada", ["--groups", "lls-admin"]), ("eve", [])):
        guest.run("useradd", "--create-home", *groups, name)
    assert 0 == guest.run("lls", "server", "show", user="ada").returncode
    assert 3 == guest.run("lls", "server", "show", user="eve", status=None).returncode


def the_whole_loop_goes_by_file(guest: Guest, vendor: Vendor) -> None:
    at = guest.path("/mnt")
    (at / "site.llsbundle").write_bytes(vendor.sell(guest.path(REQUEST).read_bytes()))
    guest.run("lls", "bundle", "show", "/mnt/site.llsbundle")
    guest.run("lls", "bundle", "import", "/mnt/site.llsbundle")
    (at / "hold.py").write_text(HOLD, "utf-8")
    client = {"LLS_SERVER": "https://127.0.0.1:6501", "LLS_VENDOR_KEYS": "/etc/lls/vendor.llskeys"}
    seen = guest.run("lls", "run", "--product", "cad", "--", "lls", "lease", "list", environ=client).stdout
    assert "root@" in seen, "the manual's first seat"
    held = json.loads(guest.run("/usr/lib/lls/bin/python3", "-I", "/mnt/hold.py", environ=client).stdout)
    assert ["cad"] == [lease["product"] for lease in held["leases"]]
    guest.run("lls", "report", "export", "-o", "/mnt/site.llsreport")
    (at / "site.llsreceipt").write_text(vendor.acknowledge(at / "site.llsreport"), "ascii")
    guest.run("lls", "receipt", "import", "/mnt/site.llsreceipt")
    guest.run("lls", "journal", "verify")
    guest.run("lls", "reload")
    assert "whole" in guest.said("lls", "server", "show")


def an_examination_finds_nothing_to_mend(guest: Guest) -> None:
    """Warnings are the machine's own affair: a bare system may lie in memory."""
    found = json.loads(guest.said("lls", "doctor", "--full", "--json"))
    assert [] == [one for one in found["findings"] if one["state"] == "fail"]


def the_service_writes_in_the_sites_folder(guest: Booted) -> None:
    """The manual's drop folder and scheduled backups, in force in the sandbox; what lies elsewhere is told."""
    ours = guest.path("/etc/lls/lls.toml")
    before = ours.read_text("utf-8")
    guest.run("groupadd", "--system", "transfer")
    guest.run("install", "-d", "-o", "lls", "-g", "lls", "-m", "0751", "/srv/lls")
    folders = [f"/srv/lls/drop{name}" for name in ("", "/in", "/done", "/refused", "/out")]
    guest.run("install", "-d", "-o", "lls", "-g", "transfer", "-m", "2770", *folders)
    named = {"[drop]": "/srv/lls/drop", "[backup]": "/srv/elsewhere"}
    ours.write_text(with_folders(before, named), "utf-8")
    guest.run("systemctl", "restart", "lls")
    told = guest.run("lls", "doctor", status=None).stdout  # 1 as soon as the clock's first backup has failed, too
    assert "cannot write to /srv/elsewhere (backup.folder)" in told
    assert "ReadWritePaths=/srv/elsewhere" in told
    assert "drop.folder" not in told
    guest.run("cp", "/mnt/site.llsbundle", "/srv/lls/drop/in/again.llsbundle")
    ours.write_text(with_folders(before, named | {"[backup]": "/srv/lls/backup"}), "utf-8")
    guest.run("systemctl", "restart", "lls")
    assert "paths" not in json.dumps([one for one in doubts(guest) if one["check"] == "paths"])
    until(lambda: any(guest.path("/srv/lls/backup").glob("*.llsbackup")), seconds=ANSWER_SECONDS, what="a backup")
    words = guest.path("/srv/lls/drop/done/again.llsbundle.txt")
    until(words.exists, seconds=ANSWER_SECONDS, what="taken from the drop folder")
    group = guest.said("getent", "group", "transfer").split(":")[2]
    assert (int(group), 0o100640) == (words.stat().st_gid, words.stat().st_mode), "who carries files reads what became"
    ours.write_text(before, "utf-8")
    guest.run("systemctl", "restart", "lls")


def with_folders(settings: str, named: dict[str, str]) -> str:
    for table, folder in named.items():
        head, found, tail = settings.partition(f"\n{table}\n")
        assert found
        settings = head + found + re.sub(r"^#folder = .*$", f'folder = "{folder}"', tail, count=1, flags=re.MULTILINE)
    return settings


def doubts(guest: Guest) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(guest.said("lls", "doctor", "--json"))["findings"]
    return [one for one in found if one["state"] != "ok"]


def a_backup_comes_back(guest: Guest, service: Service, vendor: Vendor) -> None:
    """Put back by root, it is the service's own again; and the vendor's answer ends what a restore leaves open."""
    before = service.shown()["server_id"]
    secret = guest.path("/mnt/passphrase")
    secret.write_text("a passphrase of several words\n", "ascii")
    secret.chmod(0o600)
    guest.run("lls", "backup", "-o", "/mnt/site.llsbackup", *SEALED)
    guest.run("lls", "restore", "/mnt/site.llsbackup", "--check", *SEALED)
    assert "runs on" in guest.run("lls", "restore", "/mnt/site.llsbackup", "--force", *SEALED, status=1).stderr
    service.stop()
    guest.run("rm", "-r", "/var/lib/lls/keys", "/var/lib/lls/lls.sqlite3")
    guest.run("lls", "restore", "/mnt/site.llsbackup", *SEALED)
    what_is_the_servers_is_nobody_elses(guest)
    guest.run("lls", "doctor")
    service.start()
    shown = service.shown()
    assert (before, "restored") == (shown["server_id"], shown["chain"])
    assert "restored" in [one["check"] for one in doubts(guest)], "it waits for its vendor"
    the_vendor_answers_a_restore(guest, service, vendor)


def the_vendor_answers_a_restore(guest: Guest, service: Service, vendor: Vendor) -> None:
    guest.run("lls", "server", "request", "-o", "/mnt/restored.llsreq", "--force")
    answer = vendor.answer(guest.path("/mnt/restored.llsreq").read_bytes())
    guest.path("/mnt/restored.llsbundle").write_bytes(answer)
    guest.run("lls", "bundle", "import", "/mnt/restored.llsbundle")
    assert "ok" == service.shown()["chain"]


def the_sandbox_is_in_force(guest: Booted) -> None:
    status = guest.said("cat", f"/proc/{guest.property('MainPID')}/status")
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert ("1", "2", "0" * 16, "0" * 16) == (told["NoNewPrivs"], told["Seccomp"], told["CapEff"], told["CapBnd"])
    guest.run("systemctl", "reload", "lls")


def a_program_that_hangs_is_started_again(guest: Booted) -> None:
    """With a shorter patience than the unit's, for the test's sake."""
    drop_in(guest, "patience", "[Service]\nWatchdogSec=4\nRestartSec=100ms\n")
    guest.run("systemctl", "restart", "lls")
    before = guest.property("MainPID")
    time.sleep(6)  # longer than the patience: while it is well, it is left alone
    assert before == guest.property("MainPID")
    guest.run("sh", "-c", f"kill -STOP {before}")
    until(lambda: guest.property("MainPID") not in (before, "0"), seconds=ANSWER_SECONDS, what="started again")
    until(lambda: guest.property("ActiveState") == "active", seconds=ANSWER_SECONDS, what="ready again")
    assert "Fatal Python error: Aborted" in guest.said("journalctl", "--unit=lls", "--no-pager"), "where it hung"
    drop_in(guest, "patience", "")


def sealed_keys_are_the_same_server(guest: Booted, service: Service) -> None:
    """As the manual's chapter says; and the plain files are no longer needed."""
    before = service.shown()["server_id"]
    guest.run("install", "-d", "-m", "0700", "/etc/lls/credentials")
    for name in ("server-id", "signing.pem", "encryption.pem", "site.key"):
        guest.run(
            "systemd-creds", "encrypt", f"--name={name}", f"/var/lib/lls/keys/{name}", f"/etc/lls/credentials/{name}"
        )
    drop_in(guest, "credentials", guest.path(f"{DOCUMENTS}/examples/lls-credentials.conf").read_text("utf-8"))
    guest.run("mv", "/var/lib/lls/keys", "/mnt/keys")
    guest.run("systemctl", "restart", "lls")
    assert before == service.shown()["server_id"]
    guest.run("systemctl", "stop", "lls")
    guest.run("mv", "/mnt/keys", "/var/lib/lls/keys")
    guest.run("rm", "-r", "/etc/lls/credentials")
    drop_in(guest, "credentials", "")
    guest.run("systemctl", "start", "lls")


def drop_in(guest: Booted, name: str, content: str) -> None:
    folder = guest.path("/etc/systemd/system/lls.service.d")
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.conf"
    if content:
        file.write_text(content, "utf-8")
    else:
        file.unlink()
        if not list(folder.iterdir()):
            folder.rmdir()
    guest.run("systemctl", "daemon-reload")


def an_upgrade_keeps_what_there_is(guest: Guest, service: Service, newer: Path) -> None:
    before = service.shown()
    ours = guest.path("/etc/lls/lls.toml")
    ours.write_text(ours.read_text("utf-8").replace(f'name = "{NAMED}"', 'name = "site-a"'), "utf-8")
    if isinstance(guest, Plain):
        service.stop()
    hand_in(guest, deb(newer))
    guest.run("dpkg", "--install", f"/mnt/{deb(newer).name}")
    if isinstance(guest, Plain):
        service.start()
    after = service.shown()
    assert before["server_id"] == after["server_id"]
    assert before["writership"]["epoch"] + 1 == after["writership"]["epoch"], "the running server was started again"
    assert "site-a" == after["name"], "what the site wrote stays"
    assert " cad " in guest.said("lls", "entitlement", "list")


def the_way_back_is_the_older_package_and_its_backup(
    guest: Guest, service: Service, older: Path, vendor: Vendor
) -> None:
    before = service.shown()["server_id"]
    service.stop()
    assert "downgrading" in guest.run("dpkg", "--install", f"/mnt/{deb(older).name}").stderr
    guest.run("lls", "restore", BEFORE_THE_UPGRADE, "--force", *SEALED)
    what_is_the_servers_is_nobody_elses(guest)
    service.start()
    shown = service.shown()
    assert (before, "restored") == (shown["server_id"], shown["chain"])
    the_vendor_answers_a_restore(guest, service, vendor)
    assert " cad " in guest.said("lls", "entitlement", "list")


def removed_keeps_and_purged_puts_aside(guest: Guest, service: Service, newer: Path) -> None:
    before = service.shown()["server_id"]
    if isinstance(guest, Plain):
        service.stop()
    guest.run("dpkg", "--remove", NAME)
    assert not guest.path("/usr/lib/lls").exists(), "bytecode included"
    assert guest.path("/var/lib/lls/keys").is_dir()
    assert guest.path("/etc/lls/lls.toml").exists()
    guest.run("dpkg", "--install", f"/mnt/{deb(newer).name}")
    service.start()
    assert before == service.shown()["server_id"]
    if isinstance(guest, Plain):
        service.stop()
    told = guest.run("dpkg", "--purge", NAME).stdout
    (aside,) = guest.path("/var/lib").glob("lls.purged-*")
    assert f"/var/lib/{aside.name}" in told
    assert before == (aside / "keys/server-id").read_text("ascii")
    assert (0, 0o40700) == (aside.stat().st_uid, aside.stat().st_mode)
    left = guest.said(
        "find",
        "/etc",
        "/usr",
        "/lib/systemd",
        "/run",
        "/var/lib/dpkg/info",
        "-regex",
        r".*/\(_?lls\|lls[.-].*\|local-license-server.*\)",
    )
    assert [] == [path for path in left.splitlines() if "purged" not in path]
    guest.run("dpkg", "--purge", NAME)
    shutil.rmtree(aside)


def unpack_archive(guest: Guest, made: Path) -> None:
    (archive,) = made.glob("*.tar.gz")
    hand_in(guest, archive)
    guest.run(
        "tar",
        "--extract",
        "--directory=/root",
        "--one-top-level=/mnt/archive",
        "--strip-components=1",
        "--file",
        f"/mnt/{archive.name}",
    )


def the_archive_installs_a_service_too(guest: Booted, vendor: Vendor, made: Path) -> None:
    unpack_archive(guest, made)
    guest.run("/mnt/archive/install.sh", "--key", "/mnt/sign.pub")
    guest.run("/mnt/archive/install.sh", "--key", "/mnt/sign.pub")
    done = guest.run("systemd-analyze", "verify", "--man=no", "lls.service", status=None)
    assert (0, "") == (done.returncode, done.stderr)
    guest.run("systemctl", "enable", "--now", "lls")
    assert "0.1.0" == json.loads(guest.said("lls", "server", "show", "--json"))["version"]
    guest.run("systemctl", "reload", "lls")
    shelved = ["find", "/usr/local/share", "-type", "l", "-lname", "/opt/lls/*"]
    assert {"/usr/local/share/man/man1/lls-lease.1", "/usr/local/share/bash-completion/completions/lls"} <= set(
        guest.said(*shelved, "-readable").splitlines()
    )
    guest.run("/mnt/archive/install.sh", "--uninstall")
    assert not guest.path("/opt/lls").exists()
    assert "" == guest.said(*shelved)
    assert guest.path("/var/lib/lls/keys").is_dir()
    guest.run("rm", "-rf", "/var/lib/lls", "/etc/lls", "/mnt/archive")


def the_containers_steps_make_a_server(guest: Plain, log: Path, vendor: Vendor, made: Path) -> None:
    """No builder of images is at hand: each RUN of the Containerfile is run; USER, CMD and HEALTHCHECK are obeyed."""
    unpack_archive(guest, made)
    guest.run("mv", "/mnt/archive", "/archive")
    shutil.copy(vendor.folder / "sign.pub", guest.path("/key.pem"))
    for user in ("lls", "ada", "eve"):
        guest.run("userdel", user, status=None)
    guest.run("groupdel", "lls-admin", status=None)
    lines = guest.path("/archive/Containerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("RUN "):
            guest.run("sh", "-c", line.removeprefix("RUN "))
    told = dict(line.split(maxsplit=1) for line in lines if re.match(r"(USER|ENTRYPOINT|CMD|HEALTHCHECK|ENV) ", line))
    uid, gid = told["USER"].split(":")
    environ = [f"PATH=/opt/lls/current/bin:{os.defpath}", "PYTHONDONTWRITEBYTECODE=1"]
    assert told["ENV"] == "PATH=/opt/lls/current/bin:$PATH PYTHONDONTWRITEBYTECODE=1"
    shutil.copy(vendor.folder / "vendor.llskeys", guest.path("/etc/lls/vendor.llskeys"))
    guest.path("/etc/lls/vendor.llskeys").chmod(0o644)
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--no-new-privs", "env", "-i", *environ]
    serve = [*json.loads(told["ENTRYPOINT"]), *json.loads(told["CMD"])]
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            ["nsenter", "--target", str(guest.leader), *guest.entering, "--", *as_user, *serve],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            healthy = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
            until(
                lambda: guest.run(*as_user, *healthy, status=None).returncode == 0,
                seconds=ANSWER_SECONDS,
                what=f"healthy; {log}",
            )
        finally:
            guest.run("sh", "-c", "for p in /proc/[0-9]*; do grep -qs '^lls' $p/comm && kill ${p#/proc/}; done; true")
            assert 0 == daemon.wait(ANSWER_SECONDS), log.read_text("utf-8")


def test_the_plain_guest_obeys_the_unit() -> None:
    """What ``Plain.start`` takes from the unit is there; a setting that is renamed must not be passed over."""
    named = {"User", "Group", "SupplementaryGroups", "UMask", "LimitNOFILE", "WatchdogSec", "ExecStart"}
    named |= {"StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode"}
    assert set() == named - set(settings(ROOT / "systemd/lls.service"))
