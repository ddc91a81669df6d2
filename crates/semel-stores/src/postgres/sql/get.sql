WITH moment AS MATERIALIZED (SELECT semel.clock() AS now)
SELECT
    m.now, coalesce(o.state, d.state) AS state, coalesce(o.effect, d.effect) AS effect,
    coalesce(o.counter, d.counter) AS counter, coalesce(o.nonce, d.nonce) AS nonce,
    coalesce(o.revision, 0) AS revision, coalesce(o.fingerprint, d.fingerprint) AS fingerprint,
    coalesce(o.attempts, d.attempts) AS attempts,
    coalesce(o.lost_leases, d.lost_leases) AS lost_leases,
    coalesce(o.created_at, d.created_at) AS created_at,
    coalesce(o.updated_at, d.completed_at) AS updated_at,
    coalesce(o.deadline, d.expires_at) AS deadline, coalesce(o.since, d.completed_at) AS since,
    o.hold_cause, o.hold_detail, o.steps, d.outcome
FROM moment AS m
LEFT JOIN semel.open AS o ON o.key = $1 AND o.tenant = $2 AND o.operation = $3
LEFT JOIN LATERAL (
    SELECT 'completed' AS state, f.*
    FROM semel.done AS f
    WHERE o.key IS NULL AND f.key = $1 AND f.tenant = $2 AND f.operation = $3
        AND f.expires_at > m.now
    ORDER BY f.counter DESC LIMIT 1
) AS d ON true
