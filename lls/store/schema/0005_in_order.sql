-- What is kept for late retries stands in the order of its coming: by the ids that clients make up, each use and each
-- end would change a page of its own. What was kept before comes first, below every line number that is ever given.

CREATE TABLE requests_in_order (
    seq            INTEGER PRIMARY KEY, -- the journal's end when it was answered
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
    kept_until     INTEGER NOT NULL
);
INSERT INTO requests_in_order
SELECT ROW_NUMBER() OVER (ORDER BY at, lease_id, request_id) - (SELECT COUNT(*) FROM requests) - 1,
       lease_id, request_id, act, entitlement_id, feature, amount, at, held, available, total, draws, undone, strict,
       kept_until
FROM requests;
DROP TABLE requests;
ALTER TABLE requests_in_order RENAME TO requests;
CREATE INDEX requests_kept_until ON requests (kept_until);

-- In the order of their ends, each once.
CREATE TABLE ended_in_order (
    lease_id TEXT NOT NULL,
    secret   BLOB NOT NULL,
    reason   TEXT NOT NULL,
    at       INTEGER NOT NULL
);
INSERT INTO ended_in_order SELECT lease_id, secret, reason, at FROM ended ORDER BY at, lease_id;
DROP TABLE ended;
ALTER TABLE ended_in_order RENAME TO ended;
CREATE INDEX ended_at ON ended (at);
