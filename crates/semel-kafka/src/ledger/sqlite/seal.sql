UPDATE semel_kafka_outbox SET batch = ?2 WHERE id IN (
    SELECT id FROM semel_kafka_outbox
    WHERE outbox = ?1 AND batch IS NULL ORDER BY id LIMIT ?3
)
