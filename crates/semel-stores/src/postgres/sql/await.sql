-- Asks to be told about the end of what is in progress; 0 when it has ended already.
WITH mine AS MATERIALIZED (
    SELECT o.ctid AS row
    FROM semel.open AS o
    WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3 AND NOT o.awaited
    FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE semel.open AS o SET awaited = true FROM mine WHERE o.ctid = mine.row
)
SELECT count(*) AS many
FROM semel.open AS o
WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3 AND o.state = 'in-progress'
