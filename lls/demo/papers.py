"""What crosses the gap, in order: the first key, the licence, and in the end the report, the receipt and the bill.

Each function is one walk of a person between two desks, in the commands that this person types. Nothing is judged here
beyond what the commands judge themselves: a refused document ends the demonstration.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping

from lls.demo.screen import Screen
from lls.demo.world import CATALOG, World, found

_SERVER_ID = re.compile(r"lls_[A-Za-z0-9_-]{22}")
_REPORT_ID = re.compile(r"rpt_[A-Za-z0-9_-]{22}")


def open_shop(world: World, screen: Screen) -> None:
    """The vendor's keys and catalogue, and the key set that everybody trusts."""
    screen.title("The vendor opens shop")
    world.issuer("init", "--no-passphrase")
    world.write("vendor", world.vendor / "catalog.toml", CATALOG)
    world.issuer("catalog", "load", "vendor/catalog.toml")
    world.issuer("customer", "add", "ACME", "ACME Turbines")
    world.issuer("keys", "export", "-o", "site/vendor.llskeys")
    screen.say("         (the key set comes with the product; it is public)", style="dim")


def license_site(world: World, screen: Screen, seats: Mapping[str, int]) -> None:
    """The daemon runs, and ``seats`` by SKU are sold to it."""
    screen.title("The site starts its server, which asks to be licensed")
    world.write_settings()
    world.start_daemon()
    world.lls("server", "request", "-o", "stick/site.llsreq")
    world.carry("site.llsreq", to="vendor")
    screen.title("The vendor sells seats and signs them for this one server")
    registered = world.issuer("server", "register", "stick/site.llsreq", "--customer", "ACME")
    server_id = found(_SERVER_ID, registered, "server id")
    world.write_order(server_id, seats)
    world.issuer("order", "fulfil", "vendor/order.json")
    world.issuer("bundle", "issue", "--server", server_id, "-o", "stick/site.llsbundle")
    world.carry("site.llsbundle", to="site")
    world.lls("bundle", "import", "stick/site.llsbundle")


def report(world: World, screen: Screen) -> list[dict[str, str]]:
    """Report and receipt; the bill's lines, as the CSV file has them."""
    screen.title("The site reports what was used")
    world.lls("journal", "verify")
    reported = world.lls("report", "export", "-o", "stick/usage.llsreport")
    world.carry("usage.llsreport", to="vendor")
    screen.title("The vendor verifies every line of it, and acknowledges")
    world.issuer("report", "ingest", "stick/usage.llsreport")
    report_id = found(_REPORT_ID, reported, "report id")
    world.issuer("receipt", "issue", "--report", report_id, "-o", "stick/usage.llsreceipt")
    world.carry("usage.llsreceipt", to="site")
    world.lls("receipt", "import", "stick/usage.llsreceipt")
    world.lls("journal", "verify")
    world.issuer("usage", "export", "-o", "vendor/billing.csv")
    with (world.vendor / "billing.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
