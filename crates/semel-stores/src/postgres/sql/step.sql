-- Stores the steps of one claim that still holds its fence, if nobody has written the record since
-- it was read; waits for somebody who is writing the row.
WITH moment AS MATERIALIZED (SELECT semel.clock() AS now)
UPDATE semel.open AS o
SET steps = $8, deadline = greatest(o.deadline, m.now + $7), updated_at = m.now,
    revision = o.revision + 1
FROM moment AS m
WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3 AND o.counter = $4 AND o.nonce = $5
    AND o.revision = $6 AND o.state = 'in-progress'
    AND ($9 IS NULL OR $9 = pg_current_xact_id()::text)
RETURNING o.deadline
