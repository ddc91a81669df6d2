-- What semel's consumers and producers keep in a SQLite file. Times are milliseconds since 1970.

CREATE TABLE semel_kafka_meta (
    name  TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO semel_kafka_meta (name, value) VALUES ('schema', 1);

-- Where each group is in each partition.
CREATE TABLE semel_kafka_position (
    grp       TEXT NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    epoch     INTEGER NOT NULL, -- rises with every owner
    next      INTEGER, -- the next offset to read; null when nothing was ever handled
    ordinal   INTEGER NOT NULL DEFAULT 0, -- how many ids were remembered
    reached   INTEGER, -- the earliest time in the latest batch: how far the records have come
    PRIMARY KEY (grp, topic, partition)
) STRICT, WITHOUT ROWID;

-- The ids of records that were handled, and where they were seen.
CREATE TABLE semel_kafka_seen (
    grp       TEXT NOT NULL,
    id        TEXT NOT NULL,
    at        INTEGER NOT NULL,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    ordinal   INTEGER NOT NULL, -- which one of its partition it was
    PRIMARY KEY (grp, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX semel_kafka_seen_at ON semel_kafka_seen (grp, topic, partition, at);
CREATE INDEX semel_kafka_seen_ordinal ON semel_kafka_seen (grp, topic, partition, ordinal);

-- Records that wait for the relay. An id is never used again.
CREATE TABLE semel_kafka_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uid        TEXT NOT NULL DEFAULT (lower(hex(randomblob(16)))), -- the record's own id
    outbox     TEXT NOT NULL,
    batch      INTEGER, -- the sealed batch that it leaves with
    topic      TEXT NOT NULL,
    partition  INTEGER,
    key        BLOB,
    value      BLOB,
    headers    TEXT NOT NULL, -- JSON: pairs of a name and a value in hexadecimal, or null
    timestamp  INTEGER,
    created_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;

CREATE INDEX semel_kafka_outbox_batch_id ON semel_kafka_outbox (outbox, batch, id);

-- The number of the next batch of each outbox; there are no gaps.
CREATE TABLE semel_kafka_outbox_batch (
    outbox TEXT PRIMARY KEY,
    next   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
