//! What happens while a claim is held: the handler with its heartbeat beside it, and the end.

use std::future::Future;
use std::time::Duration;

use super::futures::{beside, catch_panic};
use super::{Context, Ending, Executed, Shared, in_flight, outcome_unknown};
use crate::clock::{BoxFuture, Timestamp};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::failpoint;
use crate::outcome::Outcome;
use crate::record::{Record, State};
use crate::rng;
use crate::store::{Release, ReleaseVerdict};

/// Runs the handler and ends the claim, with heartbeats until the end is written.
pub(super) async fn drive<L, F, Fut>(context: Context, handler: F) -> Result<Executed<L>, Error>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Ending<L>>,
{
    let heartbeat = keep_alive(&context);
    let execution = async {
        failpoint::pass("before_effect");
        // Made inside, so that a panic before the first await is caught as well.
        let ending = catch_panic(async { handler(context.clone()).await }).await;
        failpoint::pass("after_effect");
        let executed = end(&context, ending).await;
        context.shared().flights.ring(context.id());
        executed
    };
    beside(execution, heartbeat).await
}

async fn end<L>(
    context: &Context,
    ending: Result<Ending<L>, String>,
) -> Result<Executed<L>, Error> {
    match ending {
        Ok(Ending::Completed { outcome, live }) => complete(context, outcome, live).await,
        Ok(Ending::Committed { expires_at, live }) => {
            context.observe(Event::Completed);
            Ok(Executed::Fresh { live, expires_at })
        }
        Ok(Ending::ClaimLost) => winner(context).await,
        Ok(Ending::Hold { detail, live }) => {
            context.observe(Event::Unknown);
            release(context, ReleaseVerdict::Hold(detail), Executed::Unknown { live }).await
        }
        Ok(Ending::NotApplied { live }) => {
            context.observe(Event::NotApplied);
            release(context, ReleaseVerdict::NotApplied, Executed::NotApplied { live }).await
        }
        Ok(Ending::Unknown { detail, live }) => {
            context.observe(Event::Unknown);
            release(context, ReleaseVerdict::Unknown(detail), Executed::Unknown { live }).await
        }
        Err(panic) => {
            context.observe(Event::Unknown);
            let detail = format!("the handler panicked: {panic}");
            let error = outcome_unknown(&detail);
            let holds = context.shared().effect.holds();
            let error = if holds { error.with_held() } else { error };
            let verdict = ReleaseVerdict::Unknown(detail);
            match release(context, verdict, ()).await {
                Ok(()) | Err(_) => Err(error),
            }
        }
    }
}

async fn complete<L>(context: &Context, outcome: Outcome, live: L) -> Result<Executed<L>, Error> {
    let shared = context.shared();
    if let Err(error) = shared.settings.limits().check_outcome(&outcome) {
        // The effect has happened and cannot be recorded: said at once, not left to the lease.
        let verdict = ReleaseVerdict::Unknown(error.to_string());
        let lost = release(context, verdict, ()).await.err();
        return Err(lost.unwrap_or(error.with_outcome_unknown()));
    }
    failpoint::pass("before_complete");
    let completion = context.completion(outcome);
    match shared.patiently(|| shared.store.complete(&completion)).await {
        Ok(expires_at) => {
            failpoint::pass("after_complete");
            context.observe(Event::Completed);
            Ok(Executed::Fresh { live, expires_at })
        }
        Err(error) if error.kind() == ErrorKind::ClaimLost => winner(context).await,
        // The handler has run; only the record does not know.
        Err(error) => Err(error.with_outcome_unknown()),
    }
}

/// Ends the claim without an outcome. A store that cannot be reached leaves the record to its
/// lease, which is safe: it is unknown then, never free.
async fn release<T: OrWinner>(
    context: &Context,
    verdict: ReleaseVerdict,
    answer: T,
) -> Result<T, Error> {
    let shared = context.shared();
    let release = Release { id: context.id().clone(), fence: context.fence(), verdict };
    match shared.patiently(|| shared.store.release(&release)).await {
        Err(error) if error.kind() == ErrorKind::ClaimLost => {
            context.observe(Event::ClaimLost);
            answer.or_winner(find_winner(context).await)
        }
        Ok(()) | Err(_) => Ok(answer),
    }
}

