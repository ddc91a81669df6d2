-- Every name starts with semel_, because the file may be the application's own database.

CREATE TABLE semel_meta (
    name  TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

CREATE TABLE semel_record (
    tenant      TEXT NOT NULL,
    operation   TEXT NOT NULL,
    key         TEXT NOT NULL,
    state       TEXT NOT NULL,
    effect      TEXT NOT NULL,
    counter     INTEGER NOT NULL,
    nonce       BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    attempts    INTEGER NOT NULL,
    lost_leases INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,   -- milliseconds since 1970, like all times here
    updated_at  INTEGER NOT NULL,
    deadline    INTEGER,            -- in-progress: end of the lease; completed: of the retention
    since       INTEGER,            -- completed, held, interrupted: since when
    hold_cause  TEXT,
    hold_detail TEXT,
    steps       BLOB,               -- envelope; NULL when there are none
    outcome     BLOB                -- envelope; only when completed
);

-- The key first: an operator often knows nothing else.
CREATE UNIQUE INDEX semel_record_name ON semel_record (key, tenant, operation);
CREATE INDEX semel_record_expiry ON semel_record (deadline) WHERE state = 'completed';
CREATE INDEX semel_record_open ON semel_record (state, deadline) WHERE state <> 'completed';

CREATE TABLE semel_audit (
    key       TEXT NOT NULL,
    tenant    TEXT NOT NULL,
    operation TEXT NOT NULL,
    counter   INTEGER NOT NULL,
    nonce     BLOB NOT NULL,
    at        INTEGER NOT NULL,
    action    TEXT NOT NULL,
    actor     TEXT NOT NULL,
    reason    TEXT NOT NULL,
    PRIMARY KEY (key, tenant, operation, counter, nonce)
) WITHOUT ROWID;
