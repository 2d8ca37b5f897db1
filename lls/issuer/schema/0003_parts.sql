CREATE TABLE part (                          -- seats of an entitlement that were renewed or upgraded as one of their own
    part_id   TEXT PRIMARY KEY REFERENCES entitlement,
    of_id     TEXT NOT NULL REFERENCES entitlement,
    kind      TEXT NOT NULL CHECK (kind IN ('renew', 'upgrade')),
    seats     INTEGER NOT NULL,
    parted_at TEXT NOT NULL
) STRICT;
CREATE INDEX part_by_whole ON part (of_id);
