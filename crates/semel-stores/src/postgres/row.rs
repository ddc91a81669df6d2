//! Rows to records and back.

use bytes::Bytes;
use semel::store::Summary;
use semel::{
    Effect, Error, ErrorKind, Fence, Fingerprint, Hold, HoldCause, Key, Nonce, Operation, Record,
    RecordId, State, Tenant, Timestamp, envelope,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

/// What a look at a key found, and when.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) now: Timestamp,
    pub(super) record: Option<Record>,
    /// Which version of the record it was.
    pub(super) revision: i64,
}

/// Reads the columns that `claim` and `get.sql` answer with.
pub(super) fn found(id: &RecordId, row: &Row) -> Result<Found, Error> {
    let now = time(row, "now")?;
    let state: Option<&str> = column(row, "state")?;
    let record = match state {
        None => None,
        Some(state) => Some(record_of(row, state).map_err(|error| damaged(id, &error))?),
    };
    Ok(Found { now, record, revision: column(row, "revision")? })
}

fn record_of(row: &Row, state: &str) -> Result<Record, Error> {
    let state = match state {
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
    let steps: Option<&[u8]> = column(row, "steps")?;
    let steps = match steps {
        None => Vec::new(),
        Some(sealed) => envelope::open_steps(&Bytes::copy_from_slice(sealed))?,
    };
    Ok(Record {
        fingerprint: Fingerprint::from_bytes(array(row, "fingerprint")?),
        effect: effect_of(row)?,
        fence: fence_of(row)?,
        state,
        steps,
        attempts: small(row, "attempts")?,
        lost_leases: small(row, "lost_leases")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
    })
}

/// A row of a list; one that cannot be read is shown as damaged, so that it does not hide others.
pub(super) fn summary_of(row: &Row) -> Result<Summary, Error> {
    let id = id_of(row)?;
    Ok(summary(row, id.clone()).unwrap_or(Summary {
        id,
        state: "damaged",
        effect: Effect::Foreign(semel::OnUnknown::Hold),
        fence: Fence { counter: 0, nonce: Nonce::from_bytes([0; 16]) },
        attempts: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        deadline: None,
        hold: None,
    }))
}

fn summary(row: &Row, id: RecordId) -> Result<Summary, Error> {
    let state = match column::<&str>(row, "state")? {
        "completed" => "completed",
        "held" => "held",
        "in-progress" => "in-progress",
        "interrupted" => "interrupted",
        other => return Err(unexpected("state", other)),
    };
    let deadline: Option<i64> = column(row, "deadline")?;
    Ok(Summary {
        id,
        state,
        effect: effect_of(row)?,
        fence: fence_of(row)?,
        attempts: small(row, "attempts")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        deadline: deadline.map(|_| time(row, "deadline")).transpose()?,
        hold: if state == "held" { Some(hold_of(row)?) } else { None },
    })
}

pub(super) fn id_of(row: &Row) -> Result<RecordId, Error> {
    Ok(RecordId {
        tenant: Tenant::new(column(row, "tenant")?)?,
        operation: Operation::new(column(row, "operation")?)?,
        key: Key::parse(column(row, "key")?)?,
    })
}

pub(super) fn fence_of(row: &Row) -> Result<Fence, Error> {
    let nonce = Nonce::from_bytes(array(row, "nonce")?);
    Ok(Fence { counter: number(row, "counter")?, nonce })
}

fn effect_of(row: &Row) -> Result<Effect, Error> {
    column::<&str>(row, "effect")?.parse()
}

fn hold_of(row: &Row) -> Result<Hold, Error> {
    let name = column(row, "hold_cause")?;
    let cause = HoldCause::from_name(name).ok_or_else(|| unexpected("hold_cause", name))?;
    Ok(Hold::new(cause, column(row, "hold_detail")?, time(row, "since")?))
}

pub(super) fn column<'row, T: FromSql<'row>>(row: &'row Row, name: &str) -> Result<T, Error> {
    row.try_get(name).map_err(|error| {
        let message = format!("column {name} cannot be read: {error}");
        Error::new(ErrorKind::Corrupt, message)
    })
}

/// A number that is not negative. Read as zero, a damaged end of retention would be long ago, and
/// the operation would run again.
pub(super) fn number(row: &Row, name: &str) -> Result<u64, Error> {
    let number: i64 = column(row, name)?;
    u64::try_from(number).map_err(|_| unexpected(name, &number.to_string()))
}

pub(super) fn time(row: &Row, name: &str) -> Result<Timestamp, Error> {
    number(row, name).map(Timestamp::from_millis)
}

fn small(row: &Row, name: &str) -> Result<u32, Error> {
    let number: i32 = column(row, name)?;
    u32::try_from(number).map_err(|_| unexpected(name, &number.to_string()))
}

fn blob(row: &Row, name: &str) -> Result<Bytes, Error> {
    column::<&[u8]>(row, name).map(Bytes::copy_from_slice)
}

fn array<const N: usize>(row: &Row, name: &str) -> Result<[u8; N], Error> {
    let bytes: &[u8] = column(row, name)?;
    <[u8; N]>::try_from(bytes)
        .map_err(|_| unexpected(name, &format!("{} bytes instead of {N}", bytes.len())))
}

fn unexpected(name: &str, found: &str) -> Error {
    let message = format!("column {name} holds `{}`", found.escape_debug());
    Error::new(ErrorKind::Corrupt, message)
}

/// Names the record without showing its key.
fn damaged(id: &RecordId, error: &Error) -> Error {
    let short: String = id.digest()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let message = format!(
        "record {short} cannot be read: {error}; restore it from a copy, or delete its row in the \
         tables `open` and `done` if its operation may run again"
    );
    // Whatever rule a stored value breaks, here it means damage.
    let kind = if error.kind() == ErrorKind::TooNew { error.kind() } else { ErrorKind::Corrupt };
    Error::new(kind, message)
}

/// PostgreSQL's integers are signed; neither times nor counters reach half of 64 bits.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Retentions and leases, bounded so that adding the present to them does not overflow.
pub(super) fn span(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

pub(super) fn signed32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The columns of an unfinished record that change.
pub(super) struct Columns<'a> {
    pub(super) state: &'static str,
    pub(super) deadline: Option<i64>,
    pub(super) since: Option<i64>,
    pub(super) hold_cause: Option<&'static str>,
    pub(super) hold_detail: Option<&'a str>,
    pub(super) steps: Option<Vec<u8>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        let millis = |time: Timestamp| Some(signed(time.as_millis()));
        let (mut deadline, mut since, mut hold_cause, mut hold_detail) = (None, None, None, None);
        match &record.state {
            State::InProgress { lease_until } => deadline = millis(*lease_until),
            State::Interrupted { since: gave_up } => since = millis(*gave_up),
            State::Held(hold) => {
                since = millis(hold.since);
                hold_cause = Some(hold.cause.name());
                hold_detail = Some(hold.detail.as_str());
            }
            // Finished records are written by `finish.sql` and `complete`.
            State::Completed { .. } => {}
        }
        let steps = (!record.steps.is_empty()).then(|| envelope::seal_steps(&record.steps));
        Self { state: record.state.name(), deadline, since, hold_cause, hold_detail, steps }
    }
}
