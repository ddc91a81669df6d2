//! The thread on which claims are kept alive, apart from whatever runs the bodies.

use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use semel::{Clock, Error, ErrorKind, SystemClock};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Keeps claims alive on a thread of its own: store calls and heartbeats run there, so a body that
/// blocks its thread (a blocking function, an interpreter's lock, a blocked event loop) does not
/// lose its lease.
///
/// Cheap to clone; all clones share the thread. The thread starts with the first attempt and ends
/// when the last clone is dropped, after what is being written has been written. A child that was
/// forked gets a thread of its own with its first attempt; it never waits for its parent's.
///
/// Dropping does not wait for the thread. Call [`Heart::drain`] before a process ends, so that an
/// attempt that was given up is known as such at once and not only when its lease is over.
#[derive(Clone)]
pub struct Heart {
    shared: Arc<Shared>,
}

struct Shared {
    attempts_max: usize,
    first: Process,
}

/// The thread of one process. A forked child appends a link of its own and never touches the
/// locks of its parent, which nobody in the child could open again.
struct Process {
    id: u32,
    thread: Mutex<Option<ManuallyDrop<Thread>>>,
    child: OnceLock<Box<Process>>,
}

struct Thread {
    runtime: Handle,
    attempts: Arc<Semaphore>,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<()>,
}

/// Where an attempt runs, and its place among the attempts.
pub(crate) struct Place {
    pub(crate) runtime: Handle,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Heart {
    /// Default for [`Heart::with_attempts_max`].
    pub const ATTEMPTS_MAX: usize = 10_000;

    /// A heart that has not started its thread yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_attempts_max(Self::ATTEMPTS_MAX)
    }

    /// A heart that keeps at most so many attempts alive at a time; one more is refused with
    /// [`ErrorKind::Unavailable`]. At least 1, at most 4 billion.
    #[must_use]
    pub fn with_attempts_max(attempts_max: usize) -> Self {
        let attempts_max = attempts_max.clamp(1, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        let first = Process::new(std::process::id());
        Self { shared: Arc::new(Shared { attempts_max, first }) }
    }

    /// Waits until no attempt of this process is open and everything they said is in the store, at
    /// most for `patience`. Tells whether that came true. New attempts wait meanwhile.
    ///
    /// **Cancellation:** dropping the future only stops waiting.
    pub async fn drain(&self, patience: Duration) -> bool {
        let Some(attempts) = self.process().attempts() else { return true };
        let all = u32::try_from(self.shared.attempts_max).unwrap_or(u32::MAX);
        tokio::select! {
            drained = attempts.acquire_many(all) => drained.is_ok(),
            () = SystemClock.sleep(patience) => false,
        }
    }

    /// [`Heart::drain`] for callers without a runtime; blocks the thread.
    #[must_use]
    pub fn drain_blocking(&self, patience: Duration) -> bool {
        pollster::block_on(self.drain(patience))
    }

    /// A place for one attempt; starts the thread if there is none.
    pub(crate) fn place(&self) -> Result<Place, Error> {
        let max = self.shared.attempts_max;
        let (runtime, attempts) = self.process().running(max)?;
        let permit = attempts.try_acquire_owned().map_err(|_| {
            let message = format!(
                "{max} attempts are open in this process, which is `attempts_max`; finish some \
                 first, or allow more"
            );
            Error::new(ErrorKind::Unavailable, message).with_retry_after(Duration::from_secs(1))
        })?;
        Ok(Place { runtime, permit })
    }

    /// Where store calls run; starts the thread if there is none. A store on a server is opened
    /// here by programs that have no runtime of their own.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the thread cannot be started.
    pub fn runtime(&self) -> Result<Handle, Error> {
        self.process().running(self.shared.attempts_max).map(|(runtime, _)| runtime)
    }

    fn process(&self) -> &Process {
        self.shared.first.find(std::process::id())
    }
}

impl Default for Heart {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Heart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = self.shared.attempts_max;
        f.debug_struct("Heart").field("attempts_max", &max).finish_non_exhaustive()
    }
}

