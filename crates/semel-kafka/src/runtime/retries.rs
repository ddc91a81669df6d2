//! Retry topics: what is parked there, and who has to follow.
//!
//! # Rules
//!
//! 1. The owner of a partition alone writes to its companion, the same partition of the retry
//!    topic, and alone reads it. So it knows what is there once it has read it to the end.
//! 2. Until it knows, nothing of the partition is handled.
//! 3. A record whose key has an unfinished record in the companion goes there as well.
//! 4. The end must be one that no transaction of an earlier owner can move: with what was open
//!    when the partition came, the end is waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use semel::{Clock, Error, Timestamp};

use super::ended_by;
use super::entry::Entry;
use crate::log::{
    Delivered, Log, LogError, LogReader, Outgoing, Position, Read, Record, TopicPartition,
};
use crate::options::ConsumerOptions;
use crate::rejected::{Poison, Reason, Rejected, RetryTopics, retry_letter, unpark};

/// Between two looks at an end that open transactions hide.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What to do with a record that is next in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Handle,
    /// It goes to the retry topic, behind an earlier record of its key.
    Follow,
    /// Neither can be done now.
    Wait,
}

/// The retry topics of a consumer.
#[derive(Debug)]
pub(super) struct Retries {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    group: String,
    poison: Poison,
    rule: RetryTopics,
    reader: Box<dyn LogReader>,
    /// Topics that have a retry topic which is large enough.
    checked: BTreeSet<Arc<str>>,
    /// By the partition that is the source.
    sides: BTreeMap<TopicPartition, Side>,
    next_look: Timestamp,
}

#[derive(Debug)]
struct Side {
    stage: Stage,
    /// The last unfinished record of each key in the companion.
    parked: HashMap<Bytes, i64>,
    unfinished: BTreeSet<i64>,
}

/// How much is known of a companion.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Its end is hidden by open transactions.
    Hidden {
        from: i64,
        end: i64,
    },
    Reading,
    Known,
}

impl Retries {
    /// None where nothing is moved to retry topics.
    pub(super) fn new(
        options: &ConsumerOptions,
        log: &Arc<dyn Log>,
    ) -> Result<Option<Self>, Error> {
        let Some(rule) = options.poison.retry_topics.clone() else { return Ok(None) };
        Ok(Some(Self {
            reader: log.reader().map_err(ended_by)?,
            log: Arc::clone(log),
            clock: Arc::clone(&options.clock),
            group: options.group.clone(),
            poison: options.poison.clone(),
            rule,
            checked: BTreeSet::new(),
            sides: BTreeMap::new(),
            next_look: Timestamp::default(),
        }))
    }

    pub(super) fn companion(&self, source: &TopicPartition) -> TopicPartition {
        let topic = format!("{}{}", source.topic, self.rule.suffix);
        TopicPartition::new(topic, source.partition)
    }

    pub(super) fn companions(&self, sources: &[TopicPartition]) -> Vec<TopicPartition> {
        sources.iter().map(|source| self.companion(source)).collect()
    }

    pub(super) fn source(&self, companion: &TopicPartition) -> Option<TopicPartition> {
        let topic = companion.topic.strip_suffix(&*self.rule.suffix)?;
        Some(TopicPartition::new(topic, companion.partition))
    }

    /// Begins to read the companions of these partitions from there, forgetting what was known.
    pub(super) async fn take(
        &mut self,
        sources: &[TopicPartition],
        starts: &[Option<i64>],
    ) -> Result<(), LogError> {
        for (source, start) in sources.iter().zip(starts) {
            self.check(source).await?;
            let companion = self.companion(source);
            let bounds = self.log.bounds(&companion).await?;
            let from = start.unwrap_or(bounds.low).max(bounds.low);
            let stage = if bounds.stable < bounds.high {
                Stage::Hidden { from, end: bounds.high }
            } else {
                self.reader.start(vec![Position { partition: companion, next: from }]).await?;
                if from >= bounds.high { Stage::Known } else { Stage::Reading }
            };
            let side = Side { stage, parked: HashMap::new(), unfinished: BTreeSet::new() };
            self.sides.insert(source.clone(), side);
        }
        Ok(())
    }

    /// A retry topic with fewer partitions could not hold what belongs together.
    async fn check(&mut self, source: &TopicPartition) -> Result<(), LogError> {
        if self.checked.contains(&source.topic) {
            return Ok(());
        }
        let topic = self.companion(source).topic;
        let wanted = self.log.partitions(&source.topic).await?.unwrap_or(0);
        let found = self.log.partitions(&topic).await?;
        if found.unwrap_or(0) < wanted {
            let found = found.map_or_else(
                || "does not exist".to_owned(),
                |found| format!("has {found} partitions, fewer than `{}`", source.topic),
            );
            let message = format!(
                "the retry topic `{topic}` {found}; create it with at least {wanted} partitions"
            );
            return Err(LogError::new(crate::log::LogErrorKind::Invalid, message));
        }
        self.checked.insert(Arc::clone(&source.topic));
        Ok(())
    }