/// What a late owner answers instead of its own outcome.
async fn winner<L>(context: &Context) -> Result<Executed<L>, Error> {
    context.observe(Event::ClaimLost);
    let (outcome, expires_at) = find_winner(context).await?;
    Ok(Executed::Replayed { outcome, expires_at })
}

async fn find_winner(context: &Context) -> Result<(Outcome, Timestamp), Error> {
    let shared = context.shared();
    let record = shared.patiently(|| shared.store.get(context.id())).await;
    match record.map_err(Error::with_outcome_unknown)? {
        Some(Record { fingerprint, .. }) if fingerprint != context.fingerprint() => {
            Err(outcome_unknown("the claim was lost and the key has another payload by now"))
        }
        Some(Record { state: State::Completed { outcome, expires_at, .. }, .. }) => {
            Ok((outcome, expires_at))
        }
        Some(Record { state: State::InProgress { .. }, .. }) => {
            Err(in_flight(shared.settings.retry_after).with_outcome_unknown())
        }
        Some(Record { state: State::Held(hold), .. }) => {
            Err(outcome_unknown(&hold.detail).with_held())
        }
        Some(_) | None => Err(outcome_unknown("the claim was lost and no other has finished")),
    }
}

/// What a release gives back when the claim was lost.
trait OrWinner: Sized {
    fn or_winner(self, winner: Result<(Outcome, Timestamp), Error>) -> Result<Self, Error>;
}

impl<L> OrWinner for Executed<L> {
    fn or_winner(self, winner: Result<(Outcome, Timestamp), Error>) -> Result<Self, Error> {
        winner.map(|(outcome, expires_at)| Self::Replayed { outcome, expires_at })
    }
}

impl OrWinner for () {
    fn or_winner(self, winner: Result<(Outcome, Timestamp), Error>) -> Result<Self, Error> {
        winner.map(drop)
    }
}

/// Renews the lease until the claim is lost or the execution reaches its ceiling.
async fn keep_alive(context: &Context) {
    let shared = context.shared();
    let (clock, lease) = (&shared.clock, shared.settings.lease);
    let started = clock.now();
    let (beat, mut renewed_at) = (lease / 3, started);
    let mut pause = beat;
    loop {
        clock.sleep(pause).await;
        failpoint::pass("during_heartbeat");
        let now = clock.now();
        if now.since(started) >= shared.settings.execution_max {
            return context.lose_lease();
        }
        match context.renew(&context.renewal(None)).await {
            Ok(_) => (pause, renewed_at) = (beat, now),
            Err(error) if error.kind() == ErrorKind::ClaimLost => return context.lose_lease(),
            Err(error) => {
                context.observe(Event::StoreError { kind: error.kind() });
                // Still ours until somebody claims it; tell the handler once the lease is over,
                // and go on trying, because a renewal succeeds as long as nobody took over.
                if now.since(renewed_at) >= lease {
                    context.lose_lease();
                }
                pause = (beat / 4).max(Duration::from_millis(1));
            }
        }
    }
}

impl Shared {
    /// Repeats a write or read of the store while the store cannot be reached, at most for
    /// `store_patience`. Every write carries its fence, so repeating it is safe.
    pub(super) async fn patiently<'a, T>(
        &self,
        mut call: impl FnMut() -> BoxFuture<'a, Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = self.clock.now().after(self.settings.store_patience);
        let mut pause = Duration::from_millis(20);
        loop {
            let error = match call().await {
                Err(error) if error.kind() == ErrorKind::Unavailable => error,
                answer => return answer,
            };
            self.observer.event(&Event::StoreError { kind: error.kind() });
            if self.clock.now() >= deadline {
                return Err(error);
            }
            self.clock.sleep(rng::jitter(&*self.random, pause)).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}
