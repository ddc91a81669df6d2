//! Places for finished records, made before they are needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semel::Timestamp;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::link::Link;
use super::row::{self, span};

/// Retentions that are remembered; a program uses a few.
const REMEMBERED_MAX: usize = 1024;

/// Until when, by our own clock, the partitions for a retention are known to be there.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<BTreeMap<Duration, Timestamp>>);

impl Partitions {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Duration, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Makes sure that a record that completes now with this retention has a place.
    pub(super) async fn provide(&self, retention: Duration) -> Result<(), Fault> {
        let now = self.clock.now();
        if self.partitions.known().get(&retention).is_some_and(|until| *until > now) {
            return Ok(());
        }
        let sql = self.schema.sql("SELECT semel.provide($1) AS good_for");
        let rows = self.call(&sql, &[(&span(retention), Type::INT8)]).await?;
        let good_for = rows.first().map(|row| row::number(row, "good_for")).transpose()?;
        let mut known = self.partitions.known();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        // Half of it: two clocks need not run alike.
        let good_for = Duration::from_millis(good_for.unwrap_or(0) / 2);
        known.insert(retention, now.after(good_for));
        Ok(())
    }

    /// Whatever was known about partitions, one was missing.
    pub(super) fn forget_partitions(&self) {
        self.partitions.known().clear();
    }
}
