use std::fmt;
use std::future::Future;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, Ending, Executed, Guard};
use crate::clock::Timestamp;
use crate::error::{BoxError, Error, ErrorKind};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::outcome::{Outcome, Verdict};
use crate::scope::Tenant;

/// The answer of [`Guard::run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What the handler returned, in this call or in an earlier one.
    pub value: T,
    /// Whether it comes from the store.
    pub replayed: bool,
    /// When the record expires: from then on the key counts as new.
    pub expires_at: Timestamp,
}

/// How a handler of [`Guard::run`] fails.
///
/// Every `std::error::Error` becomes [`Failure::Unknown`] by `?`, because an error that nobody
/// classified proves nothing about the effect.
#[derive(Debug)]
pub enum Failure {
    /// A refusal that will not change; stored and given to every caller. See
    /// [`Failure::final_answer`].
    Final(Outcome),
    /// Proven: nothing happened. The key is free again.
    NotApplied(BoxError),
    /// Nobody knows what happened.
    Unknown(BoxError),
}

impl Failure {
    /// A refusal that is stored and replayed, as any value that serialises to JSON. Callers read
    /// it from [`Error::refusal`] with [`Outcome::to_json`].
    #[must_use]
    pub fn final_answer<T: Serialize>(refusal: &T) -> Self {
        match Outcome::json(Verdict::Refused, refusal) {
            Ok(outcome) => Self::Final(outcome),
            Err(error) => Self::Unknown(error.into()),
        }
    }

    /// Nothing happened, and this is why.
    #[must_use]
    pub fn not_applied(error: impl Into<BoxError>) -> Self {
        Self::NotApplied(error.into())
    }
}

impl Failure {
    /// What a boxed error means: a failure that was boxed comes back as it was, a [`StepFailure`]
    /// with its meaning, and any other error is [`Failure::Unknown`].
    #[must_use]
    pub fn from_boxed(error: BoxError) -> Self {
        let error = match error.downcast::<Boxed>() {
            Ok(boxed) => return boxed.0,
            Err(error) => error,
        };
        match error.downcast::<StepFailure>() {
            Ok(step) => match *step {
                StepFailure::NotApplied(error) => Self::NotApplied(error),
                StepFailure::Unknown(error) => Self::Unknown(error),
            },
            Err(error) => Self::Unknown(error),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_boxed(error.into())
    }
}

/// For frameworks whose handlers return boxed errors; [`Failure::from_boxed`] is the way back.
impl From<Failure> for BoxError {
    fn from(failure: Failure) -> Self {
        Box::new(Boxed(failure))
    }
}

#[derive(Debug)]
struct Boxed(Failure);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Failure::Final(_) => f.write_str("the operation is refused for good"),
            Failure::NotApplied(error) | Failure::Unknown(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for Boxed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Failure::Final(_) => None,
            Failure::NotApplied(error) | Failure::Unknown(error) => error.source(),
        }
    }
}

/// How a step fails; `?` hands it on to [`Failure`] with its meaning.
///
/// Any error becomes [`StepFailure::Unknown`] by `?` or `into()`.
pub enum StepFailure {
    /// Proven: this step did nothing. Ends the whole operation as
    /// [`Failure::NotApplied`] if handed on, so say it only if the steps before it did nothing
    /// either or are safe to repeat.
    NotApplied(BoxError),
    /// Nobody knows what the step did.
    Unknown(BoxError),
}

impl StepFailure {
    /// The same failure without the proof that nothing happened.
    #[must_use]
    pub fn into_unknown(self) -> Self {
        match self {
            Self::NotApplied(error) | Self::Unknown(error) => Self::Unknown(error),
        }
    }

    fn cause(&self) -> &BoxError {
        match self {
            Self::NotApplied(error) | Self::Unknown(error) => error,
        }
    }
}

impl fmt::Debug for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::NotApplied(_) => "NotApplied",
            Self::Unknown(_) => "Unknown",
        };
        f.debug_tuple(name).field(self.cause()).finish()
    }
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.cause(), f)
    }
}

impl std::error::Error for StepFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause().source()
    }
}

impl From<Error> for StepFailure {
    fn from(error: Error) -> Self {
        Self::Unknown(error.into())
    }
}

impl From<BoxError> for StepFailure {
    fn from(error: BoxError) -> Self {
        Self::Unknown(error)
    }
}

impl From<std::io::Error> for StepFailure {
    fn from(error: std::io::Error) -> Self {
        Self::Unknown(error.into())
    }
}