impl Process {
    fn new(id: u32) -> Self {
        Self { id, thread: Mutex::default(), child: OnceLock::new() }
    }

    fn find(&self, id: u32) -> &Self {
        let mut process = self;
        while process.id != id {
            process = process.child.get_or_init(|| Box::new(Self::new(id)));
        }
        process
    }

    fn attempts(&self) -> Option<Arc<Semaphore>> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().map(|thread| Arc::clone(&thread.attempts))
    }

    fn running(&self, attempts_max: usize) -> Result<(Handle, Arc<Semaphore>), Error> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = match &mut *thread {
            Some(thread) => thread,
            none => none.insert(ManuallyDrop::new(Thread::start(attempts_max)?)),
        };
        Ok((thread.runtime.clone(), Arc::clone(&thread.attempts)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The thread of a parent lives in the parent. Its handles are left alone here, because
        // they would wake it through descriptors that both processes share.
        if self.id == std::process::id() {
            let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
            drop(thread.take().map(ManuallyDrop::into_inner));
        }
    }
}

impl Thread {
    fn start(attempts_max: usize) -> Result<Self, Error> {
        let failed = |error: std::io::Error| {
            let message = "the thread that keeps claims alive cannot be started";
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let attempts = Arc::new(Semaphore::new(attempts_max));
        let open = Arc::clone(&attempts);
        let (stop, stopped) = oneshot::channel::<()>();
        let all = u32::try_from(attempts_max).unwrap_or(u32::MAX);
        let live = move || {
            runtime.block_on(async move {
                drop(stopped.await);
                // What still runs are endings on their way to the store, each with its patience.
                drop(open.acquire_many(all).await);
            });
        };
        spawn(live).map_err(failed)?;
        Ok(Self { runtime: handle, attempts, _stop: stop })
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the last handle of its heart")]
fn spawn(body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("semel-heart".to_owned()).spawn(body).map(drop)
}

/// Runs a future on the heart's thread and waits for it; it goes on if the caller does not wait.
pub(crate) async fn on<T: Send + 'static>(
    runtime: &Handle,
    future: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    runtime.spawn(future).await.unwrap_or_else(|_| Err(ended()))
}

/// A store panicked, or the process is coming down.
pub(crate) fn ended() -> Error {
    let message = "the thread that keeps claims alive ended before it could answer";
    Error::new(ErrorKind::Unavailable, message).with_outcome_unknown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_never_meets_the_thread_or_the_locks_of_its_parent() {
        let parent = Process::new(1);
        let locked = parent.find(1).thread.lock();
        let child = parent.find(2);
        assert_eq!(child.id, 2);
        assert!(child.thread.try_lock().is_ok(), "a lock of its own");
        assert!(std::ptr::eq(child, parent.find(2)), "found again");
        drop(locked);
    }

    #[test]
    fn the_thread_ends_with_the_last_handle_and_not_before() {
        let heart = Heart::new();
        let place = heart.place().ok();
        let (running, ended) = std::sync::mpsc::channel::<()>();
        if let Some(place) = &place {
            // Dropped with the runtime of the thread.
            place.runtime.spawn(async move {
                let _running = running;
                std::future::pending::<()>().await;
            });
        }
        drop(heart.clone());
        assert!(ended.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty));
        drop(heart);
        drop(place);
        assert_eq!(ended.recv(), Err(std::sync::mpsc::RecvError), "the runtime is gone");
    }

    #[test]
    fn one_attempt_more_than_the_bound_is_refused() {
        let heart = Heart::with_attempts_max(1);
        let only = heart.place();
        assert!(only.is_ok());
        let refused = heart.place().err().map(|error| error.kind());
        assert_eq!(refused, Some(ErrorKind::Unavailable));
        drop(only);
        assert!(heart.place().is_ok());
        assert!(heart.drain_blocking(Duration::from_secs(60)));
    }
}
