//! The operations of [`semel::Store`]: the hot ones as one call of their script, the others as a
//! decision of [`semel::protocol`] and a compare-and-set.

use bytes::Bytes;
use redis::Value;
use semel::protocol::{self, Change};
use semel::store::{ClaimRequest, Claimed, Completion, Release, ReleaseVerdict, Renewal};
use semel::{Error, Fence, Record, RecordId, State, Timestamp, envelope};

use super::RedisStore;
use super::audit;
use super::fault::Fault;
use super::lane::{self, Op, Seen, What, offset_argument};
use super::link::Patience;
use super::names::Places;
use super::script;
use super::wire::{self, DURATION_MS_MAX, NUMBER_MAX};

/// A decision about a record that was read.
struct Decision<T> {
    answer: T,
    change: Change,
    /// The claim is a new one and needs a counter.
    is_new_claim: bool,
    /// What the takeover leaves in the history, still without its counter.
    audit: Vec<u8>,
}

impl<T> Decision<T> {
    fn of((answer, change): (T, Change)) -> Self {
        Self { answer, change, is_new_claim: false, audit: Vec::new() }
    }
}

/// What became of a compare-and-set.
enum Put {
    Written { counter: u64 },
    Overtaken(Seen),
}

impl RedisStore {
    pub(super) async fn claim_now(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let places = self.names.of(&request.id);
        let mut patience = self.link.patience();
        let record = wire::Names { fingerprint: request.fingerprint, attempts: 1, lost_leases: 0 };
        let op = Op {
            keys: vec![places.record.clone(), places.shard.clone()],
            arguments: vec![
                request.nonce.as_bytes().to_vec(),
                vec![wire::effect_code(request.effect)],
                wire::claim_checksum(&request.nonce, request.effect).to_string().into_bytes(),
                millis(request.lease),
                insert_before(request).to_string().into_bytes(),
                wire::names(&request.id, &record),
            ],
        };
        let seen = self.claims.submit(op, &mut patience).await?;
        if let What::Done(counter) = seen.what {
            let fence = Fence { counter, nonce: request.nonce };
            let lease_until = seen.now.after(request.lease);
            return Ok(Claimed::Acquired { fence, lease_until, steps: Vec::new(), attempts: 1 });
        }
        let decide = |record: Option<Record>, now, _| {
            let mut is_new_claim = false;
            let (answer, change) = protocol::claim(record, request, now, || {
                is_new_claim = true;
                0
            });
            let audit = match &request.takeover {
                Some(takeover) if is_new_claim => audit::entry(request, takeover, now),
                _ => Vec::new(),
            };
            Ok(Decision { answer, change, is_new_claim, audit })
        };
        let (mut claimed, counter) =
            self.decide(&request.id, &places, seen, &mut patience, decide).await?;
        if let (Claimed::Acquired { fence, .. }, Some(counter)) = (&mut claimed, counter) {
            fence.counter = counter;
        }
        Ok(claimed)
    }

    pub(super) async fn renew_now(&self, request: &Renewal) -> Result<Timestamp, Error> {
        let places = self.names.of(&request.id);
        let mut patience = self.link.patience();
        let seen = if request.step.is_some() {
            self.look(&places, &mut patience).await?
        } else {
            let op = Op {
                keys: vec![places.record.clone(), places.shard.clone()],
                arguments: vec![wire::fence_bytes(&request.fence).to_vec(), millis(request.lease)],
            };
            self.renewals.submit(op, &mut patience).await?
        };
        if let What::Done(until) = seen.what {
            return Ok(Timestamp::from_millis(until));
        }
        let decide = |record, now, _| protocol::renew(record, request, now).map(Decision::of);
        Ok(self.decide(&request.id, &places, seen, &mut patience, decide).await?.0)
    }

    pub(super) async fn complete_now(&self, request: &Completion) -> Result<Timestamp, Error> {
        let places = self.names.of(&request.id);
        let mut patience = self.link.patience();
        let op = Op {
            keys: vec![places.record.clone(), places.shard.clone()],
            arguments: vec![
                wire::fence_bytes(&request.fence).to_vec(),
                millis(request.retention),
                wire::bounded(envelope::seal_outcome(&request.outcome))?,
            ],
        };
        let seen = self.completions.submit(op, &mut patience).await?;
        if let What::Done(expires_at) = seen.what {
            return Ok(Timestamp::from_millis(expires_at));
        }
        let decide = |record, now, _| protocol::complete(record, request, now).map(Decision::of);
        Ok(self.decide(&request.id, &places, seen, &mut patience, decide).await?.0)
    }

    pub(super) async fn release_now(&self, request: &Release) -> Result<(), Error> {
        let places = self.names.of(&request.id);
        let mut patience = self.link.patience();
        let seen = match &request.verdict {
            ReleaseVerdict::Hold(_) | ReleaseVerdict::Unknown(_) => {
                self.look(&places, &mut patience).await?
            }
            ReleaseVerdict::NotApplied => {
                let op = Op {
                    keys: vec![places.record.clone(), places.shard.clone()],
                    arguments: vec![wire::fence_bytes(&request.fence).to_vec()],
                };
                self.releases.submit(op, &mut patience).await?
            }
        };
        if let What::Done(_) = seen.what {
            return Ok(());
        }
        let decide = |record: Option<Record>, now, is_resent| {
            // The first release's answer was lost; this is what it left behind.
            if is_resent && is_released(record.as_ref(), request) {
                return Ok(Decision::of(((), Change::Keep)));
            }
            let change = protocol::release(record, request, now)?;
            Ok(Decision::of(((), change)))
        };
        self.decide(&request.id, &places, seen, &mut patience, decide).await.map(drop)
    }

