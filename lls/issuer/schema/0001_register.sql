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
    created_at    TEXT NOT NULL
) STRICT;

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

CREATE TABLE sale (
    order_ref    TEXT PRIMARY KEY,
    sha256       TEXT NOT NULL,              -- the same reference with other content is refused
    customer_id  TEXT NOT NULL REFERENCES customer,
    server_id    TEXT NOT NULL REFERENCES server,
    document     TEXT NOT NULL,
    fulfilled_at TEXT NOT NULL
) STRICT;

CREATE TABLE entitlement (
    entitlement_id TEXT PRIMARY KEY,
    order_ref      TEXT NOT NULL REFERENCES sale,
    line           INTEGER NOT NULL,
    customer_id    TEXT NOT NULL REFERENCES customer,
    server_id      TEXT REFERENCES server,   -- NULL: hosted nowhere
    document       TEXT NOT NULL,            -- as it was sold
    created_at     TEXT NOT NULL,
    free_from      TEXT,                     -- of one that is hosted nowhere: from when on it may be; NULL: at once
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
    session_id TEXT NOT NULL REFERENCES session,
    document   TEXT NOT NULL,
    ordered_at TEXT NOT NULL,
    applied_at TEXT
) STRICT;
CREATE INDEX command_pending ON command (session_id) WHERE applied_at IS NULL;

CREATE TABLE act (                           -- changes made under a reference of the vendor's own, each once
    ref     TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    outcome TEXT NOT NULL,
    done_at TEXT NOT NULL
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
