-- Written by schema version 1; never edited.

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

INSERT INTO semel_meta (name, value) VALUES
    ('schema', 1),
    ('counter', 4),
    ('secret', x'0707070707070707070707070707070707070707070707070707070707070707');

INSERT INTO semel_record (
    tenant, operation, key, state, effect, counter, nonce, fingerprint, attempts, lost_leases,
    created_at, updated_at, deadline, since, hold_cause, hold_detail, steps, outcome
) VALUES
    ('-', 'test', 'completed', 'completed', 'keyed', 1,
     x'01010101010101010101010101010101',
     x'0101010101010101010101010101010101010101010101010101010101010101',
     2, 1, 1767225600000, 1767225601000, 1767312001000, 1767225601000, NULL, NULL,
     NULL,
     x'53454d4c01601de00c0d8fcb10a400000166687474702f310243323031034d7b226f72646572223a31377dff'),
    ('-', 'test', 'held', 'held', 'hold', 2,
     x'02020202020202020202020202020202',
     x'0202020202020202020202020202020202020202020202020202020202020202',
     2, 1, 1767225600000, 1767225601000, NULL, 1767225601000,
     'lease-lost', 'claim 2 ended in silence',
     NULL,
     NULL),
    ('-', 'test', 'in-progress', 'in-progress', 'transactional', 3,
     x'03030303030303030303030303030303',
     x'0303030303030303030303030303030303030303030303030303030303030303',
     2, 1, 1767225600000, 1767225601000, 1767225631000, NULL, NULL, NULL,
     x'53454d4c015e52e6a476b6f7838282666368617267654463685f3182647368697040',
     NULL),
    ('-', 'test', 'interrupted', 'interrupted', 'retry', 4,
     x'04040404040404040404040404040404',
     x'0404040404040404040404040404040404040404040404040404040404040404',
     2, 1, 1767225600000, 1767225601000, NULL, 1767225601000, NULL, NULL,
     NULL,
     NULL);

INSERT INTO semel_audit (
    key, tenant, operation, counter, nonce, at, action, actor, reason
) VALUES
    ('held', '-', 'test', 2, x'02020202020202020202020202020202', 1767225600000, 'release', 'ada',
     'no order with this key');
