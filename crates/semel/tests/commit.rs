//! A commit whose answer is lost, for every state in which the record can then be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(dead_code, reason = "the support is shared with other tests")]

mod support;

use std::sync::Arc;

use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal};
use semel::{
    BoxFuture, Capabilities, Effect, Error, ErrorKind, Executed, Guard, Key, MemoryStore, Outcome,
    Record, RecordId, Store, Tenant, Timestamp, TransactionalStore, Verdict,
};
use support::{fingerprint, start};

/// Never answers a commit, which it may have done.
#[derive(Debug)]
struct Mute {
    records: MemoryStore,
    commits: bool,
}

impl Store for Mute {
    fn capabilities(&self) -> Capabilities {
        self.records.capabilities().transactional()
    }
    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        self.records.claim(request)
    }
    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.records.renew(request)
    }
    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.records.complete(request)
    }
    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        self.records.release(request)
    }
    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        self.records.get(id)
    }
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        self.records.sweep(limit)
    }
}

impl TransactionalStore for Mute {
    type Transaction = ();

    fn begin(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn commit<'a>(
        &'a self,
        (): (),
        completion: &'a Completion,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            if self.commits {
                self.records.complete(completion).await?;
            }
            Err(Error::new(ErrorKind::Unavailable, "no answer").with_outcome_unknown())
        })
    }

    fn commit_step<'a>(
        &'a self,
        (): (),
        renewal: &'a Renewal,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            if self.commits {
                self.records.renew(renewal).await?;
            }
            Err(Error::new(ErrorKind::Unavailable, "no answer").with_outcome_unknown())
        })
    }

    fn rollback(&self, (): ()) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

fn order(commits: bool) -> Result<Executed<()>, Error> {
    let store = Arc::new(Mute { records: MemoryStore::new(), commits });
    let guard = Guard::builder(store.clone());
    let guard = guard.operation("order").unwrap().effect(Effect::Transactional).build().unwrap();
    let ordered = start(async move {
        let (tenant, key) = (Tenant::single(), Key::parse("k").unwrap());
        let work = async |ctx: semel::Context| {
            let outcome = Outcome::json(Verdict::Succeeded, &"ordered").unwrap();
            ctx.commit(&*store, (), outcome, ()).await
        };
        guard.execute(&tenant, &key, fingerprint("one"), work).await
    });
    ordered.finish()
}

#[test]
fn a_finished_record_proves_the_commit() {
    assert!(matches!(order(true).unwrap(), Executed::Fresh { .. }));
}

#[test]
fn an_unfinished_record_proves_nothing_so_the_caller_hears_unknown() {
    assert!(matches!(order(false).unwrap(), Executed::Unknown { .. }));
}

fn stepped(commits: bool) -> Result<Executed<u32>, Error> {
    let store = Arc::new(Mute { records: MemoryStore::new(), commits });
    let guard = Guard::builder(store.clone());
    let guard = guard.operation("order").unwrap().effect(Effect::Transactional).build().unwrap();
    let ordered = start(async move {
        let (tenant, key) = (Tenant::single(), Key::parse("k").unwrap());
        let work = async |ctx: semel::Context| {
            let mut runs = 0;
            for _ in 0..2 {
                let step = ctx.step_in(&*store, "order", async |_: &mut (), _| {
                    runs += 1;
                    Ok::<_, semel::StepFailure>(runs)
                });
                if let Err(failure) = step.await {
                    return semel::Ending::Unknown { detail: failure.to_string(), live: runs };
                }
            }
            let outcome = Outcome::json(Verdict::Succeeded, &"ordered").unwrap();
            semel::Ending::Completed { outcome, live: runs }
        };
        guard.execute(&tenant, &key, fingerprint("one"), work).await
    });
    ordered.finish()
}

#[test]
fn a_stored_step_proves_its_commit_and_does_not_run_again() {
    assert!(matches!(stepped(true).unwrap(), Executed::Fresh { live: 1, .. }));
}

#[test]
fn a_missing_step_proves_nothing_so_the_attempt_ends_unknown() {
    assert!(matches!(stepped(false).unwrap(), Executed::Unknown { live: 1 }));
}
