//! The tables and functions of the store, in numbered steps.
//!
//! A store refuses to start unless its tables have exactly the version that it knows: older ones
//! lack what it calls, and newer ones may mean something else. [`up`] brings them up to date in
//! one transaction, so it happens whole or not at all, and several programs may try it at once.
//!
//! A step that is released never changes; what is to be different comes as a new step.

use std::time::Duration;

use semel::{Error, ErrorKind};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::PostgresOptions;
use super::fault::Fault;
use super::link::{Link, within};
use super::row;
use super::schema::Schema;

/// Name and SQL of each step; its version is its place, from 1.
const STEPS: &[(&str, &str)] = &[("records", include_str!("migrations/0001_records.sql"))];

/// Before the first step; the lock lets several programs try it at once.
const PREPARE: &str = "\
BEGIN;
SET LOCAL lock_timeout = 0;
SELECT pg_advisory_xact_lock(hashtextextended('semel.migration', 0));
DO $$ BEGIN
    -- Even IF NOT EXISTS would need the right to make schemas.
    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
END $$;
CREATE TABLE IF NOT EXISTS semel.migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL DEFAULT current_user
)";

/// After each step.
const NOTE: &str = "INSERT INTO semel.migration (version, name) VALUES";

/// The oldest server that has what we use, as PostgreSQL counts.
const SERVER_MIN: i32 = 140_000;

/// No step takes longer, unless something blocks it.
const STEP_TIME_MAX: Duration = Duration::from_secs(3600);

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1.
    pub version: u32,
    /// What it is about.
    pub name: String,
    /// When it was applied and by whom, if it was.
    pub applied: Option<String>,
    /// The SQL as it runs in this store's schema.
    pub sql: String,
}

/// All steps and what has become of them. Changes nothing.
///
/// # Errors
/// As [`PostgresOptions::connect`]; [`ErrorKind::TooNew`] when a newer version of the program has
/// applied steps that this one does not know.
pub async fn status(url: &str, options: PostgresOptions) -> Result<Vec<Migration>, Error> {
    let (_, _, link) = options.link(url)?;
    super::in_runtime()?;
    check_server(&link).await?;
    let applied = link.patiently(false, || applied(&link)).await?;
    if applied.len() > STEPS.len() {
        return Err(too_new(&link, applied.len()));
    }
    let all = STEPS.iter().enumerate();
    Ok(all.map(|(at, _)| step(&link, at, applied.get(at).cloned())).collect())
}

/// What [`up`] would do now, as one transaction for `psql`; none when nothing is to do. Changes
/// nothing. For those who have their tables made by somebody else.
///
/// # Errors
/// As [`status`].
pub async fn script(url: &str, options: PostgresOptions) -> Result<Option<String>, Error> {
    let schema = options.clone().link(url)?.2.schema.clone();
    let steps = status(url, options).await?;
    let mut script = prepare(&schema);
    for step in steps.iter().filter(|step| step.applied.is_none()) {
        let Migration { version, name, sql, .. } = step;
        let note = schema.sql(NOTE);
        script.push_str(&format!(
            ";\n\n-- step {version}: {name}\n\n{sql}\n{note} ({version}, '{name}')"
        ));
    }
    script.push_str(";\n\nCOMMIT;\n");
    Ok(steps.iter().any(|step| step.applied.is_none()).then_some(script))
}

/// Applies the steps that are missing and returns them.
///
/// # Errors
/// As [`status`]; nothing was changed then.
///
/// # Cancellation
/// Dropped before it ends, nothing is changed, unless the commit was already on its way.
pub async fn up(url: &str, options: PostgresOptions) -> Result<Vec<Migration>, Error> {
    let (_, _, link) = options.link(url)?;
    super::in_runtime()?;
    check_server(&link).await?;
    let mut lent = link.lend().await.map_err(|fault| fault.into_error(&link.place))?;
    let applied = match lent.client() {
        Ok(client) => within(&*link.clock, STEP_TIME_MAX, apply(&link, client)).await,
        Err(fault) => Some(Err(fault)),
    };
    // Whatever state the connection is in, the next call should not meet it.
    lent.settle::<()>(&Err(Fault::Silent));
    applied.unwrap_or(Err(Fault::Silent)).map_err(|fault| fault.into_error(&link.place))
}

