WITH mine AS MATERIALIZED (
    SELECT p.topic, p.partition, a.next
    FROM unnest($2, $3, $4, $5, $6) AS a (topic, partition, epoch, was, next)
    JOIN semel_kafka.position AS p
        ON p.grp = $1 AND p.topic = a.topic AND p.partition = a.partition
    WHERE p.epoch = a.epoch AND p.next IS NOT DISTINCT FROM a.was
    -- In the order of `take`, so that the two cannot wait for each other.
    ORDER BY p.topic, p.partition
    FOR NO KEY UPDATE OF p
)
UPDATE semel_kafka.position AS p SET next = m.next
FROM mine AS m
WHERE p.grp = $1 AND p.topic = m.topic AND p.partition = m.partition
RETURNING p.topic, p.partition
