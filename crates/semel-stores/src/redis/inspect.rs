//! Looking around on the server.
//!
//! Open records (held, in progress, interrupted) are found through their shards. For completed ones
//! nothing is kept, because it would cost every completion: they are found by going through the
//! names of all keys on the server, about a second for each million of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::Value;
use semel::store::{AuditEntry, Counts, Filter, Inspect, StateFilter, Summary};
use semel::{BoxFuture, Error, ErrorKind, RecordId, Timestamp};

use super::RedisStore;
use super::audit;
use super::fault::Fault;
use super::lane::{What, offset_argument, parse};
use super::scan::Scan;
use super::script;
use super::wire;
use super::within::within;

/// No page is longer, whatever is asked for.
const PAGE_MAX: usize = 10_000;

/// Records that are read in one call.
const READ_MAX: usize = 100;

/// Shards that are counted in one call.
const SHARDS_MAX: usize = 128;

/// Keys after which counting completed records stops and the rest is estimated.
const SAMPLE: usize = 20_000;

impl Inspect for RedisStore {
    /// With a whole id, one record is read; with a state other than `Completed`, the open records;
    /// else the names of all keys on the server are gone through for every page.
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>> {
        within(&self.runtime, self.list_now(filter, after, limit.min(PAGE_MAX)))
    }

    /// Open records are counted exactly. Completed ones are, up to some 20,000 keys on the server;
    /// beyond it they are estimated from as many keys. Expired ones are deleted by Redis and never
    /// seen, so `expired` is 0.
    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>> {
        within(&self.runtime, self.count_now())
    }

    /// The latest 1000 decisions are kept for a key's text, all its scopes together.
    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>> {
        within(&self.runtime, async move {
            let entries = self.history(id.key.as_str()).await?;
            let mine = entries.into_iter().filter(|(of, _)| of == id).map(|(_, entry)| entry);
            Ok(latest(mine.collect(), limit))
        })
    }

    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>> {
        within(&self.runtime, async move {
            let entries = self.history(key).await?;
            Ok(latest(
                entries.into_iter().filter(|(of, _)| of.key.as_str() == key).collect(),
                limit,
            ))
        })
    }
}

fn latest<T>(mut entries: Vec<T>, limit: usize) -> Vec<T> {
    entries.split_off(entries.len().saturating_sub(limit))
}

impl RedisStore {
    async fn list_now(
        &self,
        filter: &Filter,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Result<Vec<Summary>, Error> {
        let mut page = Page { filter, after, limit, found: BTreeMap::new() };
        if let Some(record) = self.record_of(filter) {
            self.read(&[record], &mut page).await?;
        } else if let Some(range) = filter.state.and_then(open_range) {
            for shard in self.names.shards(filter.key.as_deref()) {
                let records = self.open_records(&shard, range).await?;
                self.read(&records, &mut page).await?;
            }
        } else {
            let mut scan = Scan::new(self, filter.key.as_deref()).await?;
            while let Some(records) = scan.next(self).await? {
                self.read(&records, &mut page).await?;
            }
        }
        Ok(page.found.into_values().collect())
    }

    /// The one record that the filter leaves.
    fn record_of(&self, filter: &Filter) -> Option<String> {
        let Filter { key: Some(key), tenant: Some(tenant), operation: Some(operation), .. } =
            filter
        else {
            return None;
        };
        let id = RecordId {
            tenant: semel::Tenant::new(tenant).ok()?,
            operation: semel::Operation::new(operation).ok()?,
            key: semel::Key::parse(key).ok()?,
        };
        Some(self.names.of(&id).record)
    }

    async fn open_records(&self, shard: &str, range: Range) -> Result<Vec<String>, Error> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(shard).arg(range.0).arg(range.1).arg("BYSCORE");
        let answer = self.link.ask_patiently(&command, &mut self.link.patience()).await?;
        let Value::Array(records) = answer else { return Err(self.unexpected("no list")) };
        // The shard's counter stands among them.
        let text = |record| match record {
            Value::BulkString(record) if record != b"fence" => String::from_utf8(record).ok(),
            _ => None,
        };
        Ok(records.into_iter().filter_map(text).collect())
    }

    /// Reads the records and puts those on the page that belong there.
    async fn read(&self, records: &[String], page: &mut Page<'_>) -> Result<(), Error> {
        let arguments = [
            offset_argument(&self.options.clock_offset),
            wire::SUMMARY_BYTES.to_string().into_bytes(),
        ];
        // In a cluster, a call must stay within one slot.
        let in_one_call = if self.link.is_cluster() { 1 } else { READ_MAX };
        for records in records.chunks(in_one_call) {
            let mut patience = self.link.patience();
            let answer =
                self.link.run_patiently(&script::READ, records, &arguments, &mut patience).await?;
            let seen = parse(answer).map_err(|fault| fault.into_error(self.server()))?;
            for (name, seen) in records.iter().zip(seen) {
                let seen = seen.map_err(|fault| fault.into_error(self.server()))?;
                if let What::Record(value) = seen.what {
                    page.add(name, &value, seen.now)?;
                }
            }
        }
        Ok(())
    }

