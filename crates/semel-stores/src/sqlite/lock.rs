//! The file's one write lock: taken in turns inside this process, asked for often between them.
//!
//! SQLite lets one connection write at a time and leaves the others to sleep and ask again, longer
//! each time: whoever sleeps while the lock is free is overtaken, for seconds under load. So the
//! connections of one store queue here first, in the order in which they came, and only the first
//! of them asks SQLite, at short and equal intervals, because other processes may hold the lock.
//! This file decides about fairness alone; what is safe is decided by SQLite's lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, ffi};

/// How long to let another process write before asking again. A commit takes a few of these.
const PAUSE: Duration = Duration::from_micros(300);

/// Whoever holds the lock for longer than this is not committing and is asked less often.
const COMMIT_MAX: Duration = Duration::from_millis(100);

/// The queue for the write lock of one store.
#[derive(Debug, Default)]
pub(super) struct Lock {
    queue: Mutex<Queue>,
    moved: Condvar,
    slow: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    /// The first has the turn; the others wait for it.
    tickets: VecDeque<u64>,
    next: u64,
}

impl Lock {
    /// Begins an immediate transaction on `connection` once it is its turn and no other process
    /// writes. SQLite's "busy" after `patience` for each of the two.
    pub(super) fn begin(
        self: &Arc<Self>,
        connection: &Connection,
        patience: Duration,
    ) -> rusqlite::Result<Turn> {
        let turn = self.turn(patience).ok_or_else(busy)?;
        connection.busy_timeout(Duration::ZERO)?;
        let begun = self.begin_patiently(connection, patience);
        connection.busy_timeout(patience)?;
        begun.map(|()| turn)
    }

    /// Whether the lock is held for longer than a commit takes: by a transaction of a caller, or
    /// by another process.
    pub(super) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed) > 0
    }

    /// The lock counts as slow until this is dropped.
    pub(super) fn slow(self: &Arc<Self>) -> Slow {
        self.slow.fetch_add(1, Ordering::Relaxed);
        Slow(Arc::clone(self))
    }

    fn begin_patiently(
        self: &Arc<Self>,
        connection: &Connection,
        patience: Duration,
    ) -> rusqlite::Result<()> {
        let mut waited = Duration::ZERO;
        let mut slow = None;
        loop {
            match connection.execute_batch("BEGIN IMMEDIATE") {
                Err(error) if is_busy(&error) && waited < patience => {
                    slow.get_or_insert_with(|| self.slow());
                    let wait = if waited < COMMIT_MAX { PAUSE } else { PAUSE * 10 };
                    pause(wait);
                    waited += wait;
                }
                begun => return begun,
            }
        }
    }

    fn turn(self: &Arc<Self>, patience: Duration) -> Option<Turn> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.tickets.push_back(ticket);
        let is_first = |queue: &mut Queue| queue.tickets.front() == Some(&ticket);
        let (mut queue, _) = self
            .moved
            .wait_timeout_while(queue, patience, |queue| !is_first(queue))
            .unwrap_or_else(PoisonError::into_inner);
        if is_first(&mut queue) {
            return Some(Turn { lock: Arc::clone(self) });
        }
        queue.tickets.retain(|waiting| *waiting != ticket);
        None
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the queue, and every step leaves valid data behind.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn to write; the next one comes when it is dropped. Keep it until the transaction ends.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn {
    lock: Arc<Lock>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.lock.queue().tickets.pop_front();
        self.lock.moved.notify_all();
    }
}

/// See [`Lock::slow`].
#[derive(Debug)]
#[must_use]
pub(super) struct Slow(Arc<Lock>);

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.slow.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether another connection holds the lock.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn busy() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)
}

#[expect(clippy::disallowed_methods, reason = "no signal tells when another process has written")]
pub(super) fn pause(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_the_order_of_asking_and_end_with_patience() {
        let lock = Arc::new(Lock::default());
        let first = lock.turn(Duration::ZERO).unwrap();
        assert!(lock.turn(Duration::ZERO).is_none(), "the first has it");
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for it in 0..5 {
                let (lock, order) = (&lock, &order);
                scope.spawn(move || {
                    let turn = lock.turn(Duration::from_secs(60)).unwrap();
                    order.lock().unwrap().push(it);
                    drop(turn);
                });
                // The next one asks when this one has its place.
                while lock.queue().tickets.len() < it + 2 {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(lock.queue().tickets.is_empty());
    }
}
