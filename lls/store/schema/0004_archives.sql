-- Ranges of the journal that were written to archive files. Lines up to the highest "to_seq" may be gone from "journal";
-- what a later question needs of them stands here: the end of the range, and the fold of its usage.
-- Instants are integers: microseconds since 1970-01-01T00:00:00Z.

CREATE TABLE archives (
    to_seq    INTEGER PRIMARY KEY,
    from_seq  INTEGER NOT NULL,
    prev_head TEXT NOT NULL,
    head      TEXT NOT NULL,
    last_at   INTEGER NOT NULL, -- the stamp of the last line
    made_at   INTEGER NOT NULL,
    file      TEXT NOT NULL,    -- its name in the archive folder, which may be moved
    sha256    TEXT NOT NULL,
    carry     TEXT NOT NULL     -- JSON, the usage fold at the end of the range
);
