-- What semel's consumers and producers keep in this database: ids, positions, the outbox.
-- Times are milliseconds since 1970.

DO $$ BEGIN
    -- Even IF NOT EXISTS would need the right to make schemas.
    IF to_regnamespace('semel_kafka') IS NULL THEN
        CREATE SCHEMA semel_kafka;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS semel_kafka.migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL DEFAULT current_user
);

-- Fails when this step was applied before, and then changes nothing.
INSERT INTO semel_kafka.migration (version, name) VALUES (1, 'ledger');

-- Where each group is in each partition. Changed with every transaction, hence the room.
CREATE TABLE semel_kafka.position (
    grp       text NOT NULL COLLATE "C",
    topic     text NOT NULL COLLATE "C",
    partition integer NOT NULL,
    epoch     bigint NOT NULL, -- rises with every owner
    next      bigint, -- the next offset to read; null when nothing was ever handled
    ordinal   bigint NOT NULL DEFAULT 0, -- how many ids were remembered
    reached   bigint, -- the earliest time in the latest batch: how far the records have come
    PRIMARY KEY (grp, topic, partition)
) WITH (fillfactor = 50);

-- The ids of records that were handled, and where they were seen.
CREATE TABLE semel_kafka.seen (
    grp       text NOT NULL COLLATE "C",
    id        text NOT NULL COLLATE "C",
    at        bigint NOT NULL,
    topic     text NOT NULL COLLATE "C",
    partition integer NOT NULL,
    ordinal   bigint NOT NULL, -- which one of its partition it was
    PRIMARY KEY (grp, id)
);

CREATE INDEX seen_at ON semel_kafka.seen (grp, topic, partition, at);
CREATE INDEX seen_ordinal ON semel_kafka.seen (grp, topic, partition, ordinal);

-- Records that wait for the relay.
CREATE TABLE semel_kafka.outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid           text NOT NULL DEFAULT gen_random_uuid()::text, -- the record's own id
    outbox        text NOT NULL COLLATE "C",
    batch         bigint, -- the sealed batch that it leaves with
    topic         text NOT NULL,
    partition     integer,
    key           bytea,
    value         bytea,
    header_names  text[] NOT NULL,
    header_values bytea[] NOT NULL,
    timestamp     bigint,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX outbox_batch_id ON semel_kafka.outbox (outbox, batch, id);

-- The number of the next batch of each outbox; there are no gaps.
CREATE TABLE semel_kafka.outbox_batch (
    outbox text PRIMARY KEY COLLATE "C",
    next   bigint NOT NULL
) WITH (fillfactor = 50);

-- Whether a remembered id is still inside of a window. Null is no bound.
CREATE FUNCTION semel_kafka.is_inside(
    apart bigint, behind bigint, window_ms bigint, window_ids bigint
) RETURNS boolean LANGUAGE sql IMMUTABLE
AS $$
    SELECT (window_ms IS NULL OR abs(apart) < window_ms)
        AND (window_ids IS NULL OR coalesce(behind, 0) < window_ids)
$$;

-- Makes partitions the caller's. Waits up to `wait_ms` for an earlier owner's transaction.
CREATE FUNCTION semel_kafka.take(
    its_group text, topics text[], partitions integer[], wait_ms bigint
) RETURNS TABLE (topic text, partition integer, epoch bigint, next bigint)
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('lock_timeout', wait_ms::text, true);
    RETURN QUERY
    INSERT INTO semel_kafka.position AS p (grp, topic, partition, epoch)
    SELECT its_group, a.topic, a.partition, 1
    FROM unnest(topics, partitions) AS a (topic, partition)
    -- Always in the same order, so that two owners cannot wait for each other.
    ORDER BY a.topic COLLATE "C", a.partition
    ON CONFLICT (grp, topic, partition) DO UPDATE SET epoch = p.epoch + 1
    RETURNING p.topic, p.partition, p.epoch, p.next;
END
$$;

