-- Who may administer over the network. Passwords and keys are hashes; a TOTP secret has to be kept as it is.

CREATE TABLE users (
    name         TEXT PRIMARY KEY,
    role         TEXT NOT NULL,
    password     TEXT,             -- argon2id in its own form; empty: none yet
    totp         TEXT,             -- base32
    totp_step    INTEGER NOT NULL, -- the last step that was used: none comes twice
    invite       BLOB,             -- SHA-256 of a one-time token that sets the password
    invite_until INTEGER,
    version      INTEGER NOT NULL, -- rises with every change that ends sessions
    made_at      INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE api_keys (
    key_id     TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL UNIQUE, -- SHA-256
    role       TEXT NOT NULL,
    scopes     TEXT NOT NULL,        -- JSON; empty list: whatever the role may
    expires_at INTEGER,
    made_at    INTEGER NOT NULL
) WITHOUT ROWID;
