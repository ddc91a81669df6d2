SELECT s.at, p.ordinal - s.ordinal AS behind
FROM semel_kafka_seen AS s
LEFT JOIN semel_kafka_position AS p
    ON p.grp = s.grp AND p.topic = s.topic AND p.partition = s.partition
WHERE s.grp = ?1 AND s.id = ?2
