-- Records of idempotent operations. `semel.` stands for the schema that the store was told to use.
--
-- An operation that is not finished is a row of `semel.open`, one a key, kept unique by the
-- primary key. A finished one moves to `semel.done`, which is partitioned by the end of its
-- retention, so that forgetting is dropping a table and never a DELETE. All times are milliseconds
-- since 1970 by this server's clock; the views at the end show them as timestamps.

CREATE SEQUENCE semel.fence;

CREATE TABLE semel.meta (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);
-- The secret behind fingerprints: the same for all programs on this store.
INSERT INTO semel.meta VALUES (
    'secret',
    sha256(
        uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    )
);

CREATE TABLE semel.open (
    key         text COLLATE "C" NOT NULL,
    tenant      text COLLATE "C" NOT NULL,
    operation   text COLLATE "C" NOT NULL,
    state       text NOT NULL,                -- in-progress, held, interrupted
    effect      text NOT NULL,
    counter     bigint NOT NULL,
    nonce       bytea NOT NULL,
    revision    bigint NOT NULL,              -- rises with every write after the claim
    fingerprint bytea NOT NULL,
    attempts    integer NOT NULL,
    lost_leases integer NOT NULL,
    created_at  bigint NOT NULL,
    updated_at  bigint NOT NULL,
    deadline    bigint,                       -- in-progress: the end of the lease
    since       bigint,                       -- held, interrupted: since when
    hold_cause  text,
    hold_detail text,
    steps       bytea,                        -- envelope; NULL when there are none
    awaited     boolean NOT NULL DEFAULT false, -- somebody listens for the end of it
    PRIMARY KEY (key, tenant, operation)
) WITH (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1
);

CREATE TABLE semel.done (
    key          text COLLATE "C" NOT NULL,
    tenant       text COLLATE "C" NOT NULL,
    operation    text COLLATE "C" NOT NULL,
    effect       text NOT NULL,
    counter      bigint NOT NULL,
    nonce        bytea NOT NULL,
    fingerprint  bytea NOT NULL,
    attempts     integer NOT NULL,
    lost_leases  integer NOT NULL,
    created_at   bigint NOT NULL,
    completed_at bigint NOT NULL,
    expires_at   bigint NOT NULL,
    width        bigint NOT NULL,             -- how much time one partition of its class spans
    outcome      bytea NOT NULL               -- envelope
) PARTITION BY LIST (width);
CREATE INDEX ON semel.done (key, tenant, operation);

-- A partition spans about a quarter of the longest retention of its class: few enough to look into
-- each on a claim, short enough that little is kept for longer than it was asked for.
CREATE TABLE semel.done_6h PARTITION OF semel.done FOR VALUES IN (21600000)
    PARTITION BY RANGE (expires_at);
CREATE TABLE semel.done_8d PARTITION OF semel.done FOR VALUES IN (691200000)
    PARTITION BY RANGE (expires_at);
CREATE TABLE semel.done_92d PARTITION OF semel.done FOR VALUES IN (7948800000)
    PARTITION BY RANGE (expires_at);

CREATE TABLE semel.audit (
    key       text COLLATE "C" NOT NULL,
    tenant    text COLLATE "C" NOT NULL,
    operation text COLLATE "C" NOT NULL,
    counter   bigint NOT NULL,
    nonce     bytea NOT NULL,
    at        bigint NOT NULL,
    action    text NOT NULL,
    actor     text NOT NULL,
    reason    text NOT NULL,
    PRIMARY KEY (key, tenant, operation, counter, nonce)
);

CREATE FUNCTION semel.clock() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

