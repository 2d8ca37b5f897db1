CREATE TABLE refused_report (                -- reports that were not taken in: what support asks for when a site calls
    refusal_id INTEGER PRIMARY KEY,
    refused_at TEXT NOT NULL,
    refused_by TEXT NOT NULL,
    file       TEXT NOT NULL,                -- its name alone
    sha256     TEXT NOT NULL,
    size       INTEGER NOT NULL,
    claimed    TEXT,                         -- the server that it says to be of, where it could be read so far; nobody has proved it
    server_id  TEXT REFERENCES server,       -- the same, where that is registered here
    code       TEXT NOT NULL,
    problem    TEXT NOT NULL,
    detail     TEXT NOT NULL
) STRICT;
CREATE INDEX refused_by_server ON refused_report (server_id);
