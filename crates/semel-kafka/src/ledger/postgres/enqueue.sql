INSERT INTO semel_kafka.outbox (
    outbox, topic, partition, key, value, header_names, header_values, timestamp
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING uid