    /// Looks again at ends that were hidden, if it is time.
    pub(super) async fn look(&mut self) -> Result<(), LogError> {
        let now = self.clock.now();
        if now < self.next_look {
            return Ok(());
        }
        self.next_look = now.after(LOOK_EVERY);
        for source in self.sides.keys().cloned().collect::<Vec<_>>() {
            let companion = self.companion(&source);
            let Some(side) = self.sides.get_mut(&source) else { continue };
            let Stage::Hidden { from, end } = side.stage else { continue };
            if self.log.bounds(&companion).await?.stable >= end {
                self.reader.start(vec![Position { partition: companion, next: from }]).await?;
                side.stage = Stage::Reading;
            }
        }
        Ok(())
    }

    /// When to look again; none where nothing is hidden.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        let is_hidden = |side: &Side| matches!(side.stage, Stage::Hidden { .. });
        self.sides.values().any(is_hidden).then_some(self.next_look)
    }

    /// These partitions are somebody else's.
    pub(super) async fn let_go(&mut self, sources: &[TopicPartition]) -> Result<(), LogError> {
        for source in sources {
            self.sides.remove(source);
        }
        self.reader.stop(self.companions(sources)).await
    }

    pub(super) fn is_taken(&self, source: &TopicPartition) -> bool {
        self.sides.contains_key(source)
    }

    pub(super) async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        match self.reader.next().await? {
            Read::Records(records) => {
                Ok(records.into_iter().filter_map(|record| self.arrived(record)).collect())
            }
            Read::End(companion) => {
                let source = self.source(&companion);
                if let Some(side) = source.and_then(|source| self.sides.get_mut(&source))
                    && side.stage == Stage::Reading
                {
                    side.stage = Stage::Known;
                }
                Ok(Vec::new())
            }
        }
    }

    fn arrived(&mut self, record: Record) -> Option<Entry> {
        let (at, offset) = (record.partition.clone(), record.offset);
        let source = self.source(&at)?;
        let side = self.sides.get_mut(&source)?;
        side.unfinished.insert(offset);
        if let Some(key) = &record.key {
            let last = side.parked.entry(key.clone()).or_default();
            *last = offset.max(*last);
        }
        let (record, attempts) = unpark(&source, record);
        let not_before = match attempts {
            0 => Timestamp::default(),
            _ => self.clock.now().after(self.poison.pause_after(attempts)),
        };
        Some(Entry { at, offset, attempts, not_before, record: Arc::new(record) })
    }

    pub(super) fn gate(&self, entry: &Entry) -> Gate {
        let Some(side) = self.sides.get(&entry.at) else {
            // Of a companion; or nothing is known yet.
            return if entry.at.topic.ends_with(&self.rule.suffix) {
                Gate::Handle
            } else {
                Gate::Wait
            };
        };
        let is_parked = entry.record.key.as_ref().is_some_and(|key| side.parked.contains_key(key));
        match side.stage {
            Stage::Hidden { .. } | Stage::Reading => Gate::Wait,
            Stage::Known if !is_parked => Gate::Handle,
            Stage::Known if self.has_room(side) => Gate::Follow,
            Stage::Known => Gate::Wait,
        }
    }

    fn has_room(&self, side: &Side) -> bool {
        side.unfinished.len() < self.rule.backlog_max
    }

    /// Whether a record that has failed so often goes to the retry topic.
    pub(super) fn takes(&self, entry: &Entry, attempts: u32) -> bool {
        let side = self.sides.get(&entry.at);
        attempts >= self.rule.after && side.is_some_and(|side| self.has_room(side))
    }

    pub(super) fn letter(&self, entry: &Entry, rejected: &Rejected, attempts: u32) -> Outgoing {
        let companion = self.companion(&entry.at);
        retry_letter(&companion, &self.group, &entry.record, rejected, attempts)
    }

    /// The letter of a record that has to follow an earlier one.
    pub(super) fn following(&self, entry: &Entry) -> Outgoing {
        let detail = "an earlier record of its key is in the retry topic";
        self.letter(entry, &Rejected::for_now(Reason::Follows, detail), entry.attempts)
    }

    /// A record is in the retry topic now.
    pub(super) fn parked(&mut self, entry: &Entry, delivered: &Delivered) {
        let Some(side) = self.sides.get_mut(&entry.at) else { return };
        side.unfinished.insert(delivered.offset);
        if let Some(key) = entry.record.key.clone() {
            let last = side.parked.entry(key).or_default();
            *last = delivered.offset.max(*last);
        }
    }

    /// A record of the retry topic is done with.
    pub(super) fn finished(&mut self, entry: &Entry) {
        let Some(source) = self.source(&entry.at) else { return };
        let Some(side) = self.sides.get_mut(&source) else { return };
        side.unfinished.remove(&entry.offset);
        if let Some(key) = &entry.record.key
            && side.parked.get(key) == Some(&entry.offset)
        {
            side.parked.remove(key);
        }
    }
}

/// What the reader of retry topics says next; nothing where there is none.
pub(super) async fn next(retries: &mut Option<Retries>) -> Result<Vec<Entry>, LogError> {
    match retries {
        Some(retries) => retries.next().await,
        None => std::future::pending().await,
    }
}
