//! A record as a row, and back.

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use semel::store::Summary;
use semel::{
    Error, ErrorKind, Fence, Fingerprint, Hold, HoldCause, Key, Nonce, Operation, Record, RecordId,
    State, Tenant, Timestamp, envelope,
};

use super::fault::Fault;

const SELECT: &str = "SELECT rowid AS place, state, effect, counter, nonce, fingerprint, attempts, \
    lost_leases, created_at, updated_at, deadline, since, hold_cause, hold_detail, steps, outcome \
    FROM semel_record WHERE key = ?1 AND tenant = ?2 AND operation = ?3";

const UPSERT: &str = include_str!("upsert.sql");

const DELETE: &str = "DELETE FROM semel_record WHERE key = ?1 AND tenant = ?2 AND operation = ?3";

/// Reads the record of an id; the caller's transaction decides what it sees.
pub(super) fn read(connection: &Connection, id: &RecordId) -> Result<Option<Record>, Fault> {
    let mut select = connection.prepare_cached(SELECT)?;
    let name = (id.key.as_str(), id.tenant.as_str(), id.operation.as_str());
    let found = select.query_row(name, |row| Ok(record_of(row).map_err(|it| damaged(id, row, it))));
    found.optional()?.transpose()
}

pub(super) fn write(connection: &Connection, id: &RecordId, record: &Record) -> Result<(), Fault> {
    let mut columns = Columns::default();
    match &record.state {
        State::Completed { outcome, completed_at, expires_at } => {
            columns.deadline = Some(millis(*expires_at));
            columns.since = Some(millis(*completed_at));
            columns.outcome = Some(bounded(envelope::seal_outcome(outcome))?);
        }
        State::Held(hold) => {
            columns.since = Some(millis(hold.since));
            columns.hold_cause = Some(hold.cause.name());
            columns.hold_detail = Some(&hold.detail);
        }
        State::InProgress { lease_until } => columns.deadline = Some(millis(*lease_until)),
        State::Interrupted { since } => columns.since = Some(millis(*since)),
    }
    let steps = match &record.steps[..] {
        [] => None,
        steps => Some(bounded(envelope::seal_steps(steps))?),
    };
    connection.prepare_cached(UPSERT)?.execute(named_params! {
        ":key": id.key.as_str(),
        ":tenant": id.tenant.as_str(),
        ":operation": id.operation.as_str(),
        ":state": record.state.name(),
        ":effect": record.effect.name(),
        ":counter": signed(record.fence.counter),
        ":nonce": record.fence.nonce.as_bytes(),
        ":fingerprint": record.fingerprint.as_bytes(),
        ":attempts": record.attempts,
        ":lost_leases": record.lost_leases,
        ":created_at": millis(record.created_at),
        ":updated_at": millis(record.updated_at),
        ":deadline": columns.deadline,
        ":since": columns.since,
        ":hold_cause": columns.hold_cause,
        ":hold_detail": columns.hold_detail,
        ":steps": steps,
        ":outcome": columns.outcome,
    })?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, id: &RecordId) -> Result<(), Fault> {
    let name = params![id.key.as_str(), id.tenant.as_str(), id.operation.as_str()];
    connection.prepare_cached(DELETE)?.execute(name)?;
    Ok(())
}

/// What could not be read back must not be written.
fn bounded(sealed: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let (len, max) = (sealed.len(), envelope::ENVELOPE_BYTES_MAX);
    if len <= max {
        return Ok(sealed);
    }
    let message = format!("a record's answer or steps have {len} bytes; no store keeps over {max}");
    Err(Error::new(ErrorKind::TooLarge, message).into())
}

/// What a list shows; needs the columns of `list.sql`.
///
/// One damaged record must not hide the others, so it is listed as `damaged`.
pub(super) fn summary_of(row: &Row<'_>) -> Result<Summary, Fault> {
    summary(row).or_else(|fault| match fault {
        Fault::Record(_) => damaged_summary(row),
        fault @ Fault::File(_) => Err(fault),
    })
}

fn damaged_summary(row: &Row<'_>) -> Result<Summary, Fault> {
    let id = id_of(row).map_err(|fault| match fault {
        Fault::Record(error) => {
            Error::new(ErrorKind::Corrupt, format!("a record's name cannot be read: {error}"))
                .into()
        }
        fault @ Fault::File(_) => fault,
    })?;
    Ok(Summary {
        id,
        state: "damaged",
        effect: semel::Effect::Foreign(semel::OnUnknown::Hold),
        fence: Fence { counter: 0, nonce: Nonce::from_bytes([0; 16]) },
        attempts: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        deadline: None,
        hold: None,
    })
}

fn summary(row: &Row<'_>) -> Result<Summary, Fault> {
    let id = id_of(row)?;
    let state = match text(row, "state")? {
        "completed" => "completed",
        "held" => "held",
        "in-progress" => "in-progress",
        "interrupted" => "interrupted",
        other => return Err(unexpected("state", other)),
    };
    let hold = if state == "held" { Some(hold_of(row)?) } else { None };
    Ok(Summary {
        id,
        state,
        effect: text(row, "effect")?.parse::<semel::Effect>()?,
        fence: fence_of(row)?,
        attempts: row.get("attempts")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        deadline: match row.get_ref("deadline")? {
            ValueRef::Null => None,
            _ => Some(time(row, "deadline")?),
        },
        hold,
    })
}

