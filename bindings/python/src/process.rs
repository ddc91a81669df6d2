//! What belongs to one process: a forked child gets its own and leaves its parent's alone.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use semel::{Error, ErrorKind};
use semel_stores::{Opened, Purpose};
use semel_tasks::Heart;
use tokio::sync::OnceCell;

/// One `T` for each process. A child appends a link of its own: its parent's may hold locks that
/// nobody in the child could open again, and handles whose end would wake the parent.
#[derive(Debug)]
pub(crate) struct PerProcess<T: Default> {
    id: u32,
    value: ManuallyDrop<T>,
    child: OnceLock<Box<Self>>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) fn new() -> Self {
        Self { id: std::process::id(), value: ManuallyDrop::default(), child: OnceLock::new() }
    }

    pub(crate) fn get(&self) -> &T {
        let (mut link, id) = (self, std::process::id());
        while link.id != id {
            link = link.child.get_or_init(|| Box::new(Self::new()));
        }
        &link.value
    }

    /// Whether this is true of what an ancestor left behind. Ask atomics only: a lock may be held
    /// for ever.
    fn any_ancestor(&self, is_true: impl Fn(&T) -> bool) -> bool {
        let (mut link, id) = (Some(self), std::process::id());
        while let Some(here) = link.filter(|here| here.id != id) {
            if is_true(&here.value) {
                return true;
            }
            link = here.child.get().map(|child| &**child);
        }
        false
    }
}

impl<T: Default> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if self.id == std::process::id() {
            drop(std::mem::take(&mut *self.value));
        }
    }
}

/// The thread on which claims are kept alive, and stores are opened and asked.
pub(crate) fn heart() -> &'static Heart {
    static HEART: OnceLock<Heart> = OnceLock::new();
    HEART.get_or_init(Heart::new)
}

/// Empty until the store is open.
type Cell = Arc<OnceCell<Arc<Opened>>>;

/// The stores that this process has open, by URL and patience.
#[derive(Default)]
struct Stores {
    open: Mutex<HashMap<(String, Duration), Cell>>,
    /// Whether one of them is a file of SQLite.
    has_sqlite: AtomicBool,
}

fn stores() -> &'static PerProcess<Stores> {
    static STORES: OnceLock<PerProcess<Stores>> = OnceLock::new();
    STORES.get_or_init(PerProcess::new)
}

/// The store of this URL, opened at its first use. What cannot be opened is tried again at the
/// next one. Must run on the [`heart`].
pub(crate) async fn store(url: &str, patience: Duration) -> Result<Arc<Opened>, Error> {
    let stores = stores();
    let cell = {
        let mut open = lock(&stores.get().open);
        Arc::clone(open.entry((url.to_owned(), patience)).or_default())
    };
    if url.starts_with("sqlite:") {
        // SQLite keeps locks and counters in memory that a fork copies in whatever state it is in.
        if stores.any_ancestor(|it| it.has_sqlite.load(Ordering::Acquire)) {
            let message = "a parent of this process had a SQLite store open when it forked, and \
                           SQLite does not survive that; use the guard in the children alone, \
                           start them with `spawn`, or use redis:// or postgres://";
            return Err(Error::new(ErrorKind::Settings, message));
        }
        stores.get().has_sqlite.store(true, Ordering::Release);
    }
    let opening =
        || async { semel_stores::open_with(url, Purpose::Serve, patience).await.map(Arc::new) };
    cell.get_or_try_init(opening).await.cloned()
}

/// No code panics while it holds one of these locks, and the data is valid after every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
