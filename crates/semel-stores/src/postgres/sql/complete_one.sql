-- `semel.complete` for one claim, with less to set up: what an idle server is asked.
WITH moment AS MATERIALIZED (SELECT semel.clock() AS now), gone AS (
    DELETE FROM semel.open AS o
    WHERE o.ctid = (
        SELECT i.ctid FROM semel.open AS i
        WHERE i.key = $1 AND i.tenant = $2 AND i.operation = $3 AND i.counter = $4
            AND i.nonce = $5 AND i.state IN ('in-progress', 'held')
        FOR UPDATE SKIP LOCKED
    )
    RETURNING o.*
), kept AS (
    INSERT INTO semel.done (
        key, tenant, operation, effect, counter, nonce, fingerprint, attempts, lost_leases,
        created_at, completed_at, expires_at, width, outcome
    )
    SELECT
        g.key, g.tenant, g.operation, g.effect, g.counter, g.nonce, g.fingerprint, g.attempts,
        g.lost_leases, g.created_at, m.now, m.now + $6, semel.width_of($6), $7
    FROM gone AS g, moment AS m
)
SELECT 1::bigint AS place, m.now + $6 AS expires_at
FROM gone AS g, moment AS m
WHERE NOT g.awaited OR semel.tell(g.key, g.tenant, g.operation)