CREATE FUNCTION semel.width_of(retention bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE
        WHEN retention <= 86400000 THEN 21600000      -- a day: 6 hours
        WHEN retention <= 2764800000 THEN 691200000   -- 32 days: 8 days
        ELSE 7948800000                               -- longer: 92 days
    END
$$;

-- Makes the partition for what completes now with this retention, and the next one. Returns for
-- how many milliseconds that is enough. Attached, not made as PARTITION OF: that would lock all
-- readers out.
CREATE FUNCTION semel.provide(retention bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    width  bigint := semel.width_of(retention);
    class  text := CASE width WHEN 21600000 THEN '6h' WHEN 691200000 THEN '8d' ELSE '92d' END;
    ends   bigint := semel.clock() + retention;
    first  bigint := ends / width;
    name   text;
BEGIN
    FOR bucket IN first .. first + 1 LOOP
        name := format('done_%s_%s', class, bucket);
        CONTINUE WHEN to_regclass(format('semel.%I', name)) IS NOT NULL;
        -- One at a time, so that two of them do not wait for each other's locks.
        PERFORM pg_advisory_xact_lock(hashtextextended('semel.done', 0));
        BEGIN
            EXECUTE format('CREATE TABLE semel.%I (LIKE semel.%I)', name, 'done_' || class);
            EXECUTE format(
                'ALTER TABLE semel.%I ATTACH PARTITION semel.%I FOR VALUES FROM (%s) TO (%s)',
                'done_' || class, name, bucket * width, (bucket + 1) * width
            );
        EXCEPTION WHEN duplicate_table THEN
            NULL; -- Somebody was faster.
        END;
    END LOOP;
    RETURN (first + 2) * width - ends;
END
$$;

-- Drops one partition in which everything has expired; returns about how many records it held, or
-- NULL if there was none to drop.
-- One program at a time tries, and it waits hardly at all, because claims queue up behind it: a
-- partition in use is dropped by a later call.
CREATE FUNCTION semel.forget() RETURNS bigint LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
AS $$
DECLARE
    now       bigint := semel.clock();
    expired   record;
    many      bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('semel.forget', 0)) THEN
        RETURN NULL;
    END IF;
    FOR expired IN
        SELECT part.relname, part.reltuples::bigint AS about
        FROM pg_inherits AS tie
        JOIN pg_class AS part ON part.oid = tie.inhrelid
        JOIN (VALUES ('done_6h', 21600000), ('done_8d', 691200000), ('done_92d', 7948800000))
            AS class (name, width)
            ON tie.inhparent = to_regclass(format('semel.%I', class.name))
        WHERE (substring(part.relname FROM '[0-9]+$')::bigint + 1) * class.width <= now
        ORDER BY part.relname
    LOOP
        BEGIN
            many := expired.about;
            IF many < 1000 THEN
                EXECUTE format('SELECT count(*) FROM semel.%I', expired.relname) INTO many;
            END IF;
            EXECUTE format('DROP TABLE semel.%I', expired.relname);
            RETURN many;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                CONTINUE; -- In use; the next call tries again.
            WHEN OTHERS THEN
                -- A view on it, say: the others must not wait for that.
                RAISE WARNING 'semel cannot drop %: %', expired.relname, SQLERRM;
        END;
    END LOOP;
    RETURN NULL;
END
$$;

-- Claims many keys in one call. What it inserted comes back as `fresh`, with its nonce and its
-- counter. If that is not all, every place comes back with what is there, and the caller decides
-- by the same rules as everywhere.
--
-- It never waits for a row that it can see, so one slow transaction does not hold up a batch.
CREATE FUNCTION semel.claim(
    keys text[], tenants text[], operations text[], fingerprints bytea[], effects text[],
    nonces bytea[], leases bigint[], insert_until bigint[]
) RETURNS TABLE (
    place bigint, now bigint, state text, effect text, counter bigint, nonce bytea, revision bigint,
    fingerprint bytea, attempts integer, lost_leases integer, created_at bigint, updated_at bigint,
    deadline bigint, since bigint, hold_cause text, hold_detail text, steps bytea, outcome bytea
) LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    moment   bigint := semel.clock();
    made     bytea[];
    counters bigint[];
    doubtful tid[];
    again    bytea[];
    higher   bigint[];
    doubles  bytea[];
BEGIN
    -- Under a stricter isolation every statement below would see the same moment of the past, and
    -- a record that was finished since then would be overlooked.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'semel.claim needs READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'active_sql_transaction',
            HINT = 'set default_transaction_isolation back to read committed for this role';
    END IF;

    WITH made AS (
        INSERT INTO semel.open AS o (
            key, tenant, operation, state, effect, counter, nonce, revision, fingerprint, attempts,
            lost_leases, created_at, updated_at, deadline
        )
        SELECT
            a.key, a.tenant, a.operation, 'in-progress', a.effect, nextval('semel.fence'), a.nonce,
            0, a.fingerprint, 1, 0, moment, moment, moment + a.lease
        FROM unnest(
            keys, tenants, operations, fingerprints, effects, nonces, leases, insert_until
        ) AS a (key, tenant, operation, fingerprint, effect, nonce, lease, insert_until)
        WHERE a.insert_until > moment
            AND (
                SELECT 1 FROM semel.open AS o
                WHERE o.key = a.key AND o.tenant = a.tenant AND o.operation = a.operation
            ) IS NULL
            AND (
                SELECT 1 FROM semel.done AS d
                WHERE d.key = a.key AND d.tenant = a.tenant AND d.operation = a.operation
                    AND d.expires_at > moment
                LIMIT 1
            ) IS NULL
        -- Always in the same order, so that two batches cannot wait for each other.
        ORDER BY a.key, a.tenant, a.operation
        ON CONFLICT DO NOTHING
        -- A number that was drawn by somebody else before this row had its place may have been
        -- used for the same key and forgotten meanwhile. Then this row needs a higher one.
        RETURNING o.ctid AS row, o.nonce, o.counter,
            o.counter < pg_sequence_last_value('semel.fence') AS is_doubtful
    )
    SELECT
        array_agg(m.nonce) FILTER (WHERE NOT m.is_doubtful),
        array_agg(m.counter) FILTER (WHERE NOT m.is_doubtful),
        array_agg(m.row) FILTER (WHERE m.is_doubtful)
    FROM made AS m INTO made, counters, doubtful;

    IF doubtful IS NOT NULL THEN
        WITH raised AS (
            UPDATE semel.open AS o SET counter = nextval('semel.fence')
            WHERE o.ctid = ANY (doubtful) RETURNING o.nonce, o.counter
        )
        SELECT array_agg(r.nonce), array_agg(r.counter) FROM raised AS r INTO again, higher;
        made := made || again;
        counters := counters || higher;
    END IF;

    IF made IS NOT NULL THEN
        -- A key that was claimed and finished between the look and the insertion is finished.
        WITH gone AS (
            DELETE FROM semel.open AS o
            USING unnest(keys, tenants, operations, nonces) AS a (key, tenant, operation, nonce)
            WHERE (
                SELECT 1 FROM semel.done AS d
                WHERE d.key = a.key AND d.tenant = a.tenant AND d.operation = a.operation
                    AND d.expires_at > moment
                LIMIT 1
            ) IS NOT NULL
                AND o.key = a.key AND o.tenant = a.tenant AND o.operation = a.operation
                AND o.nonce = a.nonce AND o.xmin = pg_current_xact_id()::xid
            RETURNING o.nonce
        )
        SELECT array_agg(g.nonce) FROM gone AS g INTO doubles;
        RETURN QUERY SELECT
            0::bigint, moment, 'fresh', NULL::text, f.counter, f.nonce, 0::bigint, NULL::bytea,
            1, 0, moment, moment, NULL::bigint, NULL::bigint, NULL::text, NULL::text, NULL::bytea,
            NULL::bytea
        FROM unnest(made, counters) AS f (nonce, counter)
        WHERE doubles IS NULL OR f.nonce <> ALL (doubles);
        IF doubles IS NULL AND cardinality(made) = cardinality(keys) THEN
            RETURN;
        END IF;
    END IF;

    RETURN QUERY SELECT
        a.place, moment, coalesce(o.state, d.state), coalesce(o.effect, d.effect),
        coalesce(o.counter, d.counter), coalesce(o.nonce, d.nonce), coalesce(o.revision, 0),
        coalesce(o.fingerprint, d.fingerprint), coalesce(o.attempts, d.attempts),
        coalesce(o.lost_leases, d.lost_leases), coalesce(o.created_at, d.created_at),
        coalesce(o.updated_at, d.completed_at), coalesce(o.deadline, d.expires_at),
        coalesce(o.since, d.completed_at), o.hold_cause, o.hold_detail, o.steps, d.outcome
    FROM unnest(keys, tenants, operations) WITH ORDINALITY AS a (key, tenant, operation, place)
    LEFT JOIN LATERAL (
        SELECT * FROM semel.open AS o
        WHERE o.key = a.key AND o.tenant = a.tenant AND o.operation = a.operation
        LIMIT 1
    ) AS o ON true
    LEFT JOIN LATERAL (
        SELECT 'completed' AS state, f.*
        FROM semel.done AS f
        WHERE o.key IS NULL AND f.key = a.key AND f.tenant = a.tenant
            AND f.operation = a.operation AND f.expires_at > moment
        -- There is one, unless the server's clock was set back over an expiry.
        ORDER BY f.counter DESC LIMIT 1
    ) AS d ON true;
END
$$;

-- The same for one key, with less to set up: what an idle server is asked.
CREATE FUNCTION semel.claim_one(
    its_key text, its_tenant text, its_operation text, its_fingerprint bytea, its_effect text,
    its_nonce bytea, lease bigint, insert_until bigint
) RETURNS TABLE (
    place bigint, now bigint, state text, effect text, counter bigint, nonce bytea, revision bigint,
    fingerprint bytea, attempts integer, lost_leases integer, created_at bigint, updated_at bigint,
    deadline bigint, since bigint, hold_cause text, hold_detail text, steps bytea, outcome bytea
) LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    moment bigint := semel.clock();
    drawn  bigint;
    newest bigint;
BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        INSERT INTO semel.open AS o (
            key, tenant, operation, state, effect, counter, nonce, revision, fingerprint, attempts,
            lost_leases, created_at, updated_at, deadline
        )
        SELECT
            its_key, its_tenant, its_operation, 'in-progress', its_effect, nextval('semel.fence'),
            its_nonce, 0, its_fingerprint, 1, 0, moment, moment, moment + lease
        WHERE insert_until > moment
            AND NOT EXISTS (
                SELECT FROM semel.open AS o
                WHERE o.key = its_key AND o.tenant = its_tenant AND o.operation = its_operation
            )
            AND NOT EXISTS (
                SELECT FROM semel.done AS d
                WHERE d.key = its_key AND d.tenant = its_tenant AND d.operation = its_operation
                    AND d.expires_at > moment
            )
        ON CONFLICT DO NOTHING
        RETURNING o.counter, pg_sequence_last_value('semel.fence') INTO drawn, newest;
        -- As for many: a higher number where it is in doubt, and a second look at what is done.
        IF drawn < newest THEN
            UPDATE semel.open AS o SET counter = nextval('semel.fence')
            WHERE o.key = its_key AND o.tenant = its_tenant AND o.operation = its_operation
                AND o.nonce = its_nonce
            RETURNING o.counter INTO drawn;
        END IF;
        IF drawn IS NOT NULL AND NOT EXISTS (
            SELECT FROM semel.done AS d
            WHERE d.key = its_key AND d.tenant = its_tenant AND d.operation = its_operation
                AND d.expires_at > moment
        ) THEN
            place := 0;
            now := moment;
            state := 'fresh';
            counter := drawn;
            nonce := its_nonce;
            revision := 0;
            RETURN NEXT;
            RETURN;
        END IF;
        IF drawn IS NOT NULL THEN
            DELETE FROM semel.open AS o
            WHERE o.key = its_key AND o.tenant = its_tenant AND o.operation = its_operation
                AND o.nonce = its_nonce;
        END IF;
    END IF;
    -- Nothing is claimed any more: the way for many tells what is there, and refuses a transaction
    -- that is too strict.
    RETURN QUERY SELECT * FROM semel.claim(
        ARRAY[its_key], ARRAY[its_tenant], ARRAY[its_operation], ARRAY[its_fingerprint],
        ARRAY[its_effect], ARRAY[its_nonce], ARRAY[lease], ARRAY[0::bigint]
    );
END
$$;

-- Moves many claims that still hold their fence to the finished ones. Rows that somebody else is
-- writing just now are left out: the caller does those alone, where it may wait.
CREATE FUNCTION semel.complete(
    keys text[], tenants text[], operations text[], counters bigint[], nonces bytea[],
    retentions bigint[], outcomes bytea[]
) RETURNS TABLE (place bigint, expires_at bigint) LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    moment bigint := semel.clock();
BEGIN
    RETURN QUERY
    WITH mine AS MATERIALIZED (
        SELECT o.ctid AS row, a.place, a.retention
        FROM unnest(keys, tenants, operations, counters, nonces, retentions) WITH ORDINALITY
            AS a (key, tenant, operation, counter, nonce, retention, place)
        JOIN semel.open AS o
            ON o.key = a.key AND o.tenant = a.tenant AND o.operation = a.operation
        WHERE o.counter = a.counter AND o.nonce = a.nonce
            AND o.state IN ('in-progress', 'held')
        FOR UPDATE OF o SKIP LOCKED
    ), gone AS (
        DELETE FROM semel.open AS o USING mine AS m WHERE o.ctid = m.row
        RETURNING m.place, m.retention, o.key, o.tenant, o.operation, o.effect, o.counter, o.nonce,
            o.fingerprint, o.attempts, o.lost_leases, o.created_at, o.awaited
    ), kept AS (
        INSERT INTO semel.done (
            key, tenant, operation, effect, counter, nonce, fingerprint, attempts, lost_leases,
            created_at, completed_at, expires_at, width, outcome
        )
        SELECT
            g.key, g.tenant, g.operation, g.effect, g.counter, g.nonce, g.fingerprint, g.attempts,
            g.lost_leases, g.created_at, moment, moment + g.retention, semel.width_of(g.retention),
            outcomes[g.place]
        FROM gone AS g
    )
    SELECT g.place, moment + g.retention
    FROM gone AS g
    WHERE NOT g.awaited OR semel.tell(g.key, g.tenant, g.operation);
END
$$;

-- Prolongs many leases that still hold their fence. Leaves out what somebody else is writing.
CREATE FUNCTION semel.renew(
    keys text[], tenants text[], operations text[], counters bigint[], nonces bytea[],
    leases bigint[]
) RETURNS TABLE (place bigint, deadline bigint) LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_column
DECLARE
    moment bigint := semel.clock();
BEGIN
    RETURN QUERY
    WITH mine AS MATERIALIZED (
        SELECT o.ctid AS row, a.place, a.lease
        FROM unnest(keys, tenants, operations, counters, nonces, leases) WITH ORDINALITY
            AS a (key, tenant, operation, counter, nonce, lease, place)
        JOIN semel.open AS o
            ON o.key = a.key AND o.tenant = a.tenant AND o.operation = a.operation
        WHERE o.counter = a.counter AND o.nonce = a.nonce AND o.state = 'in-progress'
        ORDER BY a.key, a.tenant, a.operation
        FOR UPDATE OF o SKIP LOCKED
    )
    UPDATE semel.open AS o
    SET deadline = greatest(o.deadline, moment + m.lease), updated_at = moment,
        revision = o.revision + 1
    FROM mine AS m WHERE o.ctid = m.row
    RETURNING m.place, o.deadline;
END
$$;

-- Wakes whoever waits for this record. A hint; nothing depends on its arrival.
CREATE FUNCTION semel.tell(key text, tenant text, operation text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    PERFORM pg_notify('semel.changed', concat_ws(E'\n', key, tenant, operation));
    RETURN true;
END
$$;

-- For people and their tools: the names and meaning of these columns stay.
CREATE VIEW semel.record AS
SELECT
    key, tenant, operation, state, effect, counter AS fence, attempts,
    to_timestamp(created_at / 1000.0) AS created_at,
    to_timestamp(updated_at / 1000.0) AS updated_at,
    CASE WHEN state = 'in-progress' THEN to_timestamp(deadline / 1000.0) END AS lease_until,
    NULL::timestamptz AS expires_at,
    hold_cause, hold_detail, NULL::integer AS outcome_bytes
FROM semel.open
UNION ALL
SELECT
    key, tenant, operation, 'completed', effect, counter, attempts,
    to_timestamp(created_at / 1000.0), to_timestamp(completed_at / 1000.0), NULL,
    to_timestamp(expires_at / 1000.0), NULL, NULL, length(outcome)
FROM semel.done
WHERE expires_at > semel.clock();

-- What waits for a decision: held records, and claims that fell silent.
CREATE VIEW semel.suspect AS
SELECT *, clock_timestamp() - updated_at AS silent_for
FROM semel.record
WHERE state = 'held' OR state = 'in-progress' AND lease_until <= clock_timestamp();

-- Who decided about which record, when and why.
CREATE VIEW semel.decision AS
SELECT
    key, tenant, operation, counter AS fence, to_timestamp(at / 1000.0) AS at, action, actor, reason
FROM semel.audit;

-- They change tables with their owner's rights, so not everybody may call them.
REVOKE EXECUTE ON FUNCTION semel.provide(bigint), semel.forget() FROM PUBLIC;
