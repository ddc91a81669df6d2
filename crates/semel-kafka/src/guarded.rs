//! Consumers whose effect is anywhere: each record under a guard.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use semel::{
    BoxFuture, Context, Error, ErrorKind, Failure, Fingerprint, FingerprintKey, Guard, Key, Tenant,
};

use crate::failpoint;
use crate::identity::Identity;
use crate::log::{Log, LogErrorKind, LogProducer, Outgoing, ProducerSettings, Record};
use crate::options::ConsumerOptions;
use crate::rejected::{Reason, Rejected};
use crate::runtime::{Job, Lanes, Ran, ended_by};

/// How long a record waits for a store or a log that cannot be asked.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a record waits for another execution of its id, at most.
const IN_FLIGHT_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A consumer whose handler has effects outside of Kafka and of the ledger: it calls a service,
/// charges a card, writes a file.
///
/// **Guarantee:** that of the [`Guard`]'s [`Effect`](semel::Effect): each record runs under a claim
/// of its id with a lease, a fence and keys for its steps, in any store. What is finished is
/// recognised for the guard's [`retention`](semel::Settings::retention), which is the window (in
/// wall time, fixed). What ended without telling follows the mode: with
/// [`OnUnknown::Hold`](semel::OnUnknown::Hold) the record goes to the dead letters with the reason
/// `outcome-unknown` (or stops its partition) and its claim waits for `semel records`.
///
/// Handlers of different keys run side by side, up to
/// [`concurrency`](ConsumerOptions::concurrency); those of one key keep their order. A position is
/// committed once everything before it is finished, so a crash makes records come again that are
/// then recognised, and needs no list of offsets in Kafka's bounded metadata.
pub struct Guarded {
    log: Arc<dyn Log>,
    guard: Guard,
    secret: FingerprintKey,
    identity: Identity,
    tenant: Tenant,
    options: ConsumerOptions,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Guarded {
    /// A consumer on this log under this guard. Nothing happens before [`run`](Self::run).
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] names the setting that is refused.
    pub fn new(
        log: Arc<dyn Log>,
        guard: Guard,
        secret: FingerprintKey,
        identity: Identity,
        options: ConsumerOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        Ok(Self { log, guard, secret, identity, tenant: Tenant::single(), options })
    }

    /// Whose ids these are. Default: the single tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// Consumes until `until` completes: waits for the handlers that run (up to
    /// [`drain_max`](ConsumerOptions::drain_max)), commits, then leaves the group.
    ///
    /// A store or a log that cannot be reached is waited for. **Cancellation:** dropping the future
    /// drops running handlers; their outcome is unknown then, and the mode decides.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when the log refuses a setting; an error of the log that this member
    /// cannot go on after.
    pub async fn run<F, Fut>(
        &self,
        handler: F,
        until: impl Future<Output = ()> + Send,
    ) -> Result<(), Error>
    where
        F: Fn(Arc<Record>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let consumer = self.log.consumer(&self.options.member()).map_err(ended_by)?;
        let job = Claimed {
            log: Arc::clone(&self.log),
            guard: self.guard.clone(),
            secret: self.secret.clone(),
            identity: self.identity.clone(),
            tenant: self.tenant.clone(),
            handler: Arc::new(handler),
            letters: Arc::default(),
        };
        Lanes::new(&self.options, &self.log, consumer, job)?.run(until).await
    }
}

/// The producer of dead letters, once there is one.
type Letters = Arc<Mutex<Option<Arc<dyn LogProducer>>>>;

/// The work of a guarded consumer.
struct Claimed<F> {
    log: Arc<dyn Log>,
    guard: Guard,
    secret: FingerprintKey,
    identity: Identity,
    tenant: Tenant,
    handler: Arc<F>,
    letters: Letters,
}

