//! A lease with a fence, used as a lock between processes.

use std::sync::Arc;
use std::time::Duration;

use semel::guard::Missing;
use semel::rng::jitter;
use semel::{
    Effect, Ending, Error, ErrorKind, Executed, Fence, FingerprintKey, Guard, GuardBuilder, Key,
    OnUnknown, Settings, Store, Tenant,
};
use tokio::task::JoinSet;

use crate::attempt::{Attempt, Begun};
use crate::guard::TaskGuard;
use crate::heart::Heart;

/// The longest first pause between two looks at a lock that is taken.
const PAUSE: Duration = Duration::from_millis(20);

/// Locks of one kind over a store, one for each key. Cheap to clone.
///
/// **What it gives:** at most one holder whose lease runs; a heartbeat on the [`Heart`], so a
/// holder may block its thread; a [`Lock::fence`] that is higher than that of every holder before.
///
/// **What no lock of this kind gives:** that a holder which was paused beyond its lease does
/// nothing afterwards. It believes to hold the lock until it looks. Only the *resource* can refuse
/// it, by comparing fences in the same atomic step as the effect:
///
/// ```sql
/// UPDATE account SET balance = balance - 10, fence = :fence
/// WHERE id = 17 AND fence <= :fence
/// ```
///
/// Where the effect is a task, a [`TaskGuard`] is the better tool: it also remembers that the work
/// is done.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel::Error> {
/// use semel::{Key, MemoryStore};
/// use semel_tasks::Locks;
/// use std::{sync::Arc, time::Duration};
///
/// let locks = Locks::new(Arc::new(MemoryStore::new()), "account")?;
/// let key = Key::parse("17")?;
/// let lock = locks.acquire(&key, Duration::from_secs(5)).await?;
/// assert!(locks.try_acquire(&key).await?.is_none(), "somebody has it");
/// let fence = lock.fence().counter;
/// lock.release().await?;
///
/// let next = locks.try_acquire(&key).await?.expect("it is free");
/// assert!(next.fence().counter > fence);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Locks {
    tasks: TaskGuard,
}

impl Locks {
    /// Locks in this store under this name, with a lease of 30 s, each held for an hour at most.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name that is no [`Operation`](semel::Operation).
    pub fn new(store: Arc<dyn Store>, name: &str) -> Result<Self, Error> {
        let (lease, held_max) = (Duration::from_secs(30), Duration::from_secs(3600));
        Self::over(Guard::builder(store), name, lease, held_max)
    }

    /// Locks with a lease and a ceiling of your own, and the clock, randomness and observer of the
    /// builder. After a holder's death its lock is free within one lease; a holder that hangs
    /// loses its lock after `held_max`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for the name, [`ErrorKind::Settings`] for a lease under
    /// [`Settings::LEASE_MIN`] or over `held_max`.
    pub fn over(
        builder: GuardBuilder<Missing, Missing>,
        name: &str,
        lease: Duration,
        held_max: Duration,
    ) -> Result<Self, Error> {
        let mut settings = Settings::default();
        settings.lease = lease;
        settings.execution_max = held_max;
        settings.retention = settings.retention.max(lease);
        settings.store_patience = settings.store_patience.min(lease / 2);
        // A lock that is lost often is no poison, and old names are not forgotten work.
        settings.lost_leases_max = u32::MAX;
        settings.refuse_old_keys = false;
        let effect = Effect::Foreign(OnUnknown::Retry);
        let guard = builder.operation(name)?.effect(effect).settings(settings).build()?;
        // Locks compare no payloads.
        let secret = FingerprintKey::from_secret(b"semel locks have none")?;
        Ok(Self { tasks: TaskGuard::new(guard, secret) })
    }

    /// Shares the thread of this heart.
    #[must_use]
    pub fn with_heart(mut self, heart: Heart) -> Self {
        self.tasks = self.tasks.with_heart(heart);
        self
    }