-- Remembers ids and returns the places, from 1, of those that were new. `lots` says in which of
-- the partitions each was seen; a null time is now. The window in ids is judged as it was before
-- the call.
CREATE FUNCTION semel_kafka.remember(
    its_group text, topics text[], partitions integer[], ids text[], lots integer[],
    times bigint[], window_ms bigint, window_ids bigint, slides boolean
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE
-- The plans are the same for every batch, and always go by an index: a table that was small when
-- a plan was made may have grown. A batch is joined with itself by hashing, however small the
-- planner takes it to be.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_nestloop = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    moment bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    found_partitions bigint;
    fresh  bigint[];
    again  record;
BEGIN
    -- Ordinals are given under this lock. Who moves the position first has it already.
    PERFORM FROM unnest(topics, partitions) AS a (topic, partition)
    JOIN semel_kafka.position AS p
        ON p.grp = its_group AND p.topic = a.topic AND p.partition = a.partition
    ORDER BY p.topic, p.partition
    FOR NO KEY UPDATE OF p;
    GET DIAGNOSTICS found_partitions = ROW_COUNT;
    IF found_partitions <> cardinality(topics) THEN
        RAISE EXCEPTION 'a partition was never taken'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    WITH sighted AS (
        SELECT a.place, a.id, a.lot, coalesce(a.at, moment) AS at,
            row_number() OVER (PARTITION BY a.id ORDER BY a.place) AS turn
        FROM unnest(ids, lots, times) WITH ORDINALITY AS a (id, lot, at, place)
    ), judged AS (
        SELECT i.place, i.id, i.lot, i.at, p.ordinal AS start,
            NOT coalesce(k.is_inside, false) AS is_new
        FROM sighted AS i
        JOIN semel_kafka.position AS p
            ON p.grp = its_group AND p.topic = topics[i.lot] AND p.partition = partitions[i.lot]
        LEFT JOIN LATERAL (
            SELECT semel_kafka.is_inside(
                i.at - s.at,
                (
                    SELECT o.ordinal FROM semel_kafka.position AS o
                    WHERE o.grp = s.grp AND o.topic = s.topic AND o.partition = s.partition
                ) - s.ordinal,
                window_ms, window_ids
            ) AS is_inside
            FROM semel_kafka.seen AS s
            WHERE s.grp = its_group AND s.id = i.id COLLATE "C"
            LIMIT 1
        ) AS k ON true
        WHERE i.turn = 1
    ), numbered AS MATERIALIZED (
        -- Exact unless another transaction is writing one of them, and then only the ordinals are
        -- not: whether an id is new is decided under its row's lock below.
        SELECT j.place, j.id, j.lot, j.at, j.start + greatest(
                1,
                count(*) FILTER (WHERE j.is_new) OVER (PARTITION BY j.lot ORDER BY j.place)
            ) AS ordinal
        FROM judged AS j
    ), written AS (
        INSERT INTO semel_kafka.seen AS s (grp, id, at, topic, partition, ordinal)
        SELECT its_group, n.id, n.at, topics[n.lot], partitions[n.lot], n.ordinal
        FROM numbered AS n
        -- Always in the same order, so that two batches cannot wait for each other.
        ORDER BY n.id COLLATE "C"
        -- Rows that stay as they are get locked all the same.
        ON CONFLICT (grp, id) DO UPDATE
        SET at = excluded.at, topic = excluded.topic, partition = excluded.partition,
            ordinal = excluded.ordinal
        WHERE NOT semel_kafka.is_inside(
            excluded.at - s.at,
            (
                SELECT o.ordinal FROM semel_kafka.position AS o
                WHERE o.grp = s.grp AND o.topic = s.topic AND o.partition = s.partition
            ) - s.ordinal,
            window_ms, window_ids
        )
        RETURNING s.id
    )
    SELECT coalesce(array_agg(n.place ORDER BY n.place), '{}')
    FROM written AS w JOIN numbered AS n ON n.id = w.id
    INTO fresh;

    IF cardinality(fresh) < cardinality(ids) THEN
        IF slides THEN
            UPDATE semel_kafka.seen AS s SET at = i.at
            FROM (
                SELECT DISTINCT ON (a.id) a.id, coalesce(a.at, moment) AS at
                FROM unnest(ids, times) WITH ORDINALITY AS a (id, at, place)
                ORDER BY a.id, a.place
            ) AS i
            WHERE s.grp = its_group AND s.id = ANY (ids) AND s.id = i.id COLLATE "C"
                AND s.at < i.at;
        END IF;
        -- Equal ids in one call, one after the other. Their rows are locked by now.
        FOR again IN
            SELECT i.id, i.lot, i.place, i.at FROM (
                SELECT a.id, a.lot, a.place, coalesce(a.at, moment) AS at,
                    row_number() OVER (PARTITION BY a.id ORDER BY a.place) AS turn
                FROM unnest(ids, lots, times) WITH ORDINALITY AS a (id, lot, at, place)
            ) AS i
            WHERE i.turn > 1 ORDER BY i.place
        LOOP
            UPDATE semel_kafka.seen AS s
            SET at = again.at, topic = topics[again.lot], partition = partitions[again.lot],
                ordinal = 1 + (
                    SELECT count(*) FROM unnest(fresh) AS f (place)
                    WHERE lots[f.place] = again.lot
                ) + (
                    SELECT p.ordinal FROM semel_kafka.position AS p
                    WHERE p.grp = its_group AND p.topic = topics[again.lot]
                        AND p.partition = partitions[again.lot]
                )
            WHERE s.grp = its_group AND s.id = again.id COLLATE "C"
                AND NOT semel_kafka.is_inside(again.at - s.at, 0, window_ms, NULL);
            IF FOUND THEN
                fresh := fresh || again.place;
            ELSIF slides THEN
                UPDATE semel_kafka.seen AS s SET at = again.at
                WHERE s.grp = its_group AND s.id = again.id COLLATE "C" AND s.at < again.at;
            END IF;
        END LOOP;
    END IF;

    UPDATE semel_kafka.position AS p
    SET ordinal = p.ordinal + n.many, reached = n.reached
    FROM (
        SELECT i.lot, min(i.reached) AS reached, sum(i.many) AS many FROM (
            SELECT a.lot, coalesce(a.at, moment) AS reached, 0 AS many
            FROM unnest(lots, times) AS a (lot, at)
            UNION ALL
            SELECT lots[f.place], NULL, 1 FROM unnest(fresh) AS f (place)
        ) AS i
        GROUP BY i.lot
    ) AS n
    WHERE p.grp = its_group AND p.topic = topics[n.lot] AND p.partition = partitions[n.lot];
    RETURN fresh;
END
$$;

-- Deletes up to `at_most` ids that a window has forgotten. By the records' own times an id is kept
-- for twice the window, so that one that is late still finds its duplicate.
CREATE FUNCTION semel_kafka.forget(
    its_group text, window_ms bigint, window_ids bigint, by_event boolean, at_most bigint
) RETURNS bigint LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    moment bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    gone   bigint := 0;
    many   bigint;
    place  record;
BEGIN
    FOR place IN
        SELECT p.topic, p.partition, p.ordinal - window_ids AS ordinal,
            CASE WHEN by_event THEN least(moment, p.reached) - window_ms * 2
                ELSE moment - window_ms END AS at
        FROM semel_kafka.position AS p
        WHERE p.grp = its_group AND p.reached IS NOT NULL
    LOOP
        EXIT WHEN gone >= at_most;
        -- Rows that a transaction is using are left for later.
        DELETE FROM semel_kafka.seen AS d WHERE d.ctid = ANY (ARRAY(
            SELECT s.ctid FROM semel_kafka.seen AS s
            WHERE s.grp = its_group AND s.topic = place.topic AND s.partition = place.partition
                AND s.at <= place.at
            LIMIT at_most - gone FOR UPDATE SKIP LOCKED
        ));
        GET DIAGNOSTICS many = ROW_COUNT;
        gone := gone + many;
        DELETE FROM semel_kafka.seen AS d WHERE d.ctid = ANY (ARRAY(
            SELECT s.ctid FROM semel_kafka.seen AS s
            WHERE s.grp = its_group AND s.topic = place.topic AND s.partition = place.partition
                AND s.ordinal <= place.ordinal
            LIMIT at_most - gone FOR UPDATE SKIP LOCKED
        ));
        GET DIAGNOSTICS many = ROW_COUNT;
        gone := gone + many;
    END LOOP;
    RETURN gone;
END
$$;

-- Fails unless the transaction is the one of that number.
CREATE FUNCTION semel_kafka.check_transaction(number text) RETURNS void LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    IF pg_current_xact_id_if_assigned()::text IS DISTINCT FROM number THEN
        RAISE EXCEPTION 'the transaction has ended'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
END
$$;

-- The rows of the sealed batch of an outbox; without one, seals the oldest rows as the next.
CREATE FUNCTION semel_kafka.seal(its_outbox text, at_most bigint)
RETURNS SETOF semel_kafka.outbox LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    number bigint;
    sealed bigint;
BEGIN
    -- An idle relay writes nothing.
    IF NOT EXISTS (SELECT FROM semel_kafka.outbox AS o WHERE o.outbox = its_outbox) THEN
        RETURN;
    END IF;
    INSERT INTO semel_kafka.outbox_batch (outbox, next) VALUES (its_outbox, 0)
    ON CONFLICT DO NOTHING;
    -- Relays take turns, and the second sees what the first has sealed.
    SELECT b.next FROM semel_kafka.outbox_batch AS b WHERE b.outbox = its_outbox
    FOR NO KEY UPDATE INTO number;
    SELECT min(o.batch) FROM semel_kafka.outbox AS o
    WHERE o.outbox = its_outbox AND o.batch IS NOT NULL INTO sealed;
    IF sealed IS NULL THEN
        UPDATE semel_kafka.outbox AS o SET batch = number
        WHERE o.id = ANY (ARRAY(
            SELECT w.id FROM semel_kafka.outbox AS w
            WHERE w.outbox = its_outbox AND w.batch IS NULL
            ORDER BY w.id LIMIT at_most
        ));
        IF NOT FOUND THEN
            RETURN;
        END IF;
        UPDATE semel_kafka.outbox_batch AS b SET next = number + 1 WHERE b.outbox = its_outbox;
        sealed := number;
    END IF;
    RETURN QUERY SELECT o.* FROM semel_kafka.outbox AS o
    WHERE o.outbox = its_outbox AND o.batch = sealed ORDER BY o.id;
END
$$;
