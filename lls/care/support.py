"""The support bundle: what a stranger needs to find a fault from afar, and nothing about people.

Rules
1. Every part is made of values that are shown anyway, and goes through :class:`~lls.care.pseudonyms.Pseudonyms` as its
   last step. Keys, passphrases, leases' secrets, activation codes and the policy's text are not collected at all.
2. The journal is counted, not copied; of leases the newest thousand are listed.
3. What cannot be collected is a sentence in the manifest, never an error: a bundle is made when something is broken.
4. The ledger is read in the loop, in slices; names are taken out in a thread. Whoever asks for a bundle keeps nobody
   waiting.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import pwd
import socket
import sqlite3
import ssl
import stat
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from lls import __version__
from lls.care.pseudonyms import Pseudonyms
from lls.config import Config
from lls.faults import Fault
from lls.licensing.account import ApiKey, User
from lls.licensing.changes import Fact
from lls.licensing.journal import Kind
from lls.licensing.ledger import Ledger
from lls.store import Store
from lls.store.resting import RestingStore
from lls.turns import in_turns

MOST_NAMES: Final = 50_000
MOST_LEASES: Final = 1_000
MOST_LINES: Final = 1_000_000
LIBRARIES: Final = (
    *("aiohttp", "aiosqlite", "apscheduler", "cryptography", "joserfc", "msgspec", "prometheus-client"),
    *("rfc8785", "rich", "typer", "uvloop"),
)
LOG_BYTES: Final = 1024 * 1024
MANIFEST: Final = "MANIFEST.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of the bundle, and a sentence about it."""

    name: str
    holds: str
    text: str


# ---------------------------------------------------------------- what names there are


async def pseudonyms_of(ledger: Ledger, store: Store, config: Config, *, key: bytes) -> Pseudonyms:
    """Every name that this server knows: of leases, terms, policy, journal, accounts, and of the settings for mail."""
    codes = [code for pool in ledger.pools.values() for code in pool.entitlement.activation_codes]
    names = [*_names_of(ledger), *setting_names(config)]
    async for lease in in_turns(ledger.committed_leases()):
        names += lease.holder.named().items()
        if lease.address:
            names.append(("address", lease.address))
    names += [(field, value) for field, value in await store.known_names(limit=MOST_NAMES) if field != "policy"]
    return await asyncio.to_thread(Pseudonyms, key, names=names, codes=codes)


def _names_of(ledger: Ledger) -> Iterator[tuple[str, str]]:
    yield from machine_names()
    for waiter in ledger.waiting:
        yield from waiter.checkout.holder.named().items()
    for pool in ledger.pools.values():
        yield from (("user", name) for name in pool.entitlement.named_users.names)
    for placed in ledger.placed.values():
        yield from (("user", name) for name in placed.assigned)
    yield from account_names(ledger.accounts.users, ledger.accounts.keys)
    yield from policy_names(ledger.facts.get(Fact.POLICY, ""))


def account_names(users: Iterable[User], keys: Iterable[ApiKey]) -> Iterator[tuple[str, str]]:
    """Who may administer. The journal may have forgotten them: their lines leave with the archive."""
    yield from (("user", user.name) for user in users)
    yield from (("key", key.name) for key in keys)


def setting_names(config: Config) -> Iterator[tuple[str, str]]:
    """Machines and people of the site that the settings name, and the secret in an address; a log names them, too."""
    events, access = config.events, config.access
    for place in (events.smtp_server, *events.webhook_urls, events.syslog):
        parts = urlsplit(place if "://" in place else f"//{place}")
        if parts.hostname:
            yield "host", parts.hostname
        if parts.path.strip("/"):
            yield "path", parts.path  # of a webhook it often is the token
    yield from (("mail", address) for address in (*events.smtp_to, events.smtp_from, events.smtp_user) if address)
    for network in (*access.allow, *access.trusted_proxies, *config.admin.allow):
        yield "address", network


def machine_names() -> Iterator[tuple[str, str]]:
    """This machine, and the people who have an account on it."""
    yield "host", socket.gethostname()
    for account in pwd.getpwall():
        if account.pw_uid >= 1_000 and account.pw_name != "nobody":  # noqa: PLR2004 - where people begin
            yield "user", account.pw_name


