use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::connection::Connection;
use crate::proxy::settings::{Settings, Target};

/// Unused connections to the upstream; the one used last is taken first, so that the others can
/// grow old and be closed.
pub(crate) struct Pool {
    pub(crate) settings: Settings,
    pub(crate) target: Target,
    pub(crate) permits: Arc<Semaphore>,
    /// Oldest first. Boxed, because a connection is large and moves with every request.
    #[expect(clippy::vec_box, reason = "a connection is some kilobytes and moved often")]
    unused: Mutex<Vec<Box<Connection>>>,
}

impl Pool {
    pub(crate) fn new(settings: Settings, target: Target) -> Self {
        let permits = Arc::new(Semaphore::new(settings.upstream_in_flight_max));
        Self { settings, target, permits, unused: Mutex::default() }
    }

    /// A connection that was used within `idle_max` and still lives.
    pub(super) fn take(&self, idle_max: Duration) -> Option<Box<Connection>> {
        loop {
            let mut connection = {
                let mut unused = self.unused();
                let youngest = unused.last()?;
                if youngest.used_at.elapsed() > idle_max {
                    // Too old for this request, but perhaps not for another.
                    return None;
                }
                unused.pop()?
            };
            if connection.is_alive() {
                return Some(connection);
            }
        }
    }

    /// Takes a connection back, unless it cannot carry another request.
    pub(super) fn put(&self, mut connection: Box<Connection>) {
        if !connection.is_ready() {
            return;
        }
        connection.used_at = Instant::now();
        connection.is_reused = true;
        let mut unused = self.unused();
        if unused.len() < self.settings.upstream_idle_max {
            unused.push(connection);
        }
    }

    /// Closes connections that were not used for too long. Says how many are left.
    pub(crate) fn close_old(&self) -> usize {
        let idle_max = self.settings.upstream_idle;
        let mut unused = self.unused();
        let young = unused.iter().position(|connection| connection.used_at.elapsed() <= idle_max);
        let end = young.unwrap_or(unused.len());
        let old: Vec<_> = unused.drain(..end).collect();
        let left = unused.len();
        // Closing sockets is for after the lock.
        drop(unused);
        drop(old);
        left
    }

    #[expect(clippy::vec_box, reason = "see the field")]
    fn unused(&self) -> MutexGuard<'_, Vec<Box<Connection>>> {
        // Nothing panics while it holds the lock.
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("unused", &self.unused().len()).finish_non_exhaustive()
    }
}