    pub(super) async fn get_now(&self, id: &RecordId) -> Result<Option<Record>, Error> {
        let places = self.names.of(id);
        let Seen { now, what } = self.look(&places, &mut self.link.patience()).await?;
        let record = match what {
            What::Record(value) => Some(wire::open(id, &places.record, &value)?.record),
            What::Absent | What::Done(_) => None,
        };
        Ok(record.filter(|record| !protocol::is_expired(record, now)))
    }

    /// Reads the record and the time.
    async fn look(&self, places: &Places, patience: &mut Patience<'_>) -> Result<Seen, Error> {
        let offset = offset_argument(&self.options.clock_offset);
        let (keys, arguments) = ([&*places.record], [&*offset, &[]]);
        loop {
            let answers = lane::ask(&self.link, &script::READ, &keys, &arguments).await;
            let seen = answers.and_then(|mut seen| {
                seen.pop().unwrap_or_else(|| Err(Fault::unexpected("too few answers")))
            });
            match seen {
                Ok(seen) => return Ok(seen),
                // Whether a read happened matters to nobody.
                Err(fault) => patience.after(fault.of_a_question()).await?,
            }
        }
    }

    /// Decides about what was seen and writes it, again if the record has changed meanwhile.
    /// `decide` also hears whether an earlier attempt may have had its effect. Also returns the
    /// counter if the claim got a new one.
    async fn decide<T>(
        &self,
        id: &RecordId,
        places: &Places,
        mut seen: Seen,
        patience: &mut Patience<'_>,
        decide: impl Fn(Option<Record>, Timestamp, bool) -> Result<Decision<T>, Error>,
    ) -> Result<(T, Option<u64>), Error> {
        loop {
            let stored = match &seen.what {
                What::Record(value) => Some(wire::open(id, &places.record, value)?),
                What::Absent | What::Done(_) => None,
            };
            let version = stored.as_ref().map_or([0; 32], |stored| stored.version);
            let record = stored.map(|stored| stored.record);
            let decision = decide(record, seen.now, patience.maybe_done)
                .map_err(|error| patience.mark(error))?;
            if decision.change == Change::Keep {
                return Ok((decision.answer, None));
            }
            let is_new_claim = decision.is_new_claim;
            match self.put(id, places, &version, &decision, patience).await? {
                Put::Written { counter } => {
                    return Ok((decision.answer, is_new_claim.then_some(counter)));
                }
                Put::Overtaken(by) => seen = by,
            }
            patience.once_more()?;
        }
    }

    async fn put<T>(
        &self,
        id: &RecordId,
        places: &Places,
        version: &[u8; 32],
        decision: &Decision<T>,
        patience: &mut Patience<'_>,
    ) -> Result<Put, Error> {
        let sealed = match &decision.change {
            Change::Put(record) => Some(wire::seal(id, record, version)?),
            Change::Keep | Change::Remove => None,
        };
        let (head, rest, score) =
            sealed.map_or_else(Default::default, |it| (it.head, it.rest, it.score));
        let arguments = [
            offset_argument(&self.options.clock_offset),
            self.names.changed().into_bytes(),
            version.to_vec(),
            head,
            rest,
            u8::from(decision.is_new_claim).to_string().into_bytes(),
            score.map(|score| score.to_string().into_bytes()).unwrap_or_default(),
            decision.audit.clone(),
        ];
        let audit = self.names.audit(id.key.as_str());
        let keys = [&places.record, &places.shard, &audit];
        let answer = self.link.run_patiently(&script::PUT, &keys, &arguments, patience).await?;
        put_of(answer).map_err(|fault| patience.mark(fault.into_error(self.link.server())))
    }
}

fn put_of(answer: Value) -> Result<Put, Fault> {
    let Value::Array(answer) = answer else { return Err(Fault::unexpected("no list")) };
    match &answer[..] {
        [Value::Int(1), Value::Int(counter)] => {
            Ok(Put::Written { counter: u64::try_from(*counter).unwrap_or(0) })
        }
        [Value::Int(now), value] => {
            let now = Timestamp::from_millis(u64::try_from(*now).unwrap_or(0));
            let what = match value {
                Value::Nil => What::Absent,
                Value::BulkString(record) => What::Record(Bytes::copy_from_slice(record)),
                _ => return Err(Fault::unexpected("an unknown type")),
            };
            Ok(Put::Overtaken(Seen { now, what }))
        }
        _ => Err(Fault::unexpected("an unknown list")),
    }
}

/// Whether the record is what this release leaves behind.
fn is_released(record: Option<&Record>, request: &Release) -> bool {
    match (record, &request.verdict) {
        (None, ReleaseVerdict::NotApplied) => true,
        (Some(record), ReleaseVerdict::Unknown(_)) => {
            record.fence == request.fence && matches!(record.state, State::Interrupted { .. })
        }
        _ => false,
    }
}

/// Until when the script may take a record that is absent for a new key. `protocol` decides about
/// the others, with the same clock.
fn insert_before(request: &ClaimRequest) -> u64 {
    if request.takeover.is_some() {
        return 0;
    }
    match (request.key_age_max, request.id.key.minted_at()) {
        (Some(age_max), Some(minted_at)) => minted_at.after(age_max).as_millis().min(NUMBER_MAX),
        _ => NUMBER_MAX,
    }
}

fn millis(duration: std::time::Duration) -> Vec<u8> {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(DURATION_MS_MAX);
    millis.min(DURATION_MS_MAX).to_string().into_bytes()
}
