"""What the administrator sees and sends: every shape under ``/v1/admin``. Instants are aware UTC datetimes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from lls.api.wire import FeatureView

# ---------------------------------------------------------------- requests


class ReleaseForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``DELETE /v1/admin/leases/{lease_id}``."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]

    def __post_init__(self) -> None:
        """The reason is journalled (as a commitment) and shown."""
        if not self.reason.isprintable():
            raise ValueError("`reason` holds a character that cannot be printed")


class ReportForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/reports``."""

    pseudonymise: bool = False


class BackupForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/backup``: sealed to a passphrase, to a public key (PEM, P-256), or to nothing."""

    passphrase: Annotated[str, Meta(min_length=1, max_length=1_024)] | None = None
    recipient: Annotated[str, Meta(min_length=1, max_length=10_000)] | None = None

    def __post_init__(self) -> None:
        """One of them opens it, not both."""
        if self.passphrase is not None and self.recipient is not None:
            raise ValueError("`passphrase` and `recipient` exclude each other")

    def __repr__(self) -> str:
        """Without the passphrase."""
        return "BackupForm(…)"


class ClockForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/clock``: the administrator says that a clock which jumped ahead is right."""

    act: Literal["accept"]


class ReturnForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/entitlements/{entitlement_id}/return``; ``force`` ends the leases that are held."""

    force: bool = False


# ---------------------------------------------------------------- the server


class CustomerView(Struct, kw_only=True, frozen=True):
    """Whose server it is."""

    customer_id: str
    name: str
    account_ref: str


class LicenseView(Struct, kw_only=True, frozen=True):
    """Whether the server may grant new leases, and until when."""

    state: str
    expires_at: datetime | None
    sync_within_days: int | None
    sync_due_at: datetime | None


class ClockView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/clock``. ``now``: what the machine says; ``mark``: what the server goes by."""

    now: datetime
    mark: datetime
    state: str
    behind_seconds: int


class BindingView(Struct, kw_only=True, frozen=True):
    """Whether this is the licensed machine; while it is not, since when, and when new leases end with the grace.

    ``changed``: the enrolled parts that are not there any more; ``required`` of the ``enrolled`` must be.
    """

    state: str
    since: datetime | None
    ends_at: datetime | None
    changed: list[str]
    required: int
    enrolled: int


class WritershipView(Struct, kw_only=True, frozen=True):
    """The journal's committed end, and the epoch that writes it."""

    epoch: int
    seq: int
    head: str


class StoreView(Struct, kw_only=True, frozen=True):
    """Which database, and whether the last commit went through."""

    kind: str
    up: bool


class ServerView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/server``."""

    server_id: str
    name: str
    version: str
    keys_version: int
    bundle_sequence: int
    customer: CustomerView | None
    license: LicenseView
    clock: ClockView
    binding: BindingView
    writership: WritershipView
    store: StoreView
    chain: str
    started_at: datetime
    leases: int


class BackupsView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/backup``: what the settings ask for, and the last one of the clock since the start."""

    folder: str | None
    keep: int | None
    sealed: bool
    last_at: str | None
    last_path: str | None
    problem: str | None


# ---------------------------------------------------------------- bundles


class Difference(Struct, kw_only=True, frozen=True):
    """One field of an entitlement that a bundle changes."""

    field: str
    old: Any
    new: Any


class StepView(Struct, kw_only=True, frozen=True):
    """What a bundle does to one entitlement."""

    entitlement_id: str
    product: str
    sku: str
    edition: str | None
    seats: int | None
    change: str
    reason: str | None
    differences: list[Difference]
    leases_ended: int


class ReceiptIn(Struct, kw_only=True, frozen=True):
    """The receipt that came inside a bundle and was taken in."""

    report_id: str
    up_to_seq: int


class ImportView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/bundles``."""

    bundle_id: str
    sequence: int
    server_id: str
    customer: CustomerView
    issued_at: datetime
    not_after: datetime
    dry_run: bool
    applied: bool
    already_applied: bool
    keys_added: list[int]
    entitlements: list[StepView]
    receipt: ReceiptIn | None
    warnings: list[str]


class BundleView(Struct, kw_only=True, frozen=True):
    """One bundle of the history.

    ``entitlements``: how many have their terms from it; ``state``: ``applied``, or ``distrusted`` where it did not
    verify again at the last start.
    """

    bundle_id: str
    sequence: int
    imported_at: datetime
    issued_at: datetime
    entitlements: int
    state: str


class BundlesView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/bundles``, newest first."""

    bundles: list[BundleView]


