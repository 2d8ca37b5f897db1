"""A server's state in a folder: its keys, a database with a few lines, and what lies beside them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lls.backup import Backups, Plan
from lls.backup.putting import Unlocks
from lls.identity import load_identity
from lls.licensing.ledger import Ledger
from lls.signed.vault import Opener, ToPassphrase
from lls.store.sqlite import SqliteStore
from tests.ledgers import Vendor, at, checkout, entitlement

PASSPHRASE = b"a passphrase for tests"
NOW = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)


class State:
    """One server's folder, and its store while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server_id = load_identity(folder / "keys").server_id
        (folder / "tls.crt").write_text("certificate")
        (folder / "tls.key").write_text("private")
        self.store = SqliteStore(folder)
        self.now = NOW
        self.seats = 0
        self.ledger: Ledger
        self.epoch = 0

    async def start(self) -> None:
        self.epoch = await self.store.take_writership()
        vendor = Vendor()
        self.ledger = vendor.build(await self.store.load(), at())
        self.ledger.server.keep_id(self.server_id)
        self.ledger.install(vendor.bundle(entitlement("cad", seats=None)), actor="admin", now=at())
        await self.commit()

    async def grant(self) -> None:
        self.seats += 1
        self.ledger.checkout(checkout(f"lease {self.seats}"), now=at())
        await self.commit()

    async def commit(self) -> None:
        await self.store.commit(self.ledger.batch, epoch=self.epoch, mark=at().wall)
        self.ledger.settle()

    def backups(self, *, plan: Plan | None = None, others: dict[str, Path] | None = None) -> Backups:
        return Backups(
            self.store,
            state_dir=self.folder,
            server_id=self.server_id,
            name="lls",
            version="1",
            now=lambda: self.now,
            others=others or {},
            plan=plan,
        )


class Known(Unlocks):
    """Who knows the passphrase."""

    def __init__(self, passphrase: bytes = PASSPHRASE) -> None:
        self._passphrase = passphrase

    def opener(self, *, passphrase: bool) -> Opener:
        assert passphrase
        return ToPassphrase(self._passphrase)


def names_in(folder: Path, but: Sequence[str] = ()) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lls.lock", *but}