    async fn count_now(&self) -> Result<Counts, Error> {
        let arguments = [offset_argument(&self.options.clock_offset)];
        let shards = self.names.shards(None);
        let in_one_call = if self.link.is_cluster() { 1 } else { SHARDS_MAX };
        let mut sums = [0; 4];
        for shards in shards.chunks(in_one_call) {
            let mut patience = self.link.patience();
            let answer =
                self.link.run_patiently(&script::COUNT, shards, &arguments, &mut patience).await?;
            let Value::Array(counts) = answer else { return Err(self.unexpected("no counts")) };
            for (sum, count) in sums.iter_mut().zip(counts) {
                if let Value::Int(count) = count {
                    *sum += u64::try_from(count).unwrap_or(0);
                }
            }
        }
        let [held, interrupted, in_progress, silent] = sums;
        let all = self.count_records().await?;
        let completed = all.saturating_sub(held + interrupted + in_progress);
        Ok(Counts { completed, expired: 0, held, in_progress, interrupted, silent })
    }

    /// How many records there are; estimated from a sample where there are many keys. Redis keeps
    /// keys in the order of a hash, so the first ones are as good a sample as any.
    async fn count_records(&self) -> Result<u64, Error> {
        let mut all = 0;
        for node in self.link.primaries().await? {
            let mut scan = Scan::of_node(self, node.clone());
            let (mut looked_at, mut found) = (0, 0);
            while let Some(records) = scan.next(self).await? {
                found += records.len() as u64;
                looked_at += Scan::STEP;
                if looked_at >= SAMPLE && !scan.is_over() {
                    let answer = self.link.ask_node_patiently(&node, &redis::cmd("DBSIZE")).await?;
                    let Value::Int(keys) = answer else { return Err(self.unexpected("no size")) };
                    let keys = u128::try_from(keys).unwrap_or(0);
                    let estimate = u128::from(found) * keys / looked_at as u128;
                    found = u64::try_from(estimate).unwrap_or(u64::MAX);
                    break;
                }
            }
            all += found;
        }
        Ok(all)
    }

    async fn history(&self, key: &str) -> Result<Vec<(RecordId, AuditEntry)>, Error> {
        let name = self.names.audit(key);
        let mut command = redis::cmd("LRANGE");
        command.arg(&name).arg(0).arg(-1);
        let answer = self.link.ask_patiently(&command, &mut self.link.patience()).await?;
        let Value::Array(entries) = answer else { return Err(self.unexpected("no list")) };
        let mut history = Vec::with_capacity(entries.len());
        for entry in entries {
            let Value::BulkString(entry) = entry else { return Err(self.unexpected("no text")) };
            history.push(audit::open(entry).map_err(|error| {
                let message = format!("an entry of the audit list {name} is damaged: {error}");
                Error::new(ErrorKind::Corrupt, message)
            })?);
        }
        Ok(history)
    }

    fn unexpected(&self, what: &str) -> Error {
        Fault::unexpected(what).of_a_question().into_error(self.server())
    }

    /// Redis deletes expired records by itself. Only records that have expired by a shifted test
    /// clock are left for us.
    pub(super) async fn sweep_now(&self, limit: usize) -> Result<usize, Error> {
        let offset = offset_argument(&self.options.clock_offset);
        let mut swept = 0;
        if offset == b"0" {
            return Ok(swept);
        }
        let mut scan = Scan::new(self, None).await?;
        while swept < limit
            && let Some(records) = scan.next(self).await?
        {
            for record in records {
                let left = (limit - swept).to_string().into_bytes();
                let (keys, arguments) = ([record], [offset.clone(), left]);
                let mut patience = self.link.patience();
                let answer =
                    self.link.run_patiently(&script::SWEEP, &keys, &arguments, &mut patience);
                swept += usize::from(answer.await? == Value::Int(1));
            }
        }
        Ok(swept)
    }
}

/// Scores in a shard.
type Range = (&'static str, &'static str);

/// Where a shard has the open records of a state; `None` for completed records.
const fn open_range(state: StateFilter) -> Option<Range> {
    match state {
        StateFilter::Completed => None,
        StateFilter::Held => Some(("-2", "-2")),
        StateFilter::Interrupted => Some(("-1", "-1")),
        StateFilter::Expired | StateFilter::InProgress => Some(("0", "+inf")),
    }
}

/// The smallest ids that fit, as they are found.
struct Page<'a> {
    filter: &'a Filter,
    after: Option<&'a RecordId>,
    limit: usize,
    found: BTreeMap<RecordId, Summary>,
}

impl Page<'_> {
    fn add(&mut self, name: &str, value: &Bytes, now: Timestamp) -> Result<(), Error> {
        let summary = wire::summary(name, value)?;
        if !self.fits(&summary, now) {
            return Ok(());
        }
        self.found.insert(summary.id.clone(), summary);
        if self.found.len() > self.limit {
            self.found.pop_last();
        }
        Ok(())
    }

    fn fits(&self, summary: &Summary, now: Timestamp) -> bool {
        let Filter { key, tenant, operation, state } = self.filter;
        let id = &summary.id;
        let named = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        let is_over = summary.deadline.is_some_and(|deadline| deadline <= now);
        let is_in_state = match (state, summary.state) {
            (None | Some(StateFilter::Completed), "completed") => !is_over,
            (Some(StateFilter::Expired), "in-progress") => is_over,
            (None, _)
            | (Some(StateFilter::Held), "held")
            | (Some(StateFilter::InProgress), "in-progress")
            | (Some(StateFilter::Interrupted), "interrupted") => true,
            _ => false,
        };
        is_in_state
            && self.after.is_none_or(|after| id > after)
            && named(key, id.key.as_str())
            && named(tenant, id.tenant.as_str())
            && named(operation, id.operation.as_str())
    }
}
