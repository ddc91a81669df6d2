//! The reverse proxy: the same [`IdempotencyLayer`] over a pool of connections to one upstream.

mod answering;
mod client;
mod forward;
mod framing;
mod serve;
mod settings;
mod timer;
mod upstream;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use semel::Error;
use tokio::net::TcpListener;

pub use self::serve::Drained;
pub use self::settings::{Forwarding, Settings};

pub(crate) use self::client::Serving;
pub(crate) use self::upstream::{Received, Relayed};

use self::upstream::Pool;
use crate::layer::IdempotencyLayer;

/// A reverse proxy in front of one HTTP/1.1 upstream, for clients of HTTP/1.1 and HTTP/2.
///
/// # Rules
///
/// 1. A request without a key is streamed through, both ways, untouched but for the fields that
///    belong to a connection (RFC 9110 §7.6.1) and those that tell about the client.
/// 2. `Host` and `traceparent` are kept.
/// 3. What was sent to the upstream is known for certain. A request of which a byte was sent is
///    never sent again, with one exception that the RFC allows: a safe request without a body,
///    over a connection that had been idle.
/// 4. A request whose length can be read in two ways is refused.
/// 5. Every wait has a limit; see [`Settings`].
/// 6. WebSockets and other upgrades pass; so do event streams.
pub struct Proxy {
    pool: Arc<Pool>,
    layer: IdempotencyLayer,
}

impl Proxy {
    /// A proxy with these settings and this layer.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`](semel::ErrorKind::Settings) names the setting that cannot be.
    pub fn new(settings: Settings, layer: IdempotencyLayer) -> Result<Self, Error> {
        let target = settings.validate()?;
        Ok(Self { pool: Arc::new(Pool::new(settings, target)), layer })
    }

    /// Serves clients until `shutdown` completes, then stops accepting and lets everything in
    /// flight end, for at most [`Settings::drain_max`].
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Drained {
        serve::serve(self.pool, self.layer, listener, shutdown).await
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("settings", &self.pool.settings)
            .field("layer", &self.layer)
            .finish_non_exhaustive()
    }
}
