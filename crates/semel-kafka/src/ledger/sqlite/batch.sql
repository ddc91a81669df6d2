SELECT uid, topic, partition, key, value, headers, timestamp
FROM semel_kafka_outbox WHERE outbox = ?1 AND batch = ?2 ORDER BY id
