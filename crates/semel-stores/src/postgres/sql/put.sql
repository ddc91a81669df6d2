-- Writes an unfinished record if nobody has written it since it was read. Does not wait for
-- somebody who is writing it just now.
WITH moment AS MATERIALIZED (SELECT semel.clock() AS now), mine AS MATERIALIZED (
    SELECT o.ctid AS row
    FROM semel.open AS o
    WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3
        AND o.counter = $4 AND o.nonce = $5 AND o.revision = $6
    FOR UPDATE SKIP LOCKED
), written AS (
    UPDATE semel.open AS o
    SET state = $7, effect = $8,
        counter = CASE
            -- A failover may carry the records and not the sequence.
            WHEN $9 THEN greatest(nextval('semel.fence'), o.counter + 1) ELSE o.counter
        END,
        nonce = $10, revision = o.revision + 1, attempts = $11, lost_leases = $12,
        updated_at = $13, deadline = $14, since = $15, hold_cause = $16, hold_detail = $17,
        steps = $18
    FROM mine WHERE o.ctid = mine.row
    RETURNING o.key, o.tenant, o.operation, o.counter, o.nonce, o.awaited
), noted AS (
    INSERT INTO semel.audit (key, tenant, operation, counter, nonce, at, action, actor, reason)
    SELECT w.key, w.tenant, w.operation, w.counter, w.nonce, m.now, $19, $20, $21
    FROM written AS w, moment AS m WHERE $19 IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT w.counter FROM written AS w
WHERE NOT w.awaited OR semel.tell(w.key, w.tenant, w.operation)
