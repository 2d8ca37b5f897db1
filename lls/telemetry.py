"""What the server tells about itself: every metric's name and meaning in one list, and the form of a log line.

Rules
1. A metric is declared here or it does not exist. :func:`metrics` makes them all on a registry of their own; nothing is
   global, so two servers in one process (tests, the demo) never share a number.
2. Labels are words of ours or of the vendor: products, entitlements, codes, routes. Never a holder, an address, a
   lease.
3. Numbers that the ledger already knows (seats, waiting, the clock …) are set when ``/metrics`` is read; only events
   are counted as they happen.
4. A log line is one fact: time, level, logger, event, then ``key=value``. Facts are passed as ``extra={"fields": {…}}``
   or with :func:`fact`; a value that reads like a secret is replaced before it is written (:func:`redacted`).

Redaction is the last net, not the rule: secrets, capabilities, keys and activation codes are not handed to a logger at
all.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

SEATS = ("product", "entitlement")

# Edges from one SSD commit (0.2 ms) to a store that hangs; a group holds at most 512 changes (design §2).
COMMIT_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Every metric of one server, with the registry that renders them."""

    registry: CollectorRegistry

    leases_live: Gauge
    seats: Gauge
    seats_in_use: Gauge
    seats_waiting: Gauge
    grants: Counter
    denials: Counter
    heartbeats: Counter
    clones: Counter

    commits: Counter
    commit_failures: Counter
    commit_seconds: Histogram
    commit_group_size: Histogram
    queue_length: Gauge
    store_up: Gauge
    primary: Gauge

    clock_state: Gauge
    clock_behind_seconds: Gauge
    unbound: Gauge
    restored: Gauge
    bundle_sequence: Gauge
    entitlement_expires: Gauge
    journal_seq: Gauge
    journal_unacknowledged: Gauge
    report_due_days: Gauge
    disk_free_bytes: Gauge

    backup_made: Gauge
    backup_failures: Counter

    http_requests: Counter
    logins: Counter


def metrics() -> Metrics:
    """Make all metrics on a new registry."""
    registry = _Registry()

    def gauge(name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"lls_{name}", meaning, labels, registry=registry)

    def counter(name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"lls_{name}", meaning, labels, registry=registry)

    def histogram(name: str, meaning: str, edges: tuple[float, ...]) -> Histogram:
        return Histogram(f"lls_{name}", meaning, buckets=edges, registry=registry)

    return Metrics(
        registry=registry,
        leases_live=gauge("leases_live", "Leases that hold a seat, by mode.", "mode"),
        seats=gauge("seats", "Seats bought; +Inf where unlimited.", *SEATS),
        seats_in_use=gauge("seats_in_use", "Seats taken, lingering and borrowed ones included.", *SEATS),
        seats_waiting=gauge(
            "seats_waiting", "Checkouts in the queue, by product (entitlement empty until granted).", *SEATS
        ),
        grants=counter("grants_total", "Checkouts granted.", *SEATS),
        denials=counter("denials_total", "Checkouts, borrows and uses refused, by code.", "code"),
        heartbeats=counter("heartbeats_total", "Heartbeats answered with success."),
        clones=counter("clones_total", "Heartbeats refused because two processes used one lease."),
        commits=counter("commits_total", "Groups committed to the store."),
        commit_failures=counter("commit_failures_total", "Groups that the store did not take."),
        commit_seconds=histogram("commit_seconds", "Duration of one commit.", COMMIT_SECONDS),
        commit_group_size=histogram("commit_group_size", "Changes committed together.", GROUP_SIZES),
        queue_length=gauge("queue_length", "Changes that wait for the writer."),
        store_up=gauge("store_up", "1 while the store answers, else 0."),
        primary=gauge("primary", "1 while this daemon is the writer, else 0."),
        clock_state=gauge("clock_state", "1 for the state that holds (ok, behind, jumped), 0 for the others.", "state"),
        clock_behind_seconds=gauge(
            "clock_behind_seconds", "How far the machine's clock is behind the time already seen."
        ),
        unbound=gauge("unbound", "1 while this is not the machine that was licensed, else 0."),
        restored=gauge("restored", "1 while the vendor's answer to a restore from a backup is awaited, else 0."),
        bundle_sequence=gauge("bundle_sequence", "Sequence of the last bundle applied."),
        entitlement_expires=gauge(
            "entitlement_expires_timestamp_seconds",
            "When the entitlement ends, Unix time; absent if it never does.",
            *SEATS,
        ),
        journal_seq=gauge("journal_seq", "Sequence of the last journal line."),
        journal_unacknowledged=gauge("journal_unacknowledged", "Journal lines that no receipt covers yet."),
        report_due_days=gauge("report_due_days", "Days until a report must be acknowledged; negative when overdue."),
        disk_free_bytes=gauge("disk_free_bytes", "Free bytes of a disk, by what is kept there.", "place"),
        backup_made=gauge(
            "backup_made_timestamp_seconds",
            "When the last scheduled backup was made and read back, Unix time; 0: none.",
        ),
        backup_failures=counter("backup_failures_total", "Scheduled backups that failed."),
        http_requests=counter(
            "http_requests_total", "Requests answered, by route pattern and status.", "route", "status"
        ),
        logins=counter("logins_total", "Logins over the network, by outcome (ok, refused, paused, busy).", "outcome"),
    )