# ---------------------------------------------------------------- entitlements and leases


class BorrowView(Struct, kw_only=True, frozen=True):
    """How long and how many seats the vendor lends."""

    max_seconds: int
    max_seats: int


class AssignmentView(Struct, kw_only=True, frozen=True):
    """Whether the site may name users, and how often it may take a name back."""

    by_site: bool
    changes_per_month: int


class EntitlementView(Struct, kw_only=True, frozen=True):
    """An entitlement and who uses it.

    ``overdraft``: seats in use beyond what was bought; ``borrowed``: seats that are away, counted in ``in_use``;
    ``waiting``: requests that wait for its product; ``started_at``: its first lease, where that set the dates;
    ``named_users`` are the vendor's, ``assigned`` the site's; ``returning``: it goes back to the vendor when its last
    lease has ended. Where ``problem`` is given, its bundle did not verify and the terms are not known.
    """

    entitlement_id: str
    order_ref: str | None = None
    product: str | None = None
    product_name: str | None = None
    sku: str | None = None
    offering: str | None = None
    edition: str | None = None
    status: str | None = None
    standing: str | None = None
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    grace_expires_at: datetime | None = None
    maintenance_expires_on: date | None = None
    seats: int | None = None
    in_use: int = 0
    available: int | None = None
    overdraft: int = 0
    waiting: int = 0
    concurrency: str | None = None
    sharing: str | None = None
    lease_seconds: int | None = None
    started_at: datetime | None = None
    borrow: BorrowView | None = None
    borrowed: int = 0
    named_users: list[str] = []
    named_user_assignment: AssignmentView | None = None
    assigned: list[str] = []
    node_lock_release_after_seconds: int | None = None
    returning: bool = False
    bundle_id: str | None = None
    sequence: int | None = None
    features: list[FeatureView] = []
    attributes: Mapping[str, str | int] = {}
    problem: str | None = None


class EntitlementsView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/entitlements``."""

    entitlements: list[EntitlementView]


class HeldView(Struct, kw_only=True, frozen=True):
    """A lease as the administrator sees it.

    ``until``: the end of a borrowed one, ``by_file`` whether its machine never sees the network; ``features``: the
    units that it holds; ``last_beat``: the number of the last heartbeat, null after a restart.
    """

    lease_id: str
    state: str
    mode: str
    product: str
    entitlement_id: str
    edition: str | None
    seats: int
    overdraft: bool
    holder: dict[str, str]
    granted_at: datetime
    expires_at: datetime
    expires_in_seconds: int
    until: datetime | None
    by_file: bool
    address: str | None
    features: dict[str, int]
    last_beat: int | None
    clone_alarms: int


class WaitingView(Struct, kw_only=True, frozen=True):
    """A request that waits for a seat; ``open`` while its connection is there."""

    product: str
    lease_id: str
    holder: dict[str, str]
    seats: int
    position: int
    since: datetime
    open: bool


class LeasesView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/leases``."""

    leases: list[HeldView]
    waiting: list[WaitingView]


class BorrowsView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/borrows``: the leases that are away, the first to end first."""

    borrows: list[HeldView]


class BorrowReturnedView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/borrows/return``."""

    lease_id: str


class ReturnView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/entitlements/{entitlement_id}/return``.

    ``draining`` with the number of ``leases`` that are still held, or ``returned`` with the signed ``document``.
    """

    state: str
    leases: int | None = None
    document: str | None = None


# ---------------------------------------------------------------- the site's policy


class RuleView(Struct, kw_only=True, frozen=True):
    """One rule of the site's policy; ``rule`` is what denials call it, ``name`` what people do."""

    rule: str
    name: str | None
    product: str


class PolicyView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/policy``: the text in force, its rules, and what is odd about them beside what is hosted."""

    text: str
    rules: list[RuleView]
    doubts: list[str]


class PolicyCheckView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/policy/check``: how many rules a text has, and what is odd about them beside what is hosted."""

    rules: int
    doubts: list[str]