async fn apply(link: &Link, client: &Client) -> Result<Vec<Migration>, Fault> {
    client.batch_execute(&prepare(&link.schema)).await?;
    let count = link.schema.sql("SELECT count(*) AS many FROM semel.migration");
    let rows = client.query_typed(&count, &[]).await?;
    let many = rows.first().map(|row| row::number(row, "many")).transpose()?.unwrap_or(0);
    let many = usize::try_from(many).unwrap_or(usize::MAX);
    if many > STEPS.len() {
        return Err(too_new(link, many).into());
    }
    let mut done = Vec::new();
    let note = link.schema.sql(&format!("{NOTE} ($1, $2)"));
    for at in many..STEPS.len() {
        let step = step(link, at, None);
        client.batch_execute(&step.sql).await?;
        let version = row::signed32(step.version);
        client.query_typed(&note, &[(&version, Type::INT4), (&step.name, Type::TEXT)]).await?;
        done.push(step);
    }
    client.batch_execute("COMMIT").await?;
    Ok(done)
}

/// The version of the tables, and the one that this program knows.
pub(super) async fn versions(link: &Link) -> Result<(u32, u32), Error> {
    let applied = link.patiently(false, || applied(link)).await?;
    Ok((small(applied.len()), small(STEPS.len())))
}

/// Refuses a server or tables that the store cannot work with.
pub(super) async fn check(link: &Link) -> Result<(), Error> {
    check_server(link).await?;
    let (found, known) = versions(link).await?;
    let place = &link.place;
    if found > known {
        return Err(too_new(link, found as usize));
    }
    if found < known {
        let state = if found == 0 {
            "has no tables yet".to_owned()
        } else {
            format!("has tables of version {found}, this program needs {known}")
        };
        let message = format!(
            "the store {place} {state} in its schema `{}`; run `semel migrate up` with the \
             store's URL",
            link.schema.name
        );
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    Ok(())
}

async fn check_server(link: &Link) -> Result<(), Error> {
    let sql = "SELECT current_setting('server_version_num')::int4 AS number, \
               current_setting('server_version') AS text";
    let (number, text) = link
        .patiently(false, async || {
            let rows = link.call(sql, &[]).await?;
            let row = rows.first().ok_or(Fault::Silent)?;
            Ok((row::column::<i32>(row, "number")?, row::column::<String>(row, "text")?))
        })
        .await?;
    if number < SERVER_MIN {
        let message = format!(
            "the store {} runs on PostgreSQL {text}; 14 is the oldest that works",
            link.place
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// When and by whom each step was applied; none when there are no tables.
async fn applied(link: &Link) -> Result<Vec<String>, Fault> {
    let sql = link.schema.sql(
        "SELECT to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
         || ' by ' || applied_by AS applied FROM semel.migration ORDER BY version",
    );
    let rows = match link.call(&sql, &[]).await {
        Err(Fault::Server(error))
            if error.code() == Some(&SqlState::UNDEFINED_TABLE)
                || error.code() == Some(&SqlState::INVALID_SCHEMA_NAME) =>
        {
            return Ok(Vec::new());
        }
        rows => rows?,
    };
    Ok(rows.iter().map(|row| row::column(row, "applied")).collect::<Result<_, _>>()?)
}

fn prepare(schema: &Schema) -> String {
    schema.sql(PREPARE).replace("{schema}", &schema.name)
}

fn step(link: &Link, at: usize, applied: Option<String>) -> Migration {
    let (name, sql) = STEPS.get(at).copied().unwrap_or_default();
    let sql = link.schema.sql(sql);
    Migration { version: small(at + 1), name: name.to_owned(), applied, sql }
}

fn too_new(link: &Link, found: usize) -> Error {
    let message = format!(
        "the store {} has tables of version {found}, this program knows {}; upgrade it",
        link.place,
        STEPS.len()
    );
    Error::new(ErrorKind::TooNew, message)
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
