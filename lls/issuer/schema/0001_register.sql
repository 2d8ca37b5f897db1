-- The vendor's register: what was sold to whom, what was carried to which site, and what came back.
-- Instants are RFC 3339 in UTC; documents are JSON texts exactly as they were signed or sold.

CREATE TABLE catalog (
    catalog_id INTEGER PRIMARY KEY,          -- the highest is in force; the others say what was sold under which terms
    sha256     TEXT NOT NULL,
    text       TEXT NOT NULL,
    loaded_at  TEXT NOT NULL
) STRICT;

CREATE TABLE customer (
    customer_id   TEXT PRIMARY KEY,
    account_ref   TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    custom_fields TEXT NOT NULL,
    created_at    TEXT NOT NULL,
    disabled_at   TEXT                       -- since when all that it bought rests
) STRICT;

CREATE TABLE customer_fields (
    fields_id INTEGER PRIMARY KEY,           -- the schema of custom fields; the highest is in force
    text      TEXT NOT NULL,
    loaded_at TEXT NOT NULL
) STRICT;

CREATE TABLE customer_contact (
    customer_id TEXT NOT NULL REFERENCES customer,
    email       TEXT NOT NULL COLLATE NOCASE,
    name        TEXT,
    phone       TEXT,
    role        TEXT,
    PRIMARY KEY (customer_id, email)
) STRICT, WITHOUT ROWID;

CREATE TABLE customer_note (
    note_id     INTEGER PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customer,
    made_at     TEXT NOT NULL,
    author      TEXT NOT NULL,
    text        TEXT NOT NULL
) STRICT;
CREATE INDEX note_by_customer ON customer_note (customer_id);

CREATE TABLE server (
    server_id         TEXT PRIMARY KEY,
    customer_id       TEXT REFERENCES customer,
    name              TEXT NOT NULL,
    version           TEXT NOT NULL,
    signing_jwk       TEXT NOT NULL,
    encryption_jwk    TEXT NOT NULL,
    host              TEXT NOT NULL,
    binding           TEXT NOT NULL CHECK (binding IN ('key_only', 'host')),
    keys_version      INTEGER NOT NULL,      -- the key set that the server had when it made its newest request
    bundle_sequence   INTEGER NOT NULL,      -- the highest that either side has seen; the next bundle is higher
    journal_seq       INTEGER NOT NULL,
    request_made_at   TEXT NOT NULL,
    registered_at     TEXT NOT NULL,
    certificate       TEXT,                  -- the newest server certificate
    retired_at        TEXT,                  -- since when nothing is issued to it any more
    lost              INTEGER NOT NULL CHECK (lost IN (0, 1))
) STRICT;
CREATE INDEX server_by_customer ON server (customer_id);

CREATE TABLE server_terms (                  -- what the vendor agreed for a server; its next bundles carry it
    server_id TEXT PRIMARY KEY REFERENCES server,
    document  TEXT NOT NULL,
    done_at   TEXT NOT NULL
) STRICT;

CREATE TABLE sale (
    order_ref    TEXT PRIMARY KEY,
    sha256       TEXT NOT NULL,              -- the same reference with other content is refused
    customer_id  TEXT NOT NULL REFERENCES customer,
    server_id    TEXT REFERENCES server,     -- NULL: the order named none
    document     TEXT NOT NULL,
    fulfilled_at TEXT NOT NULL
) STRICT;

CREATE TABLE sale_line (                     -- each line of an order, once; a later file of the same order may bring more
    order_ref    TEXT NOT NULL REFERENCES sale,
    line         INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    document     TEXT NOT NULL,
    outcome      TEXT NOT NULL,              -- what it did, and to which entitlement
    fulfilled_at TEXT NOT NULL,
    PRIMARY KEY (order_ref, line)
) STRICT, WITHOUT ROWID;

CREATE TABLE entitlement (
    entitlement_id TEXT PRIMARY KEY,
    order_ref      TEXT NOT NULL REFERENCES sale,
    line           INTEGER NOT NULL,
    customer_id    TEXT NOT NULL REFERENCES customer,
    server_id      TEXT REFERENCES server,   -- NULL: hosted nowhere
    document       TEXT NOT NULL,            -- as it was sold
    created_at     TEXT NOT NULL,
    free_from      TEXT,                     -- of one that is hosted nowhere: from when on it may be; NULL: at once
    origins        TEXT NOT NULL,            -- where each value came from, and the version of the catalogue; in no bundle
    carried        TEXT NOT NULL,            -- what closed sessions used up of it, which the next server does not get again
    UNIQUE (order_ref, line)
) STRICT;
CREATE INDEX entitlement_by_server ON entitlement (server_id);