impl Guard {
    /// Runs `handler` once for this (tenant, key), or returns what it returned before.
    ///
    /// The value is stored as JSON. A value over
    /// [`Settings::outcome_bytes_max`](crate::Settings::outcome_bytes_max) reaches the first
    /// caller and is not kept: later callers get [`ErrorKind::TooLarge`], and the operation is
    /// never run again.
    ///
    /// ```
    /// # use std::{future::Future, pin::pin, task::{Context, Poll, Waker}};
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    /// #     loop { if let Poll::Ready(out) = future.as_mut().poll(&mut context) { return out } }
    /// # }
    /// use semel::{Effect, ErrorKind, FingerprintKey, Guard, Key, MemoryStore, Tenant};
    /// use std::sync::Arc;
    ///
    /// let guard = Guard::builder(Arc::new(MemoryStore::new()))
    ///     .operation("charge")?
    ///     .effect(Effect::Keyed)
    ///     .build()?;
    /// let secret = FingerprintKey::from_secret(b"sixteen bytes or more")?;
    /// let (tenant, key) = (Tenant::new("acme")?, Key::parse("order-17")?);
    /// let pay = |amount: u32| {
    ///     let fingerprint = secret.fingerprint().part(&amount.to_le_bytes()).finish();
    ///     guard.run(&tenant, &key, fingerprint, move |ctx| async move {
    ///         // Hand `ctx.step_key("charge")` to the payment provider here.
    ///         Ok(format!("charged {amount} in attempt {}", ctx.attempts()))
    ///     })
    /// };
    /// block_on(async {
    ///     let first = pay(100).await?;
    ///     let retry = pay(100).await?;
    ///     assert_eq!(first.value, retry.value);
    ///     assert!(!first.replayed && retry.replayed);
    ///
    ///     let reuse = pay(999).await.unwrap_err();
    ///     assert_eq!(reuse.kind(), ErrorKind::Mismatch);
    ///     Ok::<(), semel::Error>(())
    /// })?;
    /// # Ok::<(), semel::Error>(())
    /// ```
    ///
    /// # Cancellation
    /// As [`Guard::execute`]: a dropped call is an unknown outcome.
    ///
    /// # Errors
    /// As [`Guard::execute`], and [`ErrorKind::Refused`] for a stored refusal,
    /// [`ErrorKind::NotApplied`] and [`ErrorKind::OutcomeUnknown`] for what the handler returned.
    pub async fn run<T, F, Fut>(
        &self,
        tenant: &Tenant,
        key: &Key,
        fingerprint: Fingerprint,
        handler: F,
    ) -> Result<Answer<T>, Error>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Context) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let work = |context| async move { self.ending(handler(context).await) };
        match self.execute(tenant, key, fingerprint, work).await? {
            Executed::Fresh { live, expires_at } => {
                Ok(Answer { value: live?, replayed: false, expires_at })
            }
            Executed::NotApplied { live } | Executed::Unknown { live } => {
                // A handler that returned a value always ends in `Fresh`.
                let unexpected = || Error::new(ErrorKind::OutcomeUnknown, "the value was lost");
                Err(live.err().unwrap_or_else(unexpected))
            }
            Executed::Replayed { outcome, expires_at } => {
                let value = outcome.into_value()?;
                Ok(Answer { value, replayed: true, expires_at })
            }
        }
    }

    /// The ending that [`run`](Self::run) makes of a handler's result, for doors that hold the
    /// execution themselves and still want its rules: values as JSON, and a tombstone for one
    /// that is too large to keep. Later callers read it with [`Outcome::into_value`].
    pub fn ending<T: Serialize>(&self, result: Result<T, Failure>) -> Ending<Result<T, Error>> {
        let max = self.settings().outcome_bytes_max;
        match result {
            Ok(value) => match Outcome::json(Verdict::Succeeded, &value) {
                Ok(outcome) => {
                    Ending::Completed { outcome: fitting(outcome, max), live: Ok(value) }
                }
                Err(error) => {
                    let error = error.with_outcome_unknown();
                    Ending::Unknown { detail: error.to_string(), live: Err(error) }
                }
            },
            Err(Failure::Final(outcome)) => {
                let live = Err(Error::refused(outcome.clone()));
                Ending::Completed { outcome: fitting(outcome, max), live }
            }
            Err(Failure::NotApplied(cause)) => {
                let message = "the handler proved that nothing happened; the key is free again";
                let error = Error::new(ErrorKind::NotApplied, message).with_source(cause);
                Ending::NotApplied { live: Err(error) }
            }
            Err(Failure::Unknown(cause)) => {
                let message = format!("the handler failed and its effect is unknown: {cause}");
                let error = Error::new(ErrorKind::OutcomeUnknown, message).with_source(cause);
                let detail = error.to_string();
                let error = if self.effect().holds() { error.with_held() } else { error };
                Ending::Unknown { detail, live: Err(error) }
            }
        }
    }
}

/// The outcome itself, or a tombstone when it is too large to keep.
fn fitting(outcome: Outcome, max: usize) -> Outcome {
    if outcome.len() <= max {
        return outcome;
    }
    let (head, body) = (Bytes::new(), Bytes::new());
    Outcome { verdict: outcome.verdict, format: Outcome::TOMBSTONE.to_owned(), head, body }
}
