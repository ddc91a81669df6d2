//! How far a consumer is behind.

use std::sync::Arc;
use std::time::Duration;

use semel::{Clock, Timestamp};
use tokio::task::JoinHandle;

use super::Meter;
use crate::log::{Log, TopicPartition};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks at the ends of partitions now and then, beside the work.
#[derive(Debug)]
pub(super) struct Lag {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    meter: Meter,
    next: Timestamp,
    look: Option<JoinHandle<()>>,
}

impl Lag {
    pub(super) fn new(log: Arc<dyn Log>, clock: Arc<dyn Clock>, meter: Meter) -> Self {
        let next = clock.now();
        Self { log, clock, meter, next, look: None }
    }

    /// Looks, if it is time; `positions` is what is finished in each partition.
    pub(super) fn look(&mut self, positions: Vec<(TopicPartition, Option<i64>)>) {
        let now = self.clock.now();
        let is_looking = self.look.as_ref().is_some_and(|look| !look.is_finished());
        if now < self.next || is_looking || positions.is_empty() {
            return;
        }
        self.next = now.after(LOOK_EVERY);
        let (log, meter) = (Arc::clone(&self.log), self.meter.clone());
        self.look = Some(tokio::spawn(async move {
            let (mut behind, mut unstable) = (0, 0);
            for (partition, position) in positions {
                // Without an answer the last numbers stay.
                let Ok(bounds) = log.bounds(&partition).await else { return };
                behind += (bounds.stable - position.unwrap_or(bounds.low)).max(0);
                unstable += bounds.high - bounds.stable;
            }
            meter.behind(behind, unstable);
        }));
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        if let Some(look) = &self.look {
            look.abort();
        }
    }
}
