INSERT INTO semel_kafka_seen (grp, id, at, topic, partition, ordinal)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (grp, id) DO UPDATE
SET at = excluded.at, topic = excluded.topic, partition = excluded.partition,
    ordinal = excluded.ordinal
