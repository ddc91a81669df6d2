//! Runs a handler once for each (scope, key): claim, heartbeat, completion, replay.

mod builder;
mod commit;
mod context;
mod flight;
mod futures;
mod lease;
mod run;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::{GuardBuilder, Missing};
pub use self::context::{Context, StepContext};
pub use self::run::{Answer, Failure, StepFailure};

use self::flight::Flights;
use crate::clock::{Clock, Timestamp};
use crate::effect::Effect;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Observer};
use crate::failpoint;
use crate::fence::{Fence, Nonce};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::outcome::Outcome;
use crate::record::Step;
use crate::rng::{self, Random};
use crate::scope::{Operation, RecordId, Tenant};
use crate::settings::{Settings, Wait};
use crate::store::{ClaimRequest, Claimed, Store};

/// How often one claim is sent before the store counts as unreachable, as long as one attempt more
/// fits into [`Settings::store_patience`]. Each attempt carries the same nonce, so an attempt whose
/// answer was lost does not stand in the way of the next.
const CLAIM_ATTEMPTS: u32 = 3;

/// Runs handlers so that retried work takes effect once, for one kind of operation.
///
/// Cheap to clone; all clones share the store, the settings and the waiting callers.
///
/// # What it guarantees
///
/// 1. Of any number of calls with one (tenant, operation, key), at most one holds a claim at a
///    time, in all processes that share the store.
/// 2. All answered calls get the same answer, byte for byte, as long as the record lives
///    ([`Settings::retention`]). An owner that was too late gets the winner's answer.
/// 3. The answer is in the store before the caller gets it.
/// 4. How often the *effect* happens is decided by the [`Effect`] mode; see its table.
/// 5. Whatever ends without telling (panic, dropped future, killed process, lost lease, an error
///    that was not declared [`NotApplied`](Failure::NotApplied)) is *unknown* and follows the
///    mode. A key is never released because of an unclassified error.
pub struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    operation: Operation,
    effect: Effect,
    settings: Settings,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    observer: Arc<dyn Observer>,
    flights: Flights,
}

/// How a handler of [`Guard::execute`] ended. `live` is what the first caller gets; it is never
/// stored and so may be anything, a streaming body for example.
#[derive(Debug)]
pub enum Ending<L> {
    /// [`TransactionalStore::commit`](crate::TransactionalStore::commit) said that another claim
    /// took over; nothing of this execution remains.
    ClaimLost,
    /// The record was completed in the handler's own transaction; see [`Context::commit`].
    Committed {
        /// When the record expires.
        expires_at: Timestamp,
        /// The first caller's answer.
        live: L,
    },
    /// Finished; store this outcome.
    Completed {
        /// What later callers get.
        outcome: Outcome,
        /// The first caller's answer.
        live: L,
    },
    /// Somebody has to look before anything else happens. The record is held, whatever the effect
    /// mode says.
    Hold {
        /// One line for the operator, without payload.
        detail: String,
        /// The first caller's answer.
        live: L,
    },
    /// Proven: nothing happened. The key is free again.
    NotApplied {
        /// The first caller's answer.
        live: L,
    },
    /// Nobody knows what happened.
    Unknown {
        /// One line for the operator, without payload.
        detail: String,
        /// The first caller's answer.
        live: L,
    },
}

/// What [`Guard::execute`] did.
#[derive(Debug)]
pub enum Executed<L> {
    /// The handler ran in this call and its outcome is stored.
    Fresh {
        /// The handler's answer.
        live: L,
        /// When the record expires.
        expires_at: Timestamp,
    },
    /// The handler ran in this call and proved that nothing happened; the key is free again.
    NotApplied {
        /// The handler's answer.
        live: L,
    },
    /// The operation was finished by another call: here is its outcome. Also the answer to an
    /// owner that was too late.
    Replayed {
        /// The stored answer.
        outcome: Outcome,
        /// When the record expires.
        expires_at: Timestamp,
    },
    /// The handler ran in this call and could not tell what happened. The record is held or free
    /// for the next claim, as the mode says; held if the handler asked for that.
    Unknown {
        /// The handler's answer.
        live: L,
    },
}

