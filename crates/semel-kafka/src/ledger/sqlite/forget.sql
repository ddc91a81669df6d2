DELETE FROM semel_kafka_seen WHERE (grp, id) IN (
    SELECT grp, id FROM semel_kafka_seen
    WHERE grp = ?1 AND topic = ?2 AND partition = ?3 AND {column} <= ?4
    LIMIT ?5
)
