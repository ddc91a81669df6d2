//! The middleware: `mod` decides what is public, `builder` what may be built, `service` which
//! requests are guarded, `admit` what is checked before a claim, `execute` what happens under it.

mod admit;
mod builder;
mod execute;
mod future;
mod service;
mod transaction;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[cfg(feature = "proxy")]
use http::Response;
use semel::{Clock, FingerprintKey, Guard};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower_layer::Layer;

pub use self::builder::{LayerBuilder, Scoped, Unscoped};
pub use self::future::ResponseFuture;
pub use self::service::IdempotencyService;
pub use self::transaction::{OpenTransaction, Tx};

use self::transaction::Transactions;
#[cfg(feature = "proxy")]
use crate::answer::Problem;
#[cfg(feature = "proxy")]
use crate::body::Body;
use crate::event::{Answered, Decision, Observer};
use crate::settings::Rules;
use crate::tenant::TenantOf;

/// Makes retried requests to a service take effect once. See the rules on the
/// [crate's page](crate).
///
/// Cheap to clone; all clones share the guard, the limits and the executions in flight.
#[derive(Clone)]
pub struct IdempotencyLayer {
    shared: Arc<Shared>,
}

struct Shared {
    guard: Guard,
    rules: Rules,
    secret: FingerprintKey,
    tenant: Box<dyn TenantOf>,
    transactions: Option<Box<dyn Transactions>>,
    observer: Option<Arc<dyn Observer>>,
    clock: Arc<dyn Clock>,
    permits: Arc<Semaphore>,
    executions: TaskTracker,
    /// Whether the hint about the outcome header has been logged.
    hinted: AtomicBool,
}

impl IdempotencyLayer {
    /// Starts to build a layer over a guard. Whose keys they are must be said before `build`
    /// exists.
    pub fn builder(guard: Guard) -> LayerBuilder<Unscoped> {
        LayerBuilder::new(guard)
    }

    /// Completes when no execution is running any more. Executions do not end with the client's
    /// connection, so a server that stops has to wait for them after its last connection.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let executions = self.shared.executions.clone();
        executions.close();
        async move { executions.wait().await }
    }

    /// What the `type` of a problem starts with.
    #[must_use]
    pub fn problem_base(&self) -> &str {
        &self.shared.rules.numbers.problem_base
    }

    /// The response for a refusal of the proxy's own, counted like those of the layer.
    #[cfg(feature = "proxy")]
    pub(crate) fn refuse(&self, problem: &Problem) -> Response<Body> {
        self.shared.refuse(problem)
    }

    /// How many executions are running.
    #[must_use]
    pub fn executing(&self) -> usize {
        self.shared.executions.len()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = IdempotencyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyService::new(inner, Arc::clone(&self.shared))
    }
}

impl Shared {
    fn answered(&self, decision: Decision, status: Option<http::StatusCode>) {
        if let Some(observer) = &self.observer {
            observer.answered(&Answered { decision, status });
        }
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("guard", &self.shared.guard)
            .field("settings", &self.shared.rules.numbers)
            .finish_non_exhaustive()
    }
}