pub(super) fn fence_of(row: &Row<'_>) -> Result<Fence, Fault> {
    let nonce = Nonce::from_bytes(array(row, "nonce")?);
    Ok(Fence { counter: number(row, "counter")?, nonce })
}

/// Text of a column, or a clear word about what is there instead.
pub(super) fn text<'row>(row: &'row Row<'_>, column: &str) -> Result<&'row str, Fault> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| unexpected(column, "no text"))
        }
        other => Err(unexpected(column, &other.data_type().to_string())),
    }
}

pub(super) fn time(row: &Row<'_>, column: &str) -> Result<Timestamp, Fault> {
    number(row, column).map(Timestamp::from_millis)
}

/// A number that is not negative. Read as zero, a damaged end of retention would be long ago, and
/// the operation would run again.
fn number(row: &Row<'_>, column: &str) -> Result<u64, Fault> {
    match row.get_ref(column)? {
        ValueRef::Integer(number) => {
            u64::try_from(number).map_err(|_| unexpected(column, &number.to_string()))
        }
        other => Err(unexpected(column, &other.data_type().to_string())),
    }
}

pub(super) fn millis(time: Timestamp) -> i64 {
    signed(time.as_millis())
}

/// SQLite's integers are signed; neither times nor counters reach half of 64 bits.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// For what SQLite has counted.
pub(super) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

#[derive(Default)]
struct Columns<'a> {
    deadline: Option<i64>,
    since: Option<i64>,
    hold_cause: Option<&'static str>,
    hold_detail: Option<&'a str>,
    outcome: Option<Vec<u8>>,
}

fn record_of(row: &Row<'_>) -> Result<Record, Fault> {
    let state = match text(row, "state")? {
        "completed" => State::Completed {
            outcome: envelope::open_outcome(&blob(row, "outcome")?)?,
            completed_at: time(row, "since")?,
            expires_at: time(row, "deadline")?,
        },
        "held" => State::Held(hold_of(row)?),
        "in-progress" => State::InProgress { lease_until: time(row, "deadline")? },
        "interrupted" => State::Interrupted { since: time(row, "since")? },
        other => return Err(unexpected("state", other)),
    };
    let steps = match row.get_ref("steps")? {
        ValueRef::Null => Vec::new(),
        _ => envelope::open_steps(&blob(row, "steps")?)?,
    };
    Ok(Record {
        fingerprint: Fingerprint::from_bytes(array(row, "fingerprint")?),
        effect: text(row, "effect")?.parse::<semel::Effect>()?,
        fence: fence_of(row)?,
        state,
        steps,
        attempts: row.get("attempts")?,
        lost_leases: row.get("lost_leases")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}

fn hold_of(row: &Row<'_>) -> Result<Hold, Fault> {
    let name = text(row, "hold_cause")?;
    let cause = HoldCause::from_name(name).ok_or_else(|| unexpected("hold_cause", name))?;
    Ok(Hold::new(cause, text(row, "hold_detail")?, time(row, "since")?))
}

pub(super) fn id_of(row: &Row<'_>) -> Result<RecordId, Fault> {
    Ok(RecordId {
        tenant: Tenant::new(text(row, "tenant")?)?,
        operation: Operation::new(text(row, "operation")?)?,
        key: Key::parse(text(row, "key")?)?,
    })
}

fn blob(row: &Row<'_>, column: &str) -> Result<Bytes, Fault> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        other => Err(unexpected(column, &other.data_type().to_string())),
    }
}

fn array<const N: usize>(row: &Row<'_>, column: &str) -> Result<[u8; N], Fault> {
    let bytes = blob(row, column)?;
    <[u8; N]>::try_from(&bytes[..])
        .map_err(|_| unexpected(column, &format!("{} bytes instead of {N}", bytes.len())))
}

fn unexpected(column: &str, found: &str) -> Fault {
    let message = format!("column {column} holds `{}`", found.escape_debug());
    Fault::Record(Error::new(ErrorKind::Corrupt, message))
}

/// Names the record without showing its key.
fn damaged(id: &RecordId, row: &Row<'_>, fault: Fault) -> Fault {
    let Fault::Record(error) = fault else { return fault };
    let digest = id.digest();
    let short: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let place = row.get::<_, i64>("place").unwrap_or_default();
    let message = format!(
        "record {short} (row {place} of semel_record) cannot be read: {error}; restore it from a \
         copy, or delete the row if its operation may run again"
    );
    // Whatever rule a stored value breaks, here it means damage.
    let kind = if error.kind() == ErrorKind::TooNew { error.kind() } else { ErrorKind::Corrupt };
    Fault::Record(Error::new(kind, message))
}
