WITH gone AS (
    DELETE FROM semel.open AS o
    WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3
        AND o.counter = $4 AND o.nonce = $5 AND o.revision = $6
    RETURNING o.key, o.tenant, o.operation, o.counter, o.awaited
)
SELECT g.counter FROM gone AS g
WHERE NOT g.awaited OR semel.tell(g.key, g.tenant, g.operation)
