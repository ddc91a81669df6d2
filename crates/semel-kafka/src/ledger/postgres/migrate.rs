//! The tables and functions of the ledger, in numbered steps.
//!
//! A step that is released never changes; what is to be different comes as a new step.

use std::time::Duration;

use semel::{Error, ErrorKind};
use tokio_postgres::error::SqlState;

use super::PostgresLedger;
use super::fault::Fault;
use super::link::{Link, column, within};

/// No step takes longer, unless something blocks it.
const STEP_TIME_MAX: Duration = Duration::from_secs(3600);

/// The oldest server that has what we use, as PostgreSQL counts.
const SERVER_MIN: i32 = 140_000;

/// Lets several programs try it at once.
const BEGIN: &str = "\
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = 0;
SELECT pg_advisory_xact_lock(hashtextextended('semel_kafka.migration', 0));";

impl PostgresLedger {
    /// The SQL of each step, the first one first, for those who have their tables made by a tool
    /// of their own. A step runs in one transaction. It notes itself in `semel_kafka.migration`,
    /// so [`migrate`](Self::migrate) and such a tool can be mixed.
    pub const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_ledger.sql")];

    /// Makes the tables or brings them up to date, in the schema `semel_kafka` of the pool's
    /// database. It happens whole or not at all, and several programs may try it at once.
    ///
    /// # Errors
    /// [`ErrorKind::TooNew`] when a newer version of the program has applied steps that this one
    /// does not know, [`ErrorKind::Unavailable`] when the database cannot be asked or refuses.
    pub async fn migrate(&self) -> Result<(), Error> {
        let migrated = within(&*self.link.clock, STEP_TIME_MAX, migrate(&self.link)).await;
        migrated.unwrap_or(Err(Fault::Silent)).map_err(Fault::into_error)
    }

    /// Refuses a server that is too old, and tables that are missing or of another version. Ask
    /// before the first consumer starts.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] names what is to be done; [`ErrorKind::TooNew`] as
    /// [`migrate`](Self::migrate); [`ErrorKind::Invalid`] for a server older than PostgreSQL 14.
    pub async fn check(&self) -> Result<(), Error> {
        let checked = check(&self.link).await;
        checked.map_err(Fault::into_error)
    }
}

async fn migrate(link: &Link) -> Result<(), Fault> {
    let lent = link.lend().await?;
    let client = lent.client()?;
    client.batch_execute(BEGIN).await?;
    let is_there = "SELECT to_regclass('semel_kafka.migration') IS NOT NULL AS is_there";
    let rows = client.query_typed(is_there, &[]).await?;
    let mut applied = 0;
    if column(rows.first().ok_or(Fault::Silent)?, "is_there")? {
        let rows = client.query_typed(COUNT, &[]).await?;
        applied = known(column(rows.first().ok_or(Fault::Silent)?, "many")?)?;
    }
    for step in PostgresLedger::MIGRATIONS.iter().skip(applied) {
        client.batch_execute(step).await?;
    }
    client.batch_execute("COMMIT").await?;
    // Its settings and locks are of no use to anybody: the connection is closed, not given back.
    Ok(())
}

const COUNT: &str = "SELECT count(*) AS many FROM semel_kafka.migration";

async fn check(link: &Link) -> Result<(), Fault> {
    let sql = "SELECT current_setting('server_version_num')::int4 AS number, \
               current_setting('server_version') AS text";
    let rows = link.call(sql, &[]).await?;
    let row = rows.first().ok_or(Fault::Silent)?;
    if column::<i32>(row, "number")? < SERVER_MIN {
        let text: &str = column(row, "text")?;
        let message = format!("the ledger is on PostgreSQL {text}; 14 is the oldest that works");
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let found = match link.call(COUNT, &[]).await {
        Ok(rows) => known(column(rows.first().ok_or(Fault::Silent)?, "many")?)?,
        Err(fault) if is_missing(&fault) => 0,
        Err(fault) => return Err(fault),
    };
    let needed = PostgresLedger::MIGRATIONS.len();
    if found == needed {
        return Ok(());
    }
    let message = format!(
        "the ledger's database has tables of version {found} in the schema `semel_kafka`, this \
         program needs {needed} (0 is none); run `PostgresLedger::migrate`, or the scripts of \
         `PostgresLedger::MIGRATIONS`"
    );
    Err(Error::new(ErrorKind::Unavailable, message).into())
}

fn is_missing(fault: &Fault) -> bool {
    fault.state().is_some_and(|state| {
        *state == SqlState::UNDEFINED_TABLE || *state == SqlState::INVALID_SCHEMA_NAME
    })
}

/// How many steps were applied, if this program knows them all.
fn known(applied: i64) -> Result<usize, Error> {
    let known = PostgresLedger::MIGRATIONS.len();
    let applied = usize::try_from(applied).unwrap_or(usize::MAX);
    if applied <= known {
        return Ok(applied);
    }
    let message = format!(
        "the ledger's database has tables of version {applied}, this program knows {known}; \
         upgrade it"
    );
    Err(Error::new(ErrorKind::TooNew, message))
}