class PolicyChangeView(Struct, kw_only=True, frozen=True):
    """What a reload changed: rules that are new and rules that are gone (a rule that was edited is both)."""

    added: list[str]
    removed: list[str]
    rules: int
    doubts: list[str]


class ReloadView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/reload``. ``tls_changed``: whether another TLS certificate is shown from now on."""

    policy: PolicyChangeView
    tls_changed: bool


class StepOfExplanation(Struct, kw_only=True, frozen=True):
    """One rule and what it says to the request; ``entitlement_id`` where it is judged for each entitlement alone."""

    rule: str
    verdict: str
    words: str
    entitlement_id: str | None


class ExplanationView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/policy/explain``: every rule in the order in which it is asked, and the outcome."""

    steps: list[StepOfExplanation]
    granted: bool
    outcome: dict[str, str | int | float | bool | None]


# ---------------------------------------------------------------- journal, usage, reports


class DenialView(Struct, kw_only=True, frozen=True):
    """A journalled refusal; ``count`` of them were folded into it.

    ``cause``: ``capacity`` (more seats or units would have helped), ``policy`` (the site's own rules) or ``terms``.
    """

    at: datetime
    code: str
    rule: str
    cause: str
    remedy: str | None
    product: str
    feature: str | None
    entitlement_id: str | None
    holder: dict[str, str]
    seats: int
    in_use: int | None
    limit: int | None
    count: int


class ArchiveNote(Struct, kw_only=True, frozen=True):
    """Lines up to this one, and to this instant, were archived and are not counted in an answer."""

    upto_seq: int
    last_at: datetime


class DenialsView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/denials``, oldest first."""

    denials: list[DenialView]
    archived: ArchiveNote | None = None


class UsageView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/usage``: the columns of ``usage.csv``; by the hour ``bucket`` stands for ``day``."""

    lines: list[dict[str, str | int | None]]
    archived: ArchiveNote | None = None


class CheckView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/journal/verify``.

    ``archived_lines`` of them were read from archives; those up to ``left_out_upto`` are in archives that are gone.
    """

    ok: bool
    lines: int
    head: str
    first_seq: int
    last_seq: int
    problem: str | None
    archived_lines: int = 0
    left_out_upto: int = 0


class PreviewView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/reports/preview``: what would leave, but for the line that seals it."""

    from_seq: int
    to_seq: int
    lines: int
    usage: list[dict[str, str | int | None]]
    kinds: dict[str, int]


class ReportView(Struct, kw_only=True, frozen=True):
    """One report that was made."""

    report_id: str
    from_seq: int
    to_seq: int
    made_at: datetime
    pseudonymised: bool
    acknowledged: bool


class ReportsView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/reports``, oldest first."""

    reports: list[ReportView]


class ReceiptView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/receipts``."""

    receipt_id: str
    report_id: str
    up_to_seq: int
    already_applied: bool


# ---------------------------------------------------------------- upkeep


class FindingView(Struct, kw_only=True, frozen=True):
    """One check: ``ok``, ``warn`` or ``fail``, what was seen, and what to do about it."""

    check: str
    state: str
    said: str
    advice: str | None


class ExaminationView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/doctor``."""

    findings: list[FindingView]


class PartView(Struct, kw_only=True, frozen=True):
    """One file of a support bundle: its name, what it holds, its text without names and secrets."""

    name: str
    holds: str
    text: str


class SupportView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/support``."""

    parts: list[PartView]


class LogForm(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """``POST /v1/admin/log``: the level from now on; with ``for_seconds`` it goes back by itself."""

    level: Literal["debug", "info", "warning", "error"]
    for_seconds: Annotated[int, Meta(ge=1, le=604_800)] | None = None


class LogView(Struct, kw_only=True, frozen=True):
    """``GET /v1/admin/log``: the level in force, that of the settings, and until when the first one holds."""

    level: str
    usual: str
    until: datetime | None


class ArchivedView(Struct, kw_only=True, frozen=True):
    """``POST /v1/admin/journal/archive``: the files that were written, the lines and names that left the database."""

    files: list[str]
    lines: int
    names: int