impl<F, Fut> Job for Claimed<F>
where
    F: Fn(Arc<Record>, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    const CLASS: &'static str = "guarded";

    fn handle(&self, record: Arc<Record>) -> BoxFuture<'static, Ran> {
        let id = self.identity.of(&record).and_then(|id| {
            let key = Key::parse(&id);
            key.map_err(|error| Rejected::at_once(Reason::MissingId, error.to_string()))
        });
        let key = match id {
            Ok(key) => key,
            Err(rejected) => return Box::pin(async move { Ran::Rejected(rejected) }),
        };
        let fingerprint = meaning(&self.secret, &record);
        let (guard, tenant) = (self.guard.clone(), self.tenant.clone());
        let handler = Arc::clone(&self.handler);
        Box::pin(async move {
            let work = |context| handler(record, context);
            match guard.run::<(), _, _>(&tenant, &key, fingerprint, work).await {
                Ok(answer) if answer.replayed => Ran::Duplicate,
                Ok(_) => Ran::Handled,
                Err(error) => judge(&error),
            }
        })
    }

    fn post(&self, letter: Outgoing) -> BoxFuture<'static, Ran> {
        let (log, letters) = (Arc::clone(&self.log), Arc::clone(&self.letters));
        Box::pin(async move {
            let known = lock(&letters).clone();
            let producer = match known {
                Some(producer) => producer,
                None => match log.producer(&ProducerSettings::default()).await {
                    Ok(made) => Arc::clone(lock(&letters).insert(made)),
                    Err(error) => {
                        let why = error.to_string();
                        return Ran::Wait { why, pause: UNAVAILABLE_PAUSE };
                    }
                },
            };
            match producer.send(letter).await {
                Ok(delivered) => {
                    failpoint::pass("kafka:after_letter");
                    Ran::Posted(delivered)
                }
                Err(error) if error.kind() == LogErrorKind::Invalid => {
                    let detail = error.to_string();
                    Ran::Rejected(Rejected::at_once(Reason::OutputRefused, detail))
                }
                Err(error) => {
                    *lock(&letters) = None;
                    Ran::Wait { why: error.to_string(), pause: UNAVAILABLE_PAUSE }
                }
            }
        })
    }
}

/// The meaning of a record: the same id with another payload is a mismatch.
fn meaning(secret: &FingerprintKey, record: &Record) -> Fingerprint {
    let part = |bytes: &Option<bytes::Bytes>| bytes.clone().unwrap_or_default();
    let topic = record.partition.topic.as_bytes();
    secret.fingerprint().part(topic).part(&part(&record.key)).part(&part(&record.value)).finish()
}

/// What an error of the guard means for the record.
fn judge(error: &Error) -> Ran {
    let detail = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let at_once = |reason| Ran::Rejected(Rejected::at_once(reason, detail.clone()));
    match error.kind() {
        ErrorKind::InFlight | ErrorKind::ClaimLost => {
            let pause = error.retry_after().unwrap_or(UNAVAILABLE_PAUSE);
            Ran::Wait { why: detail, pause: pause.min(IN_FLIGHT_PAUSE_MAX) }
        }
        // Nothing happened, so it may be tried again like any failure.
        ErrorKind::NotApplied => {
            Ran::Rejected(Rejected::for_now(Reason::HandlerFailed, detail.clone()))
        }
        // The record tells the mode: held, or free to run again with the next attempt.
        ErrorKind::OutcomeUnknown => {
            Ran::Rejected(Rejected::for_now(Reason::OutcomeUnknown, detail.clone()))
        }
        ErrorKind::Mismatch => at_once(Reason::Mismatch),
        ErrorKind::Refused => at_once(Reason::Refused),
        ErrorKind::TooOld => at_once(Reason::TooOld),
        ErrorKind::Invalid | ErrorKind::TooLarge => at_once(Reason::Malformed),
        _ => Ran::Wait { why: detail, pause: UNAVAILABLE_PAUSE },
    }
}

fn lock(letters: &Letters) -> std::sync::MutexGuard<'_, Option<Arc<dyn LogProducer>>> {
    letters.lock().unwrap_or_else(PoisonError::into_inner)
}
