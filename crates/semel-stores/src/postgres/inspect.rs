//! Looking around in the tables.

use std::time::Duration;

use semel::store::{Action, AuditEntry, Counts, Filter, StateFilter, Summary, Takeover};
use semel::{Error, ErrorKind, RecordId};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::PostgresStore;
use super::fault::Fault;
use super::link::Link;
use super::migrate;
use super::row;

/// No page is longer, whatever is asked for.
const PAGE_MAX: usize = 10_000;

/// Beyond so many finished records their number is the server's estimate.
const COUNTED_MAX: i64 = 20_000;

/// The most partitions that one sweep drops.
const PARTITIONS_AT_ONCE: usize = 16;

fn page(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE_MAX)).unwrap_or(0)
}

pub(super) async fn list(
    link: &Link,
    filter: &Filter,
    after: Option<&RecordId>,
    limit: usize,
) -> Result<Vec<Summary>, Fault> {
    let text = |value: &Option<String>| value.clone();
    let (key, tenant, operation) =
        (text(&filter.key), text(&filter.tenant), text(&filter.operation));
    let behind = after.map(|id| [id.key.as_str(), id.tenant.as_str(), id.operation.as_str()]);
    let [after_key, after_tenant, after_operation] =
        behind.map_or([None; 3], |names| names.map(Some));
    let limit = page(limit);
    let sql = list_sql(link, filter, after.is_some());
    let rows = link
        .call(
            &sql,
            &[
                (&key, Type::TEXT),
                (&tenant, Type::TEXT),
                (&operation, Type::TEXT),
                (&after_key, Type::TEXT),
                (&after_tenant, Type::TEXT),
                (&after_operation, Type::TEXT),
                (&limit, Type::INT8),
            ],
        )
        .await?;
    Ok(rows.iter().map(row::summary_of).collect::<Result<_, _>>()?)
}

/// The query is put together from what is asked for, so that each shape can use its index.
fn list_sql(link: &Link, filter: &Filter, is_continued: bool) -> String {
    let (open, done) = match filter.state {
        None => (Some("true"), true),
        Some(StateFilter::Completed) => (None, true),
        Some(StateFilter::Expired) => {
            (Some("state = 'in-progress' AND deadline <= semel.clock()"), false)
        }
        Some(StateFilter::Held) => (Some("state = 'held'"), false),
        Some(StateFilter::InProgress) => (Some("state = 'in-progress'"), false),
        Some(StateFilter::Interrupted) => (Some("state = 'interrupted'"), false),
    };
    let mut named = String::new();
    let wanted = [("key", 1, &filter.key), ("tenant", 2, &filter.tenant)];
    for (column, place, value) in wanted.into_iter().chain([("operation", 3, &filter.operation)]) {
        // Every parameter stands in the query, asked for or not, so that its type is known.
        named += &match value {
            Some(_) => format!(" AND {column} = ${place}"),
            None => format!(" AND ${place}::text IS NULL"),
        };
    }
    named += if is_continued {
        " AND (key, tenant, operation) > ($4, $5, $6)"
    } else {
        " AND $4::text IS NULL AND $5::text IS NULL AND $6::text IS NULL"
    };
    let order = "ORDER BY key, tenant, operation LIMIT $7";
    let mut parts = Vec::new();
    if let Some(state) = open {
        parts.push(format!(
            "(SELECT key, tenant, operation, state, effect, counter, nonce, attempts, created_at, \
             updated_at, deadline, since, hold_cause, hold_detail FROM semel.open \
             WHERE {state}{named} {order})"
        ));
    }
    if done {
        parts.push(format!(
            "(SELECT key, tenant, operation, 'completed' AS state, effect, counter, nonce, \
             attempts, created_at, completed_at AS updated_at, expires_at AS deadline, \
             completed_at AS since, NULL::text AS hold_cause, NULL::text AS hold_detail \
             FROM semel.done WHERE expires_at > semel.clock(){named} {order})"
        ));
    }
    link.schema.sql(&format!("SELECT * FROM ({}) AS r {order}", parts.join(" UNION ALL ")))
}