CREATE TABLE session (                       -- a time in which a server hosted an entitlement; one at most is open
    session_id     TEXT PRIMARY KEY,
    entitlement_id TEXT NOT NULL REFERENCES entitlement,
    server_id      TEXT NOT NULL REFERENCES server,
    began_at       TEXT NOT NULL,
    ended_at       TEXT,
    ending         TEXT CHECK (ending IN ('returned', 'lost')),
    borrowed_until TEXT,
    token          TEXT                      -- the signed return, word for word
) STRICT;
CREATE UNIQUE INDEX session_open ON session (entitlement_id) WHERE ended_at IS NULL;
CREATE INDEX session_by_server ON session (server_id, entitlement_id);

CREATE TABLE command (                       -- what bundles order; each carries those that no report has shown applied
    command_id TEXT PRIMARY KEY,
    session_id TEXT REFERENCES session,      -- of a hosting session, and void with it;
    server_id  TEXT REFERENCES server,       -- or of the server itself
    document   TEXT NOT NULL,
    ordered_at TEXT NOT NULL,
    applied_at TEXT,
    CHECK ((session_id IS NULL) <> (server_id IS NULL))
) STRICT;
CREATE INDEX command_pending ON command (session_id) WHERE applied_at IS NULL;

CREATE TABLE act (                           -- changes made under a reference of the vendor's own, each once
    ref     TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    outcome TEXT NOT NULL,
    done_at TEXT NOT NULL
) STRICT;

CREATE TABLE balance (                       -- every grant, beside the entitlement that carries it: what was paid, what it waits for
    grant_id       TEXT PRIMARY KEY,
    entitlement_id TEXT NOT NULL REFERENCES entitlement,
    feature        TEXT NOT NULL,
    amount         INTEGER NOT NULL,
    terms          TEXT NOT NULL,            -- active_from and expiry
    price          TEXT,                     -- amount and currency; in no bundle
    given_on       TEXT CHECK (given_on IN ('invoice_created', 'invoice_approved', 'invoice_paid')),
    invoice_ref    TEXT,
    state          TEXT NOT NULL CHECK (state IN ('pending', 'given', 'revoked')),
    created_at     TEXT NOT NULL
) STRICT;
CREATE INDEX balance_by_entitlement ON balance (entitlement_id);
CREATE INDEX balance_pending ON balance (invoice_ref) WHERE state = 'pending';

CREATE TABLE invoice_stage (                 -- how far each invoice has come, also where nothing waits for it yet
    invoice_ref TEXT PRIMARY KEY,
    stage       TEXT NOT NULL CHECK (stage IN ('invoice_created', 'invoice_approved', 'invoice_paid')),
    reported_at TEXT NOT NULL
) STRICT;

CREATE TABLE activation_code (
    code           TEXT PRIMARY KEY,         -- two entitlements never share one
    entitlement_id TEXT NOT NULL REFERENCES entitlement
) STRICT, WITHOUT ROWID;

CREATE TABLE bundle (
    bundle_id  TEXT PRIMARY KEY,
    server_id  TEXT NOT NULL REFERENCES server,
    sequence   INTEGER NOT NULL,
    issued_at  TEXT NOT NULL,
    not_after  TEXT NOT NULL,
    receipt_id TEXT,
    payload    TEXT NOT NULL,                -- what was signed; the sealed file only its server can read
    UNIQUE (server_id, sequence)
) STRICT;

CREATE TABLE pending (                       -- what waits for signatures of several people, as this office wrote it
    pending_id  TEXT PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('bundle', 'receipt', 'keys')),
    server_id   TEXT REFERENCES server,
    fingerprint TEXT NOT NULL,
    made_at     TEXT NOT NULL,
    not_after   TEXT NOT NULL,
    done_at     TEXT                         -- since when it is sealed
) STRICT;

CREATE TABLE report (
    report_id     TEXT PRIMARY KEY,
    server_id     TEXT NOT NULL REFERENCES server,
    from_seq      INTEGER NOT NULL,
    to_seq        INTEGER NOT NULL,
    head          TEXT NOT NULL,
    made_at       TEXT NOT NULL,
    pseudonymised INTEGER NOT NULL CHECK (pseudonymised IN (0, 1)),
    new_lines     INTEGER NOT NULL,          -- those that no earlier report had brought
    ingested_at   TEXT NOT NULL
) STRICT;
CREATE INDEX report_by_server ON report (server_id, to_seq);

