-- Takes a finished record over: it becomes unfinished again, under a new fence, and is audited.
WITH moment AS MATERIALIZED (SELECT semel.clock() AS now), gone AS (
    DELETE FROM semel.done AS d
    WHERE d.key = $1 AND d.tenant = $2 AND d.operation = $3 AND d.counter = $4 AND d.nonce = $5
    RETURNING d.*
), written AS (
    INSERT INTO semel.open (
        key, tenant, operation, state, effect, counter, nonce, revision, fingerprint, attempts,
        lost_leases, created_at, updated_at, deadline
    )
    SELECT
        g.key, g.tenant, g.operation, 'in-progress', $6,
        greatest(nextval('semel.fence'), g.counter + 1), $7, 0,
        g.fingerprint, g.attempts, g.lost_leases, g.created_at, $8, $9
    FROM gone AS g
    ON CONFLICT DO NOTHING
    RETURNING key, tenant, operation, counter, nonce
), noted AS (
    INSERT INTO semel.audit (key, tenant, operation, counter, nonce, at, action, actor, reason)
    SELECT w.key, w.tenant, w.operation, w.counter, w.nonce, m.now, $10, $11, $12
    FROM written AS w, moment AS m
)
SELECT counter FROM written