impl Guard {
    /// Starts to build a guard over a store. Operation and effect are required; `build` does not
    /// exist without them.
    pub fn builder(store: Arc<dyn Store>) -> GuardBuilder<Missing, Missing> {
        GuardBuilder::new(store)
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The mode under which handlers execute.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.shared.effect
    }

    /// What paces heartbeats and waits.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Where nonces and jitter come from.
    #[must_use]
    pub fn random(&self) -> &Arc<dyn Random> {
        &self.shared.random
    }

    /// The name under which the store keeps the record of this key.
    #[must_use]
    pub fn record_id(&self, tenant: &Tenant, key: &Key) -> RecordId {
        let operation = self.shared.operation.clone();
        RecordId { tenant: tenant.clone(), operation, key: key.clone() }
    }

    /// The door's form of [`Guard::run`]: outcomes are bytes, and the first caller's answer is
    /// kept apart from what is stored.
    ///
    /// # Cancellation
    /// Dropping the future drops the handler, whose outcome is then *unknown*: the lease runs
    /// out, and the mode decides. Spawn the call where a caller that hangs up must not have that
    /// effect.
    ///
    /// # Errors
    /// - [`ErrorKind::InFlight`], [`ErrorKind::Mismatch`], [`ErrorKind::OutcomeUnknown`],
    ///   [`ErrorKind::TooOld`]: the claim was refused; the handler did not run.
    /// - [`ErrorKind::Unavailable`], [`ErrorKind::Corrupt`], [`ErrorKind::TooNew`]: the store
    ///   could not say. Ask [`Error::outcome_unknown`] whether the handler ran.
    /// - [`ErrorKind::OutcomeUnknown`] also when the handler panicked or was too late and no
    ///   winner has finished.
    pub async fn execute<L, F, Fut>(
        &self,
        tenant: &Tenant,
        key: &Key,
        fingerprint: Fingerprint,
        handler: F,
    ) -> Result<Executed<L>, Error>
    where
        F: FnOnce(Context) -> Fut,
        Fut: Future<Output = Ending<L>>,
    {
        let id = self.record_id(tenant, key);
        failpoint::pass("before_claim");
        let granted = self.shared.claim_or_wait(&id, fingerprint).await?;
        match granted {
            Granted::Replay { outcome, expires_at } => {
                self.shared.observer.event(&Event::Replayed);
                Ok(Executed::Replayed { outcome, expires_at })
            }
            Granted::Claim { fence, steps, attempts } => {
                failpoint::pass("after_claim");
                self.shared.observer.event(&Event::Claimed { attempts });
                let context = Context::new(self, id, fingerprint, fence, steps, attempts);
                lease::drive(context, handler).await
            }
        }
    }
}

/// What a claim gave.
enum Granted {
    Claim { fence: Fence, steps: Vec<Step>, attempts: u32 },
    Replay { outcome: Outcome, expires_at: Timestamp },
}

impl Shared {
    async fn claim_or_wait(
        &self,
        id: &RecordId,
        fingerprint: Fingerprint,
    ) -> Result<Granted, Error> {
        let request = self.claim_request(id, fingerprint, rng::nonce(&*self.random)?);
        let Wait::UpTo(wait) = self.settings.wait else {
            return self.decide(self.claim(&request).await?);
        };
        let deadline = self.clock.now().after(wait);
        let Some(seat) = self.flights.join(id, self.settings.waiters_max) else {
            return self.decide(self.claim(&request).await?);
        };
        let mut waited = false;
        loop {
            // Listening starts before the claim, so that an end in between is not missed.
            let ended = seat.listen();
            let claimed = self.claim(&request).await?;
            let left = deadline.since(self.clock.now());
            if !matches!(claimed, Claimed::InFlight { .. }) || left.is_zero() {
                // Whoever finds the end of another process's execution tells the others.
                if waited && !matches!(claimed, Claimed::InFlight { .. } | Claimed::Acquired { .. })
                {
                    seat.ring();
                }
                return self.decide(claimed);
            }
            if !waited {
                self.observer.event(&Event::Waiting);
                waited = true;
            }
            let changed = self.store.changed(id);
            let pause = |looks| self.look_pause(looks);
            seat.wait(ended, changed, &*self.clock, pause, left).await;
        }
    }

