//! Letting clients of librdkafka go, which may block.

use tokio::runtime::Handle;

/// Drops a client where it blocks no async task.
pub(super) fn release<T: Send + 'static>(client: T) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(client))),
        Err(_) => drop(client),
    }
}
