UPDATE semel_kafka_position SET next = ?6
WHERE grp = ?1 AND topic = ?2 AND partition = ?3 AND epoch = ?4 AND next IS ?5
