INSERT INTO semel_kafka_position (grp, topic, partition, epoch) VALUES (?1, ?2, ?3, 1)
ON CONFLICT (grp, topic, partition) DO UPDATE SET epoch = epoch + 1
RETURNING epoch, next
