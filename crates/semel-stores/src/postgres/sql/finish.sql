-- Finishes one claim that still holds its fence; waits for somebody who is writing the row.
WITH moment AS MATERIALIZED (SELECT semel.clock() AS now), gone AS (
    DELETE FROM semel.open AS o
    WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3 AND o.counter = $4 AND o.nonce = $5
        AND o.state IN ('in-progress', 'held')
        AND ($8 IS NULL OR $8 = pg_current_xact_id()::text)
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
SELECT m.now + $6 AS expires_at
FROM gone AS g, moment AS m
WHERE NOT g.awaited OR semel.tell(g.key, g.tenant, g.operation)