    /// Whose locks these are. Default: the single tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Tenant) -> Self {
        self.tasks = self.tasks.with_tenant(tenant);
        self
    }

    /// The lock, or `None` while somebody else has it.
    ///
    /// # Cancellation
    /// Dropping the future leaves the lock free.
    ///
    /// # Errors
    /// Those of the store, and [`ErrorKind::Unavailable`] when too many attempts are open.
    pub async fn try_acquire(&self, key: &Key) -> Result<Option<Lock>, Error> {
        let fingerprint = self.tasks.secret().fingerprint().finish();
        match self.tasks.begin(self.tasks.tenant(), key, fingerprint).await {
            Ok(Begun::Run(attempt)) => Ok(Some(Lock { attempt: Some(attempt) })),
            Err(error) if error.kind() == ErrorKind::InFlight => Ok(None),
            Err(error) => Err(error),
            Ok(Begun::Replay { .. }) => {
                let message = "the record is no lock: it is finished; use a name of its own";
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }

    /// The lock, waiting for it for at most `wait`. Woken by the store where it can tell, and by
    /// growing, jittered looks where it cannot; there is no queue, so waiters may overtake each
    /// other.
    ///
    /// # Cancellation
    /// Dropping the future ends the waiting and leaves the lock to others.
    ///
    /// # Errors
    /// [`ErrorKind::InFlight`] when somebody else still has it; those of
    /// [`try_acquire`](Self::try_acquire).
    pub async fn acquire(&self, key: &Key, wait: Duration) -> Result<Lock, Error> {
        let guard = self.tasks.guard();
        let deadline = guard.clock().now().after(wait);
        let mut pause = PAUSE;
        loop {
            // Listening starts before the look, so that a release in between is not missed.
            let mut released = self.released(key)?;
            if let Some(lock) = self.try_acquire(key).await? {
                return Ok(lock);
            }
            let left = deadline.since(guard.clock().now());
            if left.is_zero() {
                let message = format!("somebody else has the lock, and has had it for {wait:?}");
                let error = Error::new(ErrorKind::InFlight, message);
                return Err(error.with_retry_after(guard.settings().retry_after));
            }
            let look = jitter(&**guard.random(), pause).max(Duration::from_millis(1)).min(left);
            tokio::select! {
                _ = released.join_next() => {}
                () = guard.clock().sleep(look) => {}
            }
            pause = (pause * 2).min(guard.settings().poll_max);
        }
    }

    /// Ends when the store says that the lock may be free; gives up when it is dropped.
    fn released(&self, key: &Key) -> Result<JoinSet<()>, Error> {
        let guard = self.tasks.guard();
        let (store, id) = (Arc::clone(guard.store()), guard.record_id(self.tasks.tenant(), key));
        let mut released = JoinSet::new();
        let runtime = self.tasks.heart().runtime()?;
        released.spawn_on(async move { store.changed(&id).await }, &runtime);
        Ok(released)
    }
}

/// A lock that is held, and kept alive by the [`Heart`].
///
/// Dropping it frees it in the background; [`release`](Self::release) says whether it was still
/// held.
#[derive(Debug)]
pub struct Lock {
    /// `None` only while it is dropped.
    attempt: Option<Attempt>,
}

impl Lock {
    /// Higher than that of every holder of this key before. Hand it to the resource, which refuses
    /// what comes with a lower one. Unique with its nonce even where a store lost its counter.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.held().fence()
    }

    /// Whether the lock is known to be lost. `false` proves nothing: the loss may not have been
    /// noticed yet.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.held().is_lease_lost()
    }

    /// Completes when [`Self::is_lost`] becomes true.
    pub async fn lost(&self) {
        self.held().lease_lost().await;
    }

    /// Frees the lock if it is still this holder's.
    ///
    /// # Cancellation
    /// The lock is freed even if the future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when it was lost before: whatever was done under it may have met
    /// the next holder's work.
    pub async fn release(mut self) -> Result<(), Error> {
        let Some(attempt) = self.attempt.take() else { return Ok(()) };
        match attempt.finish(Ending::NotApplied { live: () }).await {
            Ok(Executed::NotApplied { .. }) => Ok(()),
            Ok(_) | Err(_) => {
                let message = "the lock was lost before it was released; the next holder may have \
                               worked at the same time";
                Err(Error::new(ErrorKind::ClaimLost, message))
            }
        }
    }

    #[expect(clippy::expect_used, reason = "it is there until the lock is dropped or released")]
    fn held(&self) -> &Attempt {
        self.attempt.as_ref().expect("the lock is held")
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.let_go(Ending::NotApplied { live: () });
        }
    }
}
