use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::header::HeaderName;
use semel::{
    Clock, Effect, Error, ErrorKind, FingerprintKey, Guard, SystemClock, TransactionalStore,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::transaction::{Joined, Transactions};
use super::{IdempotencyLayer, Shared};
use crate::event::Observer;
use crate::replay::HEAD_BYTES_MAX;
use crate::settings::{Rules, Settings};
use crate::tenant::{FromAuthorization, FromHeader, Single, TenantOf};

/// Nobody has said yet whose keys they are.
#[derive(Clone, Copy, Debug)]
pub struct Unscoped;

/// How a request tells whose key it carries.
pub struct Scoped(Scope);

enum Scope {
    Authorization,
    Given(Box<dyn TenantOf>),
}

/// Fingerprints and tenants are hashed under this when no secret was given, so that restarts and
/// other processes agree.
const PUBLIC_SECRET: &[u8] = b"semel: no secret was configured";

/// Builds an [`IdempotencyLayer`]. `T` tells whether somebody said whose keys they are.
#[must_use]
pub struct LayerBuilder<T> {
    guard: Guard,
    tenant: T,
    settings: Settings,
    secret: Option<FingerprintKey>,
    transactions: Option<Box<dyn Transactions>>,
    transactions_match: bool,
    observer: Option<Arc<dyn Observer>>,
    clock: Arc<dyn Clock>,
}

impl LayerBuilder<Unscoped> {
    pub(super) fn new(guard: Guard) -> Self {
        Self {
            guard,
            tenant: Unscoped,
            settings: Settings::default(),
            secret: None,
            transactions: None,
            transactions_match: true,
            observer: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// The tenant is a keyed hash of the `Authorization` field; requests without one share a
    /// tenant of their own. The proxy's default. Give a [`secret`](Self::secret) with it.
    ///
    /// A caller whose token changes between two tries is another tenant for the second one.
    pub fn tenant_from_authorization(self) -> LayerBuilder<Scoped> {
        self.scoped(Scope::Authorization)
    }

    /// The tenant is the value of a field that something trusted sets; clients must not be able to
    /// choose it.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when the name cannot be a field's.
    pub fn tenant_from_header(self, name: &str) -> Result<LayerBuilder<Scoped>, Error> {
        let name: HeaderName = name.parse().map_err(|_| {
            Error::new(ErrorKind::Settings, format!("tenant header `{name}` is no field name"))
        })?;
        Ok(self.scoped(Scope::Given(Box::new(FromHeader(name)))))
    }

    /// The tenant is what this hook says.
    pub fn tenant(self, tenant: impl TenantOf + 'static) -> LayerBuilder<Scoped> {
        self.scoped(Scope::Given(Box::new(tenant)))
    }

    /// All callers share one name space: whoever knows a key gets its answer. Right only where
    /// all callers are one principal.
    pub fn single_tenant(self) -> LayerBuilder<Scoped> {
        self.scoped(Scope::Given(Box::new(Single)))
    }

    fn scoped(self, scope: Scope) -> LayerBuilder<Scoped> {
        LayerBuilder {
            guard: self.guard,
            tenant: Scoped(scope),
            settings: self.settings,
            secret: self.secret,
            transactions: self.transactions,
            transactions_match: self.transactions_match,
            observer: self.observer,
            clock: self.clock,
        }
    }
}

impl<T> LayerBuilder<T> {
    /// Replaces all settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The secret for fingerprints and for tenants from `Authorization`. All processes that share
    /// a store share it. Without one, whoever reads the store can test guesses about short bodies
    /// and credentials against it.
    pub fn secret(mut self, secret: FingerprintKey) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Runs each handler in a transaction of this store, which must be the guard's. The handler
    /// finds it as [`Tx`](super::Tx) in the request's extensions; record and business rows commit
    /// together, and a handler whose answer is not stored is rolled back.
    pub fn transactional<S: TransactionalStore + 'static>(mut self, store: Arc<S>) -> Self {
        let same = Arc::as_ptr(&store).cast::<()>() == Arc::as_ptr(self.guard.store()).cast();
        self.transactions_match = same;
        self.transactions = Some(Box::new(Joined(store)));
        self
    }

    /// Tells this observer about every answered request.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Bounds the reading of bodies with this clock instead of the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl LayerBuilder<Scoped> {
    /// Checks the settings and builds the layer.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] names what contradicts what.
    pub fn build(self) -> Result<IdempotencyLayer, Error> {
        let rules = Rules::new(self.settings)?;
        let effect = self.guard.effect();
        let kept = rules.numbers.response_bytes_max.saturating_add(HEAD_BYTES_MAX);
        let record = self.guard.settings().outcome_bytes_max;
        let problem = if kept > record {
            format!(
                "response_bytes_max ({}) and a head of {HEAD_BYTES_MAX} bytes do not fit into \
                 outcome_bytes_max ({record}) of the guard; lower the one or raise the other",
                rules.numbers.response_bytes_max
            )
        } else if self.transactions.is_some() != (effect == Effect::Transactional) {
            format!(
                "the guard's effect is {effect}; `transactional(store)` belongs to the effect \
                 transactional and to no other"
            )
        } else if !self.transactions_match {
            "the store given to `transactional` is not the guard's; record and effect would be \
             in two databases"
                .to_owned()
        } else {
            let secret = match self.secret {
                Some(secret) => secret,
                None => FingerprintKey::from_secret(PUBLIC_SECRET)?,
            };
            let tenant = match self.tenant.0 {
                Scope::Authorization => Box::new(FromAuthorization(secret.clone())),
                Scope::Given(tenant) => tenant,
            };
            let permits = Arc::new(Semaphore::new(rules.numbers.in_flight_max));
            let shared = Shared {
                guard: self.guard,
                rules,
                secret,
                tenant,
                transactions: self.transactions,
                observer: self.observer,
                clock: self.clock,
                permits,
                executions: TaskTracker::new(),
                hinted: AtomicBool::new(false),
            };
            return Ok(IdempotencyLayer { shared: Arc::new(shared) });
        };
        Err(Error::new(ErrorKind::Settings, problem))
    }
}

impl<T> fmt::Debug for LayerBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBuilder")
            .field("guard", &self.guard)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scoped")
    }
}