class _Registry(CollectorRegistry):
    """Without the ``_created`` series of counters and histograms, which double the page and tell nobody anything.

    The library's own switch for that is global; two servers in one process must not meet in it (rule 1).
    """

    def collect(self) -> Iterator[Metric]:
        """Every metric with its samples."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def set_up_logging(*, level: str, as_json: bool, stream: TextIO | None = None) -> logging.Handler:
    """Send every logger's lines to ``stream`` (standard error) in one form; the handler can be taken off again."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLine() if as_json else TextLine())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Its access log costs more than half of the throughput (design §8), and http_requests_total counts the same.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    # These write what passes through them: whole groups of changes with their names, or a malformed request.
    for name in ("aiosqlite", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    return handler


def fact(**fields: object) -> dict[str, dict[str, object]]:
    """``log.info("granted", extra=fact(lease_id=…, product=…))``."""
    return {"fields": fields}


class TextLine(logging.Formatter):
    """``2026-11-21T07:00:00.123Z INFO lls.writer granted lease_id=0d9c… product=cad``, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        pairs = [f"{key}={_quoted(value)}" for key, value in _fields(record).items()]
        return " ".join([_at(record), record.levelname, record.name, _one_line(_event(record)), *pairs])


class JsonLine(logging.Formatter):
    """The same facts as one JSON object: ``at``, ``level``, ``logger``, ``event``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        head = {"at": _at(record), "level": record.levelname, "logger": record.name, "event": _event(record)}
        return json.dumps(head | {k: v for k, v in _fields(record).items() if k not in head}, ensure_ascii=False)


REMOVED = "[removed]"

# Names whose values are never written, whatever they look like. `_id`, `_seconds`, `_total` and the like stay readable.
_SECRET_NAME = re.compile(
    r"(?i)(^|_)(secret|password|passphrase|token|capability|authorization|cookie|nonce|private_key)$"
)
_ACTIVATION_NAME = re.compile(r"(?i)(^|_)activation_codes?$")
_SECRET_TEXT = re.compile(
    r"""(?xi)
      (?<= bearer ) \s+ [^\s"',;]+  # a lease secret or an API key in a header
    | \b llsk_ [\w-]+  # an API key
    | \b eyJ [\w-]+ (?: \. [\w-]* ){1,4}  # a compact JWS or JWE: capability, statement, certificate
    | -----BEGIN [^-]* PRIVATE\ KEY----- .*? (?: -----END [^-]* ----- | \Z )
    | \b [A-Z0-9]{4} (?: - [A-Z0-9]{4} ){3} \b  # an activation code
    | (?<= "d": ) \s* "[^"]*"  # the private half of a JWK
    """,
    re.DOTALL,
)


def redacted(text: str) -> str:
    """``text`` without what reads like a bearer secret, API key, token, private key or activation code."""
    return _SECRET_TEXT.sub(lambda found: (" " if found[0][0].isspace() else "") + REMOVED, text)


def _fields(record: logging.LogRecord) -> dict[str, str | int | float | bool | None]:
    given: Mapping[str, object] = getattr(record, "fields", {})
    fields = {key: _value(key, value) for key, value in given.items()}
    if record.exc_info:
        fields["trace"] = redacted(logging.Formatter().formatException(record.exc_info))
    return fields


def _value(key: str, value: object) -> str | int | float | bool | None:
    if _SECRET_NAME.search(key) or _ACTIVATION_NAME.search(key):
        return REMOVED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return redacted(str(value))


def _event(record: logging.LogRecord) -> str:
    return redacted(record.getMessage())


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_PLAIN = re.compile(r"[\w.,:;/@+*()\[\]-]+")


def _quoted(value: str | float | None) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)