/// Finished records are counted one by one only while there are few; the rest is the server's own
/// estimate, so that a look costs the same on every size.
const COUNT: &str = "WITH parts AS (
    SELECT c.reltuples, (
        substring(c.relname FROM '[0-9]+$')::bigint + 1) * class.width <= semel.clock() AS is_over
    FROM pg_partition_tree(to_regclass('semel.done')) AS p
    JOIN pg_class AS c ON c.oid = p.relid
    JOIN (VALUES ('done_6h', 21600000), ('done_8d', 691200000), ('done_92d', 7948800000))
        AS class (name, width) ON p.parentrelid = to_regclass('semel.' || class.name)
)
SELECT
    (SELECT count(*) FROM (SELECT FROM semel.done LIMIT $1) AS d) AS done,
    (SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM parts) AS about,
    (SELECT coalesce(sum(greatest(reltuples, 1)), 0)::bigint FROM parts WHERE is_over) AS expired,
    count(*) FILTER (WHERE state = 'held') AS held,
    count(*) FILTER (WHERE state = 'in-progress') AS in_progress,
    count(*) FILTER (WHERE state = 'interrupted') AS interrupted,
    count(*) FILTER (WHERE state = 'in-progress' AND deadline <= m.now) AS silent
FROM (SELECT semel.clock() AS now OFFSET 0) AS m LEFT JOIN semel.open AS o ON true";

pub(super) async fn count(link: &Link) -> Result<Counts, Fault> {
    let rows = link.call(&link.schema.sql(COUNT), &[(&COUNTED_MAX, Type::INT8)]).await?;
    let row = rows.first().ok_or_else(unanswered)?;
    let mut completed = row::number(row, "done")?;
    if completed >= COUNTED_MAX.unsigned_abs() {
        completed = completed.max(row::number(row, "about")?);
    }
    Ok(Counts {
        completed,
        expired: row::number(row, "expired")?,
        held: row::number(row, "held")?,
        in_progress: row::number(row, "in_progress")?,
        interrupted: row::number(row, "interrupted")?,
        silent: row::number(row, "silent")?,
    })
}

pub(super) async fn audit(
    link: &Link,
    id: &RecordId,
    limit: usize,
) -> Result<Vec<AuditEntry>, Fault> {
    let sql = link.schema.sql(
        "SELECT counter, nonce, at, action, actor, reason FROM semel.audit \
         WHERE key = $1 AND tenant = $2 AND operation = $3 ORDER BY counter DESC LIMIT $4",
    );
    let (key, tenant) = (id.key.as_str(), id.tenant.as_str());
    let (operation, limit) = (id.operation.as_str(), page(limit));
    let values: [(&(dyn ToSql + Sync), Type); 4] =
        [(&key, Type::TEXT), (&tenant, Type::TEXT), (&operation, Type::TEXT), (&limit, Type::INT8)];
    let rows = link.call(&sql, &values).await?;
    Ok(rows.iter().rev().map(entry_of).collect::<Result<_, _>>()?)
}

pub(super) async fn decisions(
    link: &Link,
    key: &str,
    limit: usize,
) -> Result<Vec<(RecordId, AuditEntry)>, Fault> {
    let sql = link.schema.sql(
        "SELECT key, tenant, operation, counter, nonce, at, action, actor, reason \
         FROM semel.audit WHERE key = $1 ORDER BY counter DESC LIMIT $2",
    );
    let limit = page(limit);
    let rows = link.call(&sql, &[(&key, Type::TEXT), (&limit, Type::INT8)]).await?;
    let entries = rows.iter().rev().map(|row| Ok((row::id_of(row)?, entry_of(row)?)));
    Ok(entries.collect::<Result<_, Error>>()?)
}

fn entry_of(row: &Row) -> Result<AuditEntry, Error> {
    let name: &str = row::column(row, "action")?;
    let action = Action::from_name(name).ok_or_else(|| {
        let message = format!("an audit entry has the unknown action `{name}`");
        Error::new(ErrorKind::Corrupt, message)
    })?;
    let (actor, reason) = (row::column(row, "actor")?, row::column(row, "reason")?);
    let takeover = Takeover { action, actor, reason };
    Ok(AuditEntry { at: row::time(row, "at")?, fence: row::fence_of(row)?, takeover })
}

pub(super) async fn forget(link: &Link) -> Result<usize, Error> {
    let sql = link.schema.sql("SELECT semel.forget() AS many");
    let mut forgotten = 0;
    // Each call drops one partition and lets everybody else have a turn.
    for _ in 0..PARTITIONS_AT_ONCE {
        let many = link
            .patiently(false, async || {
                let rows = link.call(&sql, &[]).await?;
                Ok(row::column::<Option<i64>>(rows.first().ok_or_else(unanswered)?, "many")?)
            })
            .await?;
        let Some(many) = many else { break };
        forgotten += usize::try_from(many).unwrap_or(0);
    }
    Ok(forgotten)
}