    fn claim_request(&self, id: &RecordId, fingerprint: Fingerprint, nonce: Nonce) -> ClaimRequest {
        ClaimRequest {
            id: id.clone(),
            fingerprint,
            effect: self.effect,
            nonce,
            lease: self.settings.lease,
            lost_leases_max: self.settings.lost_leases_max,
            key_age_max: self.settings.refuse_old_keys.then_some(self.settings.retention),
            takeover: None,
        }
    }

    /// Sends a claim until it is answered, always with the same nonce.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let started = self.clock.now();
        let mut attempt = 1;
        loop {
            let begun = self.clock.now();
            let error = match self.store.claim(request).await {
                Err(error) => error,
                claimed => return claimed,
            };
            self.observer.event(&Event::StoreError { kind: error.kind() });
            let (now, pause) = (self.clock.now(), self.look_pause(attempt));
            // A store on a server has a patience of its own, so an attempt may use up all there
            // is. The next one is taken to need as long as this one did.
            let next_end = now.since(started) + pause + now.since(begun);
            let again = attempt < CLAIM_ATTEMPTS && next_end < self.settings.store_patience;
            if !again || !error.is_retryable() {
                // The claim itself may be there, but no handler has run under it.
                return Err(error.with_nothing_executed());
            }
            self.clock.sleep(pause).await;
            attempt += 1;
        }
    }

    fn decide(&self, claimed: Claimed) -> Result<Granted, Error> {
        let error = match claimed {
            Claimed::Acquired { fence, steps, attempts, .. } => {
                return Ok(Granted::Claim { fence, steps, attempts });
            }
            Claimed::Completed { outcome, expires_at } => {
                return Ok(Granted::Replay { outcome, expires_at });
            }
            Claimed::Absent => Error::new(ErrorKind::Corrupt, "a store answered a claim `absent`"),
            Claimed::Held(hold) => outcome_unknown(&hold.detail).with_held(),
            Claimed::InFlight { .. } => in_flight(self.settings.retry_after),
            Claimed::Mismatch => Error::new(
                ErrorKind::Mismatch,
                "the key was used before with another payload; a new operation needs a new key",
            ),
            Claimed::TooOld => Error::new(
                ErrorKind::TooOld,
                "the key is older than records are kept, so it may have been used and forgotten; \
                 reconcile, then start again with a new key",
            ),
        };
        self.observer.event(&Event::Refused { kind: error.kind() });
        Err(error)
    }

    /// A jittered pause that doubles with every look, up to `poll_max`.
    fn look_pause(&self, look: u32) -> Duration {
        let doubled = Duration::from_millis(20).saturating_mul(1 << look.min(16));
        rng::jitter(&*self.random, doubled.min(self.settings.poll_max))
            .max(Duration::from_millis(1))
    }
}

fn in_flight(retry_after: Duration) -> Error {
    let message = "another call with this key is executing; ask again with the same key";
    Error::new(ErrorKind::InFlight, message).with_retry_after(retry_after)
}

fn outcome_unknown(detail: &str) -> Error {
    let message = format!(
        "the outcome of an earlier execution is unknown ({detail}); it may have happened, so it \
         is not run again until someone resolves it with `semel records`"
    );
    Error::new(ErrorKind::OutcomeUnknown, message)
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("operation", &self.shared.operation)
            .field("effect", &self.shared.effect)
            .field("store", &self.shared.store)
            .finish_non_exhaustive()
    }
}
