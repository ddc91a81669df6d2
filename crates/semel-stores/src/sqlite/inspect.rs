//! Looking around in the file, on the reader's connection.

use rusqlite::types::Value;
use rusqlite::{Connection, params};
use semel::store::{Action, AuditEntry, Counts, Filter, StateFilter, Summary, Takeover};
use semel::{Error, ErrorKind, RecordId, Timestamp};

use super::fault::Fault;
use super::row;

/// No page is longer, whatever is asked for.
const PAGE_MAX: usize = 10_000;

pub(super) fn list(
    connection: &Connection,
    filter: &Filter,
    after: Option<&RecordId>,
    limit: usize,
    now: Timestamp,
) -> Result<Vec<Summary>, Fault> {
    let (sql, parameters) = list_query(filter, after, limit, now);
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(rusqlite::params_from_iter(parameters))?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(row::summary_of(row)?);
    }
    Ok(page)
}

/// The query is put together from what is asked for, so that each shape can use its index (a
/// partial index is used only where its own condition stands in the query).
fn list_query(
    filter: &Filter,
    after: Option<&RecordId>,
    limit: usize,
    now: Timestamp,
) -> (String, Vec<Value>) {
    let mut conditions = Vec::new();
    let mut parameters = Vec::new();
    let state = match filter.state {
        None => "TRUE",
        Some(StateFilter::Completed) => "state = 'completed' AND deadline > ?",
        Some(StateFilter::Expired) => {
            "state <> 'completed' AND state = 'in-progress' AND deadline <= ?"
        }
        Some(StateFilter::Held) => "state <> 'completed' AND state = 'held'",
        Some(StateFilter::InProgress) => "state <> 'completed' AND state = 'in-progress'",
        Some(StateFilter::Interrupted) => "state <> 'completed' AND state = 'interrupted'",
    };
    conditions.push(state);
    if state.contains('?') {
        parameters.push(Value::Integer(row::millis(now)));
    }
    let named = [
        ("key = ?", &filter.key),
        ("tenant = ?", &filter.tenant),
        ("operation = ?", &filter.operation),
    ];
    for (condition, wanted) in named {
        if let Some(wanted) = wanted {
            conditions.push(condition);
            parameters.push(Value::Text(wanted.clone()));
        }
    }
    if let Some(id) = after {
        conditions.push("(key, tenant, operation) > (?, ?, ?)");
        let name = [id.key.as_str(), id.tenant.as_str(), id.operation.as_str()];
        parameters.extend(name.map(|part| Value::Text(part.to_owned())));
    }
    parameters.push(Value::Integer(i64::try_from(limit.min(PAGE_MAX)).unwrap_or(0)));
    let conditions = conditions.join(" AND ");
    let sql = format!(
        "SELECT key, tenant, operation, state, effect, counter, nonce, attempts, created_at, \
         updated_at, deadline, since, hold_cause, hold_detail FROM semel_record \
         WHERE {conditions} ORDER BY key, tenant, operation LIMIT ?"
    );
    (sql, parameters)
}

pub(super) fn count(connection: &Connection, now: Timestamp) -> Result<Counts, Fault> {
    let mut counts = Counts::default();
    let completed = "SELECT count(*), count(*) FILTER (WHERE deadline <= ?1) \
        FROM semel_record WHERE state = 'completed'";
    let (all, expired) = connection
        .query_row(completed, [row::millis(now)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    (counts.completed, counts.expired) = (row::unsigned(all), row::unsigned(expired));
    let open = "SELECT state, count(*) AS many, count(*) FILTER (WHERE deadline <= ?1) AS late \
        FROM semel_record WHERE state <> 'completed' GROUP BY state";
    let mut select = connection.prepare_cached(open)?;
    let mut rows = select.query([row::millis(now)])?;
    while let Some(row) = rows.next()? {
        let many = row::unsigned(row.get("many")?);
        match row::text(row, "state")? {
            "held" => counts.held = many,
            "in-progress" => {
                counts.in_progress = many;
                counts.silent = row::unsigned(row.get("late")?);
            }
            "interrupted" => counts.interrupted = many,
            // A state that nobody knows is shown by `list`; counting goes on.
            _ => {}
        }
    }
    Ok(counts)
}

pub(super) fn audit(
    connection: &Connection,
    id: &RecordId,
    limit: usize,
) -> Result<Vec<AuditEntry>, Fault> {
    let select = "SELECT counter, nonce, at, action, actor, reason FROM semel_audit \
        WHERE key = ?1 AND tenant = ?2 AND operation = ?3 ORDER BY counter DESC LIMIT ?4";
    let limit = i64::try_from(limit.min(PAGE_MAX)).unwrap_or(0);
    let mut select = connection.prepare_cached(select)?;
    let name = params![id.key.as_str(), id.tenant.as_str(), id.operation.as_str(), limit];
    let mut rows = select.query(name)?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(entry_of(row)?);
    }
    entries.reverse();
    Ok(entries)
}

pub(super) fn decisions(
    connection: &Connection,
    key: &str,
    limit: usize,
) -> Result<Vec<(RecordId, AuditEntry)>, Fault> {
    let select = "SELECT key, tenant, operation, counter, nonce, at, action, actor, reason \
        FROM semel_audit WHERE key = ?1 ORDER BY counter DESC LIMIT ?2";
    let limit = i64::try_from(limit.min(PAGE_MAX)).unwrap_or(0);
    let mut select = connection.prepare_cached(select)?;
    let mut rows = select.query(params![key, limit])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push((row::id_of(row)?, entry_of(row)?));
    }
    entries.reverse();
    Ok(entries)
}

fn entry_of(row: &rusqlite::Row<'_>) -> Result<AuditEntry, Fault> {
    let name = row::text(row, "action")?;
    let action = Action::from_name(name).ok_or_else(|| {
        let message = format!("an audit entry has the unknown action `{name}`");
        Error::new(ErrorKind::Corrupt, message)
    })?;
    let actor = row::text(row, "actor")?.to_owned();
    let reason = row::text(row, "reason")?.to_owned();
    let takeover = Takeover { action, actor, reason };
    Ok(AuditEntry { at: row::time(row, "at")?, fence: row::fence_of(row)?, takeover })
}