pub(super) async fn secret(link: &Link) -> Result<[u8; 32], Error> {
    let sql = link.schema.sql("SELECT value FROM semel.meta WHERE name = 'secret'");
    link.patiently(false, async || {
        let rows = link.call(&sql, &[]).await?;
        let damaged = || Error::new(ErrorKind::Corrupt, "the table `meta` lacks its secret");
        let bytes: &[u8] = row::column(rows.first().ok_or_else(damaged)?, "value")?;
        Ok(<[u8; 32]>::try_from(bytes).map_err(|_| damaged())?)
    })
    .await
}

/// What an operator should know about the server, for `semel doctor`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The server's version, as it prints it.
    pub server_version: String,
    /// The version of the tables, and the newest that this program knows.
    pub schema_version: (u32, u32),
    /// Settings that decide about the promise, by name.
    pub settings: Vec<(&'static str, String)>,
    /// Whether the server is a standby, which cannot be written.
    pub is_standby: bool,
    /// Standbys that are connected.
    pub standbys: u64,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
    /// How far the server's clock is ahead of ours, in milliseconds.
    pub clock_ahead: i64,
    /// How long one question and its answer took.
    pub round_trip: Duration,
    /// Connections in use and allowed.
    pub connections: (u64, u64),
    /// The longest open transaction in the database.
    pub longest_transaction: Duration,
    /// Partitions of finished records; those in which everything has expired.
    pub partitions: (u64, u64),
}

/// Settings that decide about the promise.
const SETTINGS: [&str; 7] = [
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "statement_timeout",
];

const FACTS: &str = "SELECT
    current_setting('server_version') AS server_version,
    array(SELECT current_setting(name, true) FROM unnest($1) WITH ORDINALITY AS s (name, place)
        ORDER BY place) AS settings,
    pg_is_in_recovery() AS is_standby,
    (SELECT count(*) FROM pg_stat_replication AS r
        WHERE coalesce(r.state, '') <> 'backup' AND NOT EXISTS (SELECT FROM pg_replication_slots
            AS s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) AS standbys,
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_encrypted,
    semel.clock() AS now,
    (SELECT count(*) FROM pg_stat_activity) AS used,
    current_setting('max_connections')::bigint AS allowed,
    coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()), 0) AS longest,
    (SELECT count(*) FROM pg_partition_tree(to_regclass('semel.done')) WHERE isleaf) AS partitions,
    (SELECT count(*) FROM pg_partition_tree(to_regclass('semel.done')) AS p
        JOIN pg_class AS c ON c.oid = p.relid
        JOIN (VALUES ('done_6h', 21600000), ('done_8d', 691200000), ('done_92d', 7948800000))
            AS class (name, width) ON p.parentrelid = to_regclass('semel.' || class.name)
        WHERE (substring(c.relname FROM '[0-9]+$')::bigint + 1) * class.width <= semel.clock()
    ) AS over";

impl PostgresStore {
    /// Asks the server what an operator should know.
    ///
    /// # Errors
    /// Those of every method of the store.
    pub async fn facts(&self) -> Result<Facts, Error> {
        let link = &*self.link;
        let (found, known) = migrate::versions(link).await?;
        let sql = link.schema.sql(FACTS);
        link.patiently(false, async || {
            // The first call may have to connect.
            link.call("SELECT 1", &[]).await?;
            let before = link.clock.now();
            link.call("SELECT 1", &[]).await?;
            let after = link.clock.now();
            let rows = link.call(&sql, &[(&&SETTINGS[..], Type::TEXT_ARRAY)]).await?;
            let row = rows.first().ok_or_else(unanswered)?;
            let ours = row::signed(link.clock.now().as_millis());
            let values: Vec<Option<String>> = row::column(row, "settings")?;
            let settings =
                SETTINGS.into_iter().zip(values.into_iter().map(Option::unwrap_or_default));
            Ok(Facts {
                server_version: row::column(row, "server_version")?,
                schema_version: (found, known),
                settings: settings.collect(),
                is_standby: row::column(row, "is_standby")?,
                standbys: row::number(row, "standbys")?,
                is_encrypted: row::column(row, "is_encrypted")?,
                clock_ahead: row::column::<i64>(row, "now")?.saturating_sub(ours),
                round_trip: after.since(before),
                connections: (row::number(row, "used")?, row::number(row, "allowed")?),
                longest_transaction: Duration::from_millis(row::number(row, "longest")?),
                partitions: (row::number(row, "partitions")?, row::number(row, "over")?),
            })
        })
        .await
    }
}

fn unanswered() -> Fault {
    Error::new(ErrorKind::Corrupt, "the store answered with no row at all").into()
}