CREATE TABLE journal (
    server_id TEXT NOT NULL REFERENCES server,
    seq       INTEGER NOT NULL,
    hash      TEXT NOT NULL,
    line      BLOB NOT NULL,                 -- the canonical bytes, so that anybody can check the chain again
    PRIMARY KEY (server_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE carry (                         -- the usage fold's state after the last line of a report
    server_id TEXT NOT NULL REFERENCES server,
    seq       INTEGER NOT NULL,
    state     TEXT NOT NULL,
    PRIMARY KEY (server_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE name (
    server_id  TEXT NOT NULL REFERENCES server,
    commitment TEXT NOT NULL,
    field      TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (server_id, commitment, field)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipt (
    receipt_id TEXT PRIMARY KEY,
    report_id  TEXT NOT NULL UNIQUE REFERENCES report,
    server_id  TEXT NOT NULL REFERENCES server,
    up_to_seq  INTEGER NOT NULL,
    made_at    TEXT NOT NULL,
    token      TEXT NOT NULL
) STRICT;

-- The usage lines that each range of new journal lines gave (contract §3, usage.csv). Ranges do not overlap; a day that two of them
-- share has a line from each, and whoever reads merges them.
CREATE TABLE usage (
    range_server      TEXT NOT NULL REFERENCES server,
    first_seq         INTEGER NOT NULL,
    place             INTEGER NOT NULL,
    day               TEXT NOT NULL,
    server_id         TEXT NOT NULL,
    customer_ref      TEXT NOT NULL,
    entitlement_id    TEXT NOT NULL,         -- empty where a denial concerned no entitlement
    sku               TEXT NOT NULL,
    product           TEXT NOT NULL,
    feature           TEXT NOT NULL,         -- empty for the seats
    unit              TEXT NOT NULL,
    seats             INTEGER,               -- NULL: unlimited
    peak              INTEGER NOT NULL,
    low               INTEGER NOT NULL,
    seat_seconds      INTEGER NOT NULL,
    checkouts         INTEGER NOT NULL,
    denials           INTEGER NOT NULL,
    denied_holders    INTEGER NOT NULL,
    overdraft_peak    INTEGER NOT NULL,
    overdraft_seconds INTEGER NOT NULL,
    consumed          INTEGER NOT NULL,
    undone            INTEGER NOT NULL,
    overage           INTEGER NOT NULL,
    period_start      TEXT NOT NULL,
    period_end        TEXT NOT NULL,
    PRIMARY KEY (range_server, first_seq, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_day ON usage (day);

CREATE TABLE refusal (                       -- who was refused how often, from the new lines of each report
    server_id TEXT NOT NULL REFERENCES server,
    day       TEXT NOT NULL,
    product   TEXT NOT NULL,
    feature   TEXT NOT NULL,                 -- empty: a seat
    code      TEXT NOT NULL,
    count     INTEGER NOT NULL,
    PRIMARY KEY (server_id, day, product, feature, code)
) STRICT, WITHOUT ROWID;

CREATE TABLE closing (                       -- months that were billed: what is known of them later is billed in a later one
    period    TEXT PRIMARY KEY,              -- with all before it
    closed_at TEXT NOT NULL,
    awaited   INTEGER NOT NULL               -- servers that had not reported beyond its end
) STRICT, WITHOUT ROWID;

-- The billing lines as they were when their month was closed, word for word; whose customer may have been deleted since.
CREATE TABLE billed (
    line_id     TEXT PRIMARY KEY,
    closing     TEXT NOT NULL REFERENCES closing,
    period      TEXT NOT NULL,               -- the month in which it is billed
    used_in     TEXT NOT NULL,               -- the month in which it was used: an earlier one, where it corrects that
    customer_id TEXT NOT NULL,
    account_ref TEXT NOT NULL,
    customer    TEXT NOT NULL,
    sku         TEXT NOT NULL,
    product     TEXT NOT NULL,
    feature     TEXT NOT NULL,
    meter       TEXT NOT NULL,
    unit        TEXT NOT NULL,
    quantity    TEXT NOT NULL,               -- a decimal
    final       INTEGER NOT NULL CHECK (final IN (0, 1)),
    as_of       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX billed_by_period ON billed (period);

-- Who did what and why, as a chain of SHA-256 hashes (``history``). The columns to look by are taken out of the line itself, so that
-- they cannot say anything else than it does.
CREATE TABLE history (
    seq            INTEGER PRIMARY KEY,
    hash           TEXT NOT NULL,
    line           TEXT NOT NULL,            -- the canonical text, so that anybody can check the chain again
    at             TEXT AS (json_extract(line, '$.at')) VIRTUAL,
    kind           TEXT AS (json_extract(line, '$.kind')) VIRTUAL,
    customer_id    TEXT AS (json_extract(line, '$.data.customer_id')) VIRTUAL,
    entitlement_id TEXT AS (json_extract(line, '$.data.entitlement_id')) VIRTUAL,
    server_id      TEXT AS (json_extract(line, '$.data.server_id')) VIRTUAL
) STRICT;
CREATE INDEX history_by_customer ON history (customer_id);
CREATE INDEX history_by_entitlement ON history (entitlement_id);
CREATE INDEX history_of_deleted ON history (seq) WHERE kind = 'customer_deleted';
CREATE TRIGGER history_is_not_changed BEFORE UPDATE ON history
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;
CREATE TRIGGER history_is_not_shortened BEFORE DELETE ON history
BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END;

CREATE TABLE event (                         -- what shops and billing systems sent: stored before it is answered, processed once
    event_key   INTEGER PRIMARY KEY,         -- in the order of arrival
    source      TEXT NOT NULL,
    event_id    TEXT NOT NULL,               -- the source's own
    kind        TEXT NOT NULL,
    subject     TEXT NOT NULL,               -- the source's subscription; empty: none
    sha256      TEXT NOT NULL,               -- the same id with other content is refused
    document    TEXT NOT NULL,
    sent_at     TEXT,
    received_at TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('waiting', 'held', 'done', 'ignored', 'failed', 'dropped')),
    due_at      TEXT,                        -- of a held one: when it is taken up again; NULL: when its subject is heard of
    told        TEXT NOT NULL,               -- a sentence: what became of it, or why not
    attempts    INTEGER NOT NULL,
    settled_at  TEXT,
    account_ref TEXT,                        -- whose it is, as far as it is known
    held_for    TEXT,                        -- of a held one: the account whose customer is disabled
    removed_at  TEXT,                        -- since when its body is not kept any more
    UNIQUE (source, event_id)
) STRICT;
CREATE INDEX event_open ON event (event_key) WHERE status IN ('waiting', 'held');
CREATE INDEX event_by_subject ON event (source, subject);
CREATE INDEX event_kept ON event (event_key) WHERE removed_at IS NULL;

CREATE TABLE subscription (                  -- what a source calls a subscription
    source       TEXT NOT NULL,
    subscription TEXT NOT NULL,
    account_ref  TEXT,
    name         TEXT,
    server_id    TEXT,
    started      INTEGER NOT NULL CHECK (started IN (0, 1)),
    gone_at      TEXT,                       -- since when its customer is deleted; what is still told of it changes nothing
    PRIMARY KEY (source, subscription)
) STRICT, WITHOUT ROWID;

CREATE TABLE said (                          -- every word for a subscription; what is true is told again from all of them
    source       TEXT NOT NULL,
    subscription TEXT NOT NULL,
    word         TEXT NOT NULL,              -- the invoice that renews, else the event
    event_key    INTEGER NOT NULL REFERENCES event,
    kind         TEXT NOT NULL CHECK (kind IN ('started', 'renewed', 'changed', 'ended')),
    at           TEXT,                       -- when its source saw it so; NULL: the beginning
    told         TEXT NOT NULL,
    PRIMARY KEY (source, subscription, word),
    FOREIGN KEY (source, subscription) REFERENCES subscription
) STRICT, WITHOUT ROWID;
CREATE INDEX said_by_event ON said (event_key);

CREATE TABLE subscribed (                    -- what is in it, and which entitlement that is
    source         TEXT NOT NULL,
    subscription   TEXT NOT NULL,
    item           TEXT NOT NULL,
    product        TEXT NOT NULL,            -- what its source calls it
    sku            TEXT NOT NULL,            -- and what it was called here when it was sold
    quantity       INTEGER NOT NULL,
    entitlement_id TEXT NOT NULL,
    present        INTEGER NOT NULL CHECK (present IN (0, 1)), -- 0: it was taken out
    off            INTEGER NOT NULL CHECK (off IN (0, 1)),     -- 1: its source had it disabled
    since          TEXT,                     -- when it took the place of one that had ended
    renewals       TEXT NOT NULL,            -- those carried out, and what each moved
    PRIMARY KEY (source, subscription, item),
    FOREIGN KEY (source, subscription) REFERENCES subscription
) STRICT, WITHOUT ROWID;
