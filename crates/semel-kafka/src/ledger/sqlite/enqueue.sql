INSERT INTO semel_kafka_outbox (outbox, topic, partition, key, value, headers, timestamp)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
RETURNING uid
