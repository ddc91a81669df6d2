//! The store for tests and single processes, and the simplest store that keeps all rules.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{BoxFuture, Clock, SystemClock, Timestamp};
use crate::error::{Error, ErrorKind};
use crate::protocol::{self, Change};
use crate::record::{Record, State};
use crate::scope::RecordId;
use crate::store::{
    AuditEntry, Capabilities, ClaimRequest, Claimed, Completion, Counts, Filter, Inspect, Release,
    Renewal, StateFilter, Store, Summary,
};

/// Takeovers of one record that are remembered, the latest ones.
const AUDIT_MAX: usize = 1000;

/// Keeps records in the memory of this process: gone when it ends, invisible to others.
///
/// Bounded: once it holds [`MemoryStore::with_records_max`] records (a million by default) and
/// none of them has expired, new keys get [`ErrorKind::Unavailable`].
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    records_max: usize,
    state: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    records: BTreeMap<RecordId, Record>,
    audit: BTreeMap<RecordId, Vec<AuditEntry>>,
    counter: u64,
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store on a clock of your own.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, records_max: 1_000_000, state: Mutex::default() }
    }

    /// Sets how many records the store may hold.
    #[must_use]
    pub fn with_records_max(mut self, records_max: usize) -> Self {
        self.records_max = records_max;
        self
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing panics while it holds the lock, and every step leaves valid data behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_now(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let now = self.clock.now();
        let mut shelf = self.shelf();
        let record = shelf.records.get(&request.id).cloned();
        if record.is_none() && shelf.records.len() >= self.records_max {
            shelf.sweep(usize::MAX, now);
            if shelf.records.len() >= self.records_max {
                let max = self.records_max;
                let message = format!("the memory store is full ({max} records, none expired)");
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        let counter = shelf.counter + 1;
        let mut used = shelf.counter;
        let (claimed, change) = protocol::claim(record, request, now, || {
            used = counter;
            counter
        });
        shelf.counter = used;
        shelf.apply(&request.id, change);
        if let (Claimed::Acquired { fence, .. }, Some(takeover)) = (&claimed, &request.takeover) {
            let entry = AuditEntry { at: now, fence: *fence, takeover: takeover.clone() };
            let entries = shelf.audit.entry(request.id.clone()).or_default();
            if entries.last().is_none_or(|last| last.fence != entry.fence) {
                entries.push(entry);
                let surplus = entries.len().saturating_sub(AUDIT_MAX);
                entries.drain(..surplus);
            }
            // Histories outlive their records; they are bounded like them.
            if shelf.audit.len() > self.records_max {
                shelf.audit.pop_first();
            }
        }
        Ok(claimed)
    }

    fn change<T>(
        &self,
        id: &RecordId,
        step: impl FnOnce(Option<Record>, Timestamp) -> Result<(T, Change), Error>,
    ) -> Result<T, Error> {
        let mut shelf = self.shelf();
        let record = shelf.records.get(id).cloned();
        let (answer, change) = step(record, self.clock.now())?;
        shelf.apply(id, change);
        Ok(answer)
    }
}

impl Shelf {
    fn apply(&mut self, id: &RecordId, change: Change) {
        match change {
            Change::Keep => {}
            Change::Put(record) => {
                self.records.insert(id.clone(), *record);
            }
            Change::Remove => {
                self.records.remove(id);
            }
        }
    }

    fn sweep(&mut self, limit: usize, now: Timestamp) -> usize {
        let expired = self.records.iter().filter(|(_, record)| protocol::is_expired(record, now));
        let ids: Vec<_> = expired.take(limit).map(|(id, _)| id.clone()).collect();
        for id in &ids {
            self.records.remove(id);
        }
        ids.len()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = self.shelf().records.len();
        f.debug_struct("MemoryStore").field("records", &records).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        Box::pin(async move { self.claim_now(request) })
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            self.change(&request.id, |record, now| protocol::renew(record, request, now))
        })
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            self.change(&request.id, |record, now| protocol::complete(record, request, now))
        })
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.change(&request.id, |record, now| {
                protocol::release(record, request, now).map(|change| ((), change))
            })
        })
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        Box::pin(async move {
            let now = self.clock.now();
            let record = self.shelf().records.get(id).cloned();
            Ok(record.filter(|record| !protocol::is_expired(record, now)))
        })
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            let now = self.clock.now();
            Ok(self.shelf().sweep(limit, now))
        })
    }
}

impl Inspect for MemoryStore {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>> {
        Box::pin(async move {
            let now = self.clock.now();
            let shelf = self.shelf();
            let behind = shelf.records.iter().filter(|(id, _)| after.is_none_or(|it| *id > it));
            let fitting = behind.filter(|(id, record)| matches(filter, id, record, now));
            Ok(fitting.take(limit).map(|(id, record)| Summary::of(id, record)).collect())
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>> {
        Box::pin(async move {
            let now = self.clock.now();
            let mut counts = Counts::default();
            for record in self.shelf().records.values() {
                match record.state {
                    State::Completed { .. } => counts.completed += 1,
                    State::Held(_) => counts.held += 1,
                    State::InProgress { lease_until } => {
                        counts.in_progress += 1;
                        counts.silent += u64::from(lease_until <= now);
                    }
                    State::Interrupted { .. } => counts.interrupted += 1,
                }
                counts.expired += u64::from(protocol::is_expired(record, now));
            }
            Ok(counts)
        })
    }

    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>> {
        Box::pin(async move {
            let shelf = self.shelf();
            let entries = shelf.audit.get(id).map(Vec::as_slice).unwrap_or_default();
            Ok(entries[entries.len().saturating_sub(limit)..].to_vec())
        })
    }

    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>> {
        Box::pin(async move {
            let shelf = self.shelf();
            let of_key = shelf.audit.iter().filter(|(id, _)| id.key.as_str() == key);
            let mut entries: Vec<_> = of_key
                .flat_map(|(id, entries)| entries.iter().map(|entry| (id.clone(), entry.clone())))
                .collect();
            entries.sort_by_key(|(_, entry)| entry.fence.counter);
            Ok(entries.split_off(entries.len().saturating_sub(limit)))
        })
    }
}

fn matches(filter: &Filter, id: &RecordId, record: &Record, now: Timestamp) -> bool {
    let named =
        |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let state = match (filter.state, &record.state) {
        (None, _) => true,
        (Some(StateFilter::Completed), State::Completed { expires_at, .. }) => *expires_at > now,
        (Some(StateFilter::Expired), State::InProgress { lease_until }) => *lease_until <= now,
        (Some(StateFilter::Held), State::Held(_))
        | (Some(StateFilter::InProgress), State::InProgress { .. })
        | (Some(StateFilter::Interrupted), State::Interrupted { .. }) => true,
        _ => false,
    };
    state
        && named(&filter.key, id.key.as_str())
        && named(&filter.tenant, id.tenant.as_str())
        && named(&filter.operation, id.operation.as_str())
}
