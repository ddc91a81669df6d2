//! What the cases share: names nobody else uses, requests with defaults, and checks that answer
//! with a sentence.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use crate::clock::Timestamp;
use crate::effect::{Effect, OnUnknown};
use crate::error::{Error, ErrorKind};
use crate::fence::{Fence, Nonce};
use crate::fingerprint::{Fingerprint, FingerprintKey};
use crate::key::Key;
use crate::outcome::{Outcome, Verdict};
use crate::record::{Record, Step};
use crate::rng::{self, SystemRandom};
use crate::scope::{Operation, RecordId, Tenant};
use crate::store::{
    ClaimRequest, Claimed, Completion, Inspect, Release, ReleaseVerdict, Renewal, Store, Takeover,
};

pub(super) type Checked<T = ()> = Result<T, String>;

/// The mode of most cases.
pub(super) const RETRY: Effect = Effect::Foreign(OnUnknown::Retry);
pub(super) const HOLD: Effect = Effect::Foreign(OnUnknown::Hold);

pub(super) struct Kit<'a> {
    pub(super) harness: &'a dyn Harness,
    tenant: String,
    keys: AtomicU64,
}

impl<'a> Kit<'a> {
    pub(super) fn new(harness: &'a dyn Harness, case: &str) -> Self {
        let run = nonce().to_string();
        let tenant = format!("conformance-{}-{case}", &run[..12]);
        Self { harness, tenant, keys: AtomicU64::new(0) }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.harness.store()
    }

    pub(super) fn inspect(&self) -> Checked<Arc<dyn Inspect>> {
        self.harness.inspect().ok_or_else(|| "the harness has no Inspect".to_owned())
    }

    pub(super) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// A record nobody has used.
    pub(super) fn id(&self) -> RecordId {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        self.named(&self.tenant, "operation", &format!("key-{number}"))
    }

    pub(super) fn named(&self, tenant: &str, operation: &str, key: &str) -> RecordId {
        #[expect(clippy::expect_used, reason = "the suite's own names keep the rules")]
        let (tenant, operation, key) = (
            Tenant::new(tenant).expect("a tenant"),
            Operation::new(operation).expect("an operation"),
            Key::parse(key).expect("a key"),
        );
        RecordId { tenant, operation, key }
    }

    /// `units` of the suite's time.
    pub(super) fn units(&self, units: u32) -> Duration {
        self.harness.unit() * units
    }

    pub(super) async fn elapse(&self, units: u32) {
        self.harness.elapse(self.units(units)).await;
    }

    /// A claim with a lease of ten units.
    pub(super) fn request(&self, id: &RecordId, effect: Effect) -> ClaimRequest {
        ClaimRequest {
            id: id.clone(),
            fingerprint: payload("one"),
            effect,
            nonce: nonce(),
            lease: self.units(10),
            lost_leases_max: 3,
            key_age_max: None,
            takeover: None,
        }
    }

    pub(super) async fn claim(&self, id: &RecordId, effect: Effect) -> Checked<Claimed> {
        self.send(&self.request(id, effect)).await
    }

    pub(super) async fn send(&self, request: &ClaimRequest) -> Checked<Claimed> {
        self.store().claim(request).await.map_err(|error| format!("claim failed: {error}"))
    }

    pub(super) async fn acquire(&self, id: &RecordId, effect: Effect) -> Checked<Fence> {
        acquired(self.claim(id, effect).await?)
    }

    pub(super) async fn complete(
        &self,
        id: &RecordId,
        fence: Fence,
        outcome: Outcome,
    ) -> Result<Timestamp, Error> {
        let retention = self.units(100);
        self.store().complete(&Completion { id: id.clone(), fence, outcome, retention }).await
    }

    pub(super) async fn finish(&self, id: &RecordId, outcome: Outcome) -> Checked<Fence> {
        let fence = self.acquire(id, RETRY).await?;
        self.complete(id, fence, outcome).await.map_err(|error| format!("complete: {error}"))?;
        Ok(fence)
    }

    pub(super) async fn renew(
        &self,
        id: &RecordId,
        fence: Fence,
        step: Option<Step>,
    ) -> Result<Timestamp, Error> {
        let lease = self.units(10);
        self.store().renew(&Renewal { id: id.clone(), fence, lease, step }).await
    }

    pub(super) async fn release(
        &self,
        id: &RecordId,
        fence: Fence,
        verdict: ReleaseVerdict,
    ) -> Result<(), Error> {
        self.store().release(&Release { id: id.clone(), fence, verdict }).await
    }

    pub(super) async fn take_over(&self, id: &RecordId, takeover: Takeover) -> Checked<Claimed> {
        let mut request = self.request(id, RETRY);
        request.takeover = Some(takeover);
        self.send(&request).await
    }

    pub(super) async fn get(&self, id: &RecordId) -> Checked<Option<Record>> {
        self.store().get(id).await.map_err(|error| format!("get failed: {error}"))
    }

    pub(super) async fn record(&self, id: &RecordId) -> Checked<Record> {
        self.get(id).await?.ok_or_else(|| "the record is absent".to_owned())
    }
}

pub(super) fn nonce() -> Nonce {
    #[expect(clippy::expect_used, reason = "a machine without randomness cannot run the suite")]
    rng::nonce(&SystemRandom).expect("randomness")
}

pub(super) fn payload(text: &str) -> Fingerprint {
    #[expect(clippy::expect_used, reason = "the secret is long enough")]
    let key = FingerprintKey::from_secret(b"conformance suite").expect("a secret");
    key.fingerprint().part(text.as_bytes()).finish()
}

pub(super) fn outcome(body: &[u8]) -> Outcome {
    Outcome {
        verdict: Verdict::Succeeded,
        format: "conformance/1".to_owned(),
        head: Bytes::from_static(&[0, 159, 146, 150, 255]),
        body: Bytes::copy_from_slice(body),
    }
}

pub(super) fn step(name: &str, result: &'static [u8]) -> Step {
    Step { name: name.to_owned(), result: Bytes::from_static(result) }
}

pub(super) fn unknown(detail: &str) -> ReleaseVerdict {
    ReleaseVerdict::Unknown(detail.to_owned())
}

pub(super) fn acquired(claimed: Claimed) -> Checked<Fence> {
    match claimed {
        Claimed::Acquired { fence, .. } => Ok(fence),
        other => Err(format!("expected Acquired, saw {other:?}")),
    }
}

pub(super) fn check(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[expect(clippy::needless_pass_by_value, reason = "reads better at the call")]
pub(super) fn same<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Checked {
    if seen == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, saw {seen:?}"))
}

/// The answer that a claim without ownership must get to every write.
pub(super) fn lost<T: Debug>(what: &str, answer: Result<T, Error>) -> Checked {
    match answer {
        Err(error) if error.kind() == ErrorKind::ClaimLost => Ok(()),
        other => Err(format!("{what}: expected ClaimLost, saw {other:?}")),
    }
}

pub(super) fn done<T>(what: &str, answer: Result<T, Error>) -> Checked<T> {
    answer.map_err(|error| format!("{what} failed: {error} ({:?})", error.kind()))
}

/// Runs all futures at once on this task.
pub(super) async fn together<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|it| (Box::pin(it), None)).collect();
    poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Pending => pending = true,
                    Poll::Ready(ready) => *output = Some(ready),
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
