SELECT
    count(*) AS many,
    (extract(epoch FROM min(created_at)) * 1000)::bigint AS since
FROM semel_kafka.outbox
WHERE outbox = $1