def policy_names(text: str) -> Iterator[tuple[str, str]]:
    """Users, hosts, networks, groups and rules that a policy names."""
    try:
        read = tomllib.loads(text)
    except ValueError:
        return
    groups = read.get("groups")
    if isinstance(groups, dict):
        yield from (("group", str(name)) for name in groups)
    yield from _named_in(read)


_POLICY_FIELDS: Final = {"users": "user", "hosts": "host", "networks": "address"}


def _named_in(value: object, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _named_in(one, _POLICY_FIELDS.get(str(key), str(key)))
    elif isinstance(value, list):
        for one in value:
            yield from _named_in(one, field)
    elif isinstance(value, str) and field in ("user", "host", "address", "name"):
        yield field, value


# ---------------------------------------------------------------- parts of a server


async def parts_of_ledger(ledger: Ledger, store: Store, hide: Pseudonyms) -> list[Part]:
    """Leases, denials and the journal in figures."""
    counted = await _journal(store, upto=ledger.batch.before.seq, acknowledged=ledger.server.acknowledged.seq)
    holds = f"how many leases of which kind, and the newest {MOST_LEASES} with pseudonyms for their holders"
    leases = await _leases(ledger)
    return [
        await asyncio.to_thread(view_part, "leases.json", holds, leases, hide),
        await asyncio.to_thread(_journal_part, counted, hide),
    ]


def _journal_part(counted: object, hide: Pseudonyms) -> Part:
    holds = "how many lines of each kind the journal has, and refusals by day, code, rule and product; no line itself"
    return Part(name="journal.json", holds=holds, text=_json(hide.tree(counted)))


async def _leases(ledger: Ledger) -> dict[str, Any]:
    leases = sorted(ledger.committed_leases(), key=lambda lease: lease.granted_at, reverse=True)
    counted = Counter([f"{lease.product} {lease.mode} {lease.state}" async for lease in in_turns(leases)])
    shown = [
        {
            "product": lease.product,
            "entitlement_id": lease.entitlement_id,
            "mode": lease.mode,
            "state": lease.state,
            "seats": lease.seats,
            "overdraft": lease.overdraft,
            "granted_at": _instant(lease.granted_at),
            "until": None if lease.until is None else _instant(lease.until),
            "clone_alarms": lease.clone_alarms,
            "holder": lease.holder.named(),
            "address": lease.address,
        }
        for lease in islice(leases, MOST_LEASES)
    ]
    waiting = {product: ledger.waiting.length(product) for product in ledger.pools.products}
    return {"leases": len(leases), "counted": counted, "waiting": waiting, "newest": shown}


async def _journal(store: Store, *, upto: int, acknowledged: int) -> dict[str, Any]:
    first = max(await store.first_seq(), upto - MOST_LINES + 1)
    kinds, refused = Counter[str](), Counter[str]()
    async for chunk in store.lines(after=first - 1, upto=upto):
        await asyncio.to_thread(_count, chunk, kinds, refused)
    return {"from": first, "to": upto, "acknowledged": acknowledged, "kinds": kinds, "refusals": refused}


def _count(chunk: list[bytes], kinds: Counter[str], refused: Counter[str]) -> None:
    for text in chunk:
        line = json.loads(text)
        kinds[line["kind"]] += 1
        if line["kind"] == Kind.DENIED:
            data = line["data"]
            refused[f"{line['at'][:10]} {data['code']} {data['rule']} {data['product']}"] += data["count"]


# ---------------------------------------------------------------- parts of the machine


def parts_of_machine(config: Config, hide: Pseudonyms) -> list[Part]:
    """Settings, versions and the files of the state folder."""
    settings = asdict(config)
    # A database's address holds a password, a webhook's often a token.
    settings["store"]["url"] = "set, not shown" if config.store.url else ""
    settings["events"]["webhook_urls"] = ["set, not shown"] * len(config.events.webhook_urls)
    return [
        Part(
            name="settings.json",
            holds="the settings in force; a database's address is left out",
            text=_json(hide.tree(settings)),
        ),
        Part(
            name="versions.json",
            holds="versions of this program, its libraries and the system",
            text=_json(hide.tree(versions())),
        ),
        Part(
            name="files.json",
            holds="names, sizes and modes of the files in the state folder, not what is in them",
            text=_json(hide.tree(_files(Path(config.server.state_dir)))),
        ),
    ]


def versions() -> dict[str, str | None]:
    """This program and what it stands on."""
    found: dict[str, str | None] = {"lls": __version__, "python": sys.version, "system": platform.platform()}
    found |= {"sqlite": sqlite3.sqlite_version, "openssl": ssl.OPENSSL_VERSION}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _files(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
        try:
            found = path.lstat()
        except OSError:
            continue  # it went meanwhile; it would have been one of many
        rows.append(
            {
                "file": str(path.relative_to(folder)),
                "bytes": found.st_size,
                "mode": stat.filemode(found.st_mode),
                "uid": found.st_uid,
                "changed": _instant(datetime.fromtimestamp(found.st_mtime, UTC)),
            }
        )
    return rows[:5_000]


def log_part(lines: Iterable[str], hide: Pseudonyms, *, whose: str) -> Part:
    """The last lines of the log."""
    return Part(
        name="log.txt", holds=f"the last lines of the log ({whose})", text="\n".join(map(hide.text, lines)) + "\n"
    )


def tail(path: Path) -> list[str]:
    """The last mebibyte of a file, whole lines. Raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - LOG_BYTES))
        lines = file.read(LOG_BYTES).decode("utf-8", "replace").splitlines()
    return lines[1:] if size > LOG_BYTES else lines


def view_part(name: str, holds: str, value: object, hide: Pseudonyms) -> Part:
    """A JSON value as a part."""
    return Part(name=name, holds=holds, text=_json(hide.tree(value)))


# ---------------------------------------------------------------- without a server


async def resting_parts(config: Config, hide: Pseudonyms, missing: dict[str, str]) -> list[Part]:
    """Journal and log of a server that does not run, as far as this user may read them. Never raises."""
    parts: list[Part] = []
    store = RestingStore(Path(config.server.state_dir))
    try:
        loaded = await store.load()
        for lease in loaded.leases:
            for field, value in (*lease.holder.named().items(), ("address", lease.address or "")):
                hide.know(field, value)
        for field, value in account_names(loaded.users, loaded.api_keys):
            hide.know(field, value)
        for field, value in (
            *await store.known_names(limit=MOST_NAMES),
            *setting_names(config),
            *policy_names(loaded.facts.get(Fact.POLICY, "")),
        ):
            if field != "policy":
                hide.know(field, value)
        counted = await _journal(
            store, upto=loaded.head.seq, acknowledged=int(loaded.facts.get(Fact.ACKNOWLEDGED, "0"))
        )
        parts.append(_journal_part(counted, hide))
    except Fault as fault:
        missing["journal.json"] = fault.detail.rstrip(".")
        # Without the names nothing of the log may leave: it could hold any of them.
        missing["log.txt"] = "the names that must be taken out of it could not be read"
        return parts
    finally:
        await store.close()
    if not config.log.file:
        missing["log.txt"] = "the log is not in a file (log.file); see journalctl -u lls"
        return parts
    try:
        parts.append(log_part(tail(Path(config.log.file)), hide, whose=config.log.file))
    except OSError as error:
        missing["log.txt"] = f"{config.log.file}: {error.strerror}"
    return parts


# ---------------------------------------------------------------- the file


def write_bundle(file: BinaryIO, parts: Sequence[Part], *, made_at: datetime, missing: Mapping[str, str]) -> None:
    """A ZIP of the parts with a list of what is inside. ``missing``: what could not be collected, and why."""
    lines = [
        f"Support bundle of a Local License Server, made {_instant(made_at)} by version {__version__}.",
        "",
        "Names of people, machines and addresses are replaced by pseudonyms that hold within this file only.",
        "Keys, passphrases, activation codes, leases' secrets and the policy's text are not in it.",
        "",
        "What is inside:",
        *(f"  {part.name:<20} {part.holds}" for part in parts),
    ]
    if missing:
        lines += ["", "What could not be collected:", *(f"  {name:<20} {why}" for name, why in missing.items())]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, "\n".join(lines) + "\n")
        for part in parts:
            archive.writestr(part.name, part.text)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
