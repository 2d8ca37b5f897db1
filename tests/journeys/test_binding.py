"""A server that is bound to its machine, which is repaired, then replaced, then given up for a container."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.journeys.other_machine import FOLDER
from tests.journeys.world import Asked, Site

REQUEST, BUNDLE = "site.llsreq", "site.llsbundle"


class Machine:
    """What the daemon takes for its machine at its next start."""

    def __init__(self, root: Path) -> None:
        self.root = root / FOLDER
        self.has("one")

    def has(self, name: str, *parts: str) -> None:
        """These parts are now called so; without any all of them."""
        for part in parts or ("etc/machine-id", "sys/class/dmi/id/product_uuid", "sys/class/dmi/id/board_serial"):
            (self.root / part).parent.mkdir(parents=True, exist_ok=True)
            (self.root / part).write_text(f"{part} {name}", "ascii")


@pytest.fixture
def machine(site: Site) -> Machine:
    site.program = "tests.journeys.other_machine"
    return Machine(site.root)


def machine_line(site: Site) -> str:
    """What ``lls server show`` says of the machine."""
    (line,) = [line for line in site.lls("server", "show").stdout.splitlines() if "Machine" in line]
    return line


def bind(site: Site, *how: str) -> None:
    """The errand: request, registration, bundle, import."""
    server_id = site.admin("GET", "/v1/admin/server")["server_id"]
    site.lls("server", "request", "-o", REQUEST, "--force")
    site.issuer("server", "register", REQUEST, *how)
    site.issuer("bundle", "issue", "--server", server_id, "-o", BUNDLE)
    site.lls("bundle", "import", BUNDLE)


def test_a_changed_machine_goes_on_for_its_grace_until_the_vendor_binds_it_anew(site: Site, machine: Machine) -> None:
    site.licensed()
    bind(site, "--binding", "host")
    assert machine_line(site).endswith("the licensed one")
    held = Asked.new(random.Random(1))
    assert 201 == site.https().checkout(held).status

    site.stop()
    machine.has("two", "sys/class/dmi/id/board_serial")
    site.start()
    assert "the licensed one (changed: board serial; 2 of 3 parts must still be there)" in machine_line(site)
    bind(site)
    assert machine_line(site).endswith("the licensed one")

    site.stop()
    machine.has("three")
    site.start()
    assert "NOT THE LICENSED ONE" in machine_line(site)
    assert any("type=unbound" in line and "changed=machine_id,product_uuid,board_serial" in line for line in site.log)
    https = site.https()
    assert 200 == https.heartbeat(held).status
    assert 201 == https.checkout(Asked.new(random.Random(2))).status, "the grace has not ended"
    site.lls("server", "request", "-o", REQUEST, "--force")
    refused = site.issuer("server", "register", REQUEST, status=1)
    assert "--rebind REASON" in refused.stderr
    bind(site, "--rebind", "a new server, says the site")
    assert machine_line(site).endswith("the licensed one")

    site.stop()
    (machine.root / ".dockerenv").touch()
    site.start()
    assert "NOT THE LICENSED ONE" in machine_line(site)
    site.lls("server", "request", "-o", REQUEST, "--force")
    refused = site.issuer("server", "register", REQUEST, "--rebind", "moved", status=1)
    assert "--binding key_only" in refused.stderr
    bind(site, "--binding", "key_only")
    assert "bound to this server's key alone" in machine_line(site)
    assert 200 == site.https().heartbeat(held).status
    kinds = [line["kind"] for line in site.journal() if "bound" in line["kind"]]
    assert ["Unbound", "Rebound", "Unbound", "Rebound"] == kinds


def test_a_backup_that_is_put_back_on_another_machine_is_adopted_and_bound_there(
    site: Site, machine: Machine, tmp_path: Path
) -> None:
    site.licensed()
    bind(site, "--binding", "host")
    backup = tmp_path / "saved.llsbackup"
    site.lls("backup", "-o", backup)
    assert 201 == site.https().checkout(Asked.new(random.Random(1))).status
    site.reported()
    site.kill()
    machine.has("another")
    site.lls("restore", backup, "--force")
    site.start()
    assert "NOT THE LICENSED ONE" in machine_line(site)
    assert 201 == site.https().checkout(Asked.new(random.Random(2))).status, "the grace has not ended"
    server_id = site.admin("GET", "/v1/admin/server")["server_id"]
    site.lls("server", "request", "-o", REQUEST, "--force")
    refused = site.issuer("server", "register", REQUEST, status=1)
    assert "server adopt" in refused.stderr
    adopt = ("--reason", "the board is dead", "server", "adopt", REQUEST, "--confirm", "lls")
    assert "repeat the command with --rebind REASON" in site.issuer(*adopt, status=1).stderr
    site.issuer(*adopt, "--rebind", "the board is dead")
    site.issuer("bundle", "issue", "--server", server_id, "-o", BUNDLE)
    assert "After the restore" in site.lls("bundle", "import", BUNDLE).stdout
    assert machine_line(site).endswith("the licensed one")
    assert "ok" == site.admin("GET", "/v1/admin/server")["chain"]
    site.verify_journal()
    site.reported()
    assert "lost with a restore" in site.lls("journal", "verify").stdout
    # The command's own process does not see the machine that was written down, so that check fails; the journal counts.
    findings = json.loads(site.lls("doctor", "--json", status=1).stdout)["findings"]
    assert ["ok"] == [one["state"] for one in findings if one["check"] == "journal"]
