-- The journal is append-only; every other table is what its lines imply, written in the same transaction.
-- Instants are integers: microseconds since 1970-01-01T00:00:00Z.

CREATE TABLE writer (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    head  TEXT NOT NULL,
    mark  INTEGER            -- the guarded clock's high-water mark
);

INSERT INTO writer (id, epoch, seq, head)
VALUES (1, 0, 0, '0000000000000000000000000000000000000000000000000000000000000000');

CREATE TABLE journal (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    latest INTEGER NOT NULL, -- the highest "at" up to here: never goes back, even where the vendor set the clock back
    line   BLOB NOT NULL
);

CREATE TABLE leases (
    lease_id       TEXT PRIMARY KEY,
    secret         BLOB NOT NULL,
    content        BLOB NOT NULL,
    product        TEXT NOT NULL,
    entitlement_id TEXT NOT NULL,
    seat_id        TEXT NOT NULL,
    seat_name      TEXT,
    user           TEXT,
    host           TEXT,
    process        TEXT,
    seats          INTEGER NOT NULL,
    ttl            INTEGER NOT NULL,
    overdraft      INTEGER NOT NULL,
    granted_at     INTEGER NOT NULL,
    state          TEXT NOT NULL,
    mode           TEXT,     -- empty: floating
    features       TEXT,     -- JSON, units held by feature key; empty: none
    until          INTEGER,  -- the end of a borrowed lease
    key            TEXT,
    address        TEXT,
    silent_since   INTEGER   -- of a seat that waits for its machine
) WITHOUT ROWID;

-- What was taken of each lot of a counted feature. One of the two tables that every use writes.
CREATE TABLE lots (
    entitlement_id TEXT NOT NULL,
    feature        TEXT NOT NULL,
    lot            TEXT NOT NULL,
    used           INTEGER NOT NULL,
    ended          INTEGER NOT NULL,
    PRIMARY KEY (entitlement_id, feature, lot)
) WITHOUT ROWID;

-- Feature calls that were answered, kept for late retries and for undo.
CREATE TABLE requests (
    lease_id       TEXT NOT NULL,
    request_id     TEXT NOT NULL,
    act            TEXT NOT NULL,
    entitlement_id TEXT NOT NULL,
    feature        TEXT NOT NULL,
    amount         INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    held           INTEGER NOT NULL,
    available      INTEGER,
    total          INTEGER,
    draws          TEXT,     -- JSON, [[lot, units], ...]; empty: none
    undone         INTEGER NOT NULL,
    strict         INTEGER,  -- what strict time said, where it was ahead of "at"
    kept_until     INTEGER NOT NULL,
    PRIMARY KEY (lease_id, request_id)
) WITHOUT ROWID;
CREATE INDEX requests_kept_until ON requests (kept_until);

-- Lease ids that will never be granted again, kept for late retries.
CREATE TABLE ended (
    lease_id TEXT PRIMARY KEY,
    secret   BLOB NOT NULL,
    reason   TEXT NOT NULL,
    at       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX ended_at ON ended (at);

CREATE TABLE bundles (
    bundle_id    TEXT PRIMARY KEY,
    sequence     INTEGER NOT NULL,
    keys_version INTEGER NOT NULL,
    issued_at    INTEGER NOT NULL,
    imported_at  INTEGER NOT NULL,
    digest       TEXT NOT NULL,
    jws          TEXT NOT NULL
);

CREATE TABLE placed (
    entitlement_id TEXT PRIMARY KEY,
    session_id     TEXT NOT NULL,
    sequence       INTEGER NOT NULL,
    bundle_id      TEXT NOT NULL REFERENCES bundles,
    started_at     INTEGER,          -- where the first lease starts the term
    draining       INTEGER NOT NULL, -- no new leases: it is on its way back to the vendor
    assigned       TEXT NOT NULL,    -- JSON, the named users that the site has chosen
    renamed_at     TEXT NOT NULL     -- JSON, when it took a name away
);

-- Entitlements that went back. Everything that the signed return says, so that it can be made again.
CREATE TABLE returns (
    entitlement_id TEXT NOT NULL,
    session_id     TEXT NOT NULL,
    up_to_seq      INTEGER NOT NULL,
    head           TEXT NOT NULL,
    meters         TEXT NOT NULL,
    borrowed_until INTEGER,
    made_at        INTEGER NOT NULL,
    PRIMARY KEY (entitlement_id, session_id)
);

CREATE TABLE key_sets (version INTEGER PRIMARY KEY, token TEXT NOT NULL);
CREATE TABLE closed_sessions (session_id TEXT PRIMARY KEY);
CREATE TABLE commands (command_id TEXT PRIMARY KEY);
CREATE TABLE receipts (receipt_id TEXT PRIMARY KEY);

CREATE TABLE reports (
    report_id     TEXT PRIMARY KEY,
    from_seq      INTEGER NOT NULL,
    to_seq        INTEGER NOT NULL,
    prev_head     TEXT NOT NULL,
    head          TEXT NOT NULL,
    made_at       INTEGER NOT NULL,
    pseudonymised INTEGER NOT NULL
);

-- What stands behind the journal's commitments. May be left out of a report. "seq" is the first line of the group that
-- brought the name: a report that is written again must not know more names than it did the first time.
CREATE TABLE names (
    commitment TEXT NOT NULL,
    field      TEXT NOT NULL,
    value      TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    PRIMARY KEY (commitment, field)
) WITHOUT ROWID;

CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
