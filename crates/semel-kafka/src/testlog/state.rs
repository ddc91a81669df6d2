//! What the log is at one moment, and how it waits for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_listener::Event as Signal;
use futures_util::future::select;
use semel::{Clock, Timestamp};

use super::faults::Faults;
use super::groups::{Group, Topics};
use super::topics;
use crate::log::{Bounds, LogError, LogErrorKind, Position, TopicPartition};

#[derive(Debug)]
pub(super) struct Shared {
    clock: Arc<dyn Clock>,
    changed: Signal,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) topics: Topics,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    transactions: BTreeMap<Arc<str>, Transactional>,
    pub(super) faults: Faults,
    pub(super) down: bool,
    pub(super) limits: Limits,
    numbers: u64,
    /// Something happened that somebody may wait for.
    changed: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) record_bytes_max: usize,
    pub(super) batch_max: usize,
    pub(super) poll_interval_max: Duration,
}

/// What the log knows of a transactional id.
#[derive(Debug, Default)]
struct Transactional {
    epoch: u64,
    open: Option<Open>,
}

/// An open transaction.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) number: u64,
    deadline: Timestamp,
    pub(super) partitions: BTreeSet<TopicPartition>,
    pub(super) positions: BTreeMap<(Arc<str>, TopicPartition), i64>,
    /// Something of it failed: it can only be aborted.
    pub(super) spoiled: bool,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let limits = Limits {
            record_bytes_max: 1024 * 1024,
            batch_max: 500,
            poll_interval_max: Duration::from_secs(300),
        };
        let state = State {
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            transactions: BTreeMap::new(),
            faults: Faults::default(),
            down: false,
            limits,
            numbers: 0,
            changed: false,
        };
        Self { clock, changed: Signal::new(), state: Mutex::new(state) }
    }

    /// Does one step, after everything whose time had come before it.
    pub(super) fn with<T>(&self, step: impl FnOnce(&mut State, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let (answer, changed) = {
            // Nothing panics while it holds the lock, and every step leaves valid data behind.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.settle(now);
            let answer = step(&mut state, now);
            (answer, std::mem::take(&mut state.changed))
        };
        if changed {
            self.changed.notify(usize::MAX);
        }
        answer
    }

    /// Tries a step again with everything that happens until it has an answer.
    pub(super) async fn wait<T>(
        &self,
        mut step: impl FnMut(&mut State, Timestamp) -> Option<T>,
    ) -> T {
        loop {
            let changed = self.changed.listen();
            let (answer, left) = self.with(|state, now| {
                let answer = step(state, now);
                (answer, state.first_deadline().map(|deadline| deadline.since(now)))
            });
            match (answer, left) {
                (Some(answer), _) => return answer,
                (None, None) => changed.await,
                (None, Some(left)) => drop(select(changed, self.clock.sleep(left)).await),
            }
        }
    }

    /// The committed positions, once no open transaction is about to change them.
    pub(super) async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<i64>>, LogError> {
        self.wait(|state, _| match state.reachable() {
            Err(error) => Some(Err(error)),
            Ok(()) if state.is_pending(group, partitions) => None,
            Ok(()) => Some(Ok(state.committed(group, partitions))),
        })
        .await
    }
}

impl State {
    /// Tells those who wait.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn reachable(&self) -> Result<(), LogError> {
        if !self.down {
            return Ok(());
        }
        let message = "the test log is down; try again when the test has put it up";
        Err(LogError::new(LogErrorKind::Unavailable, message))
    }

    /// Ends what has waited too long: transactions first, then members.
    fn settle(&mut self, now: Timestamp) {
        let late = |it: &Transactional| it.open.as_ref().is_some_and(|open| open.deadline <= now);
        let ids: Vec<Arc<str>> =
            self.transactions.iter().filter(|(_, it)| late(it)).map(name).collect();
        for id in ids {
            self.fence(&id);
        }
        if self.down {
            return;
        }
        let patience = self.limits.poll_interval_max;
        for group in self.groups.values_mut() {
            for id in group.expired(patience, now) {
                group.give_up(id, &self.topics, now);
                self.changed = true;
            }
        }
    }

    fn first_deadline(&self) -> Option<Timestamp> {
        let transactions = self.transactions.values();
        let transactions = transactions.filter_map(|it| Some(it.open.as_ref()?.deadline));
        let patience = self.limits.poll_interval_max;
        let groups = self.groups.values().filter(|_| !self.down);
        let members = groups.filter_map(|group| group.first_deadline(patience));
        transactions.chain(members).min()
    }

    pub(super) fn bounds(&self, partition: &TopicPartition) -> Result<Bounds, LogError> {
        let topic = self.topics.get(&partition.topic);
        let found = topic.and_then(|topic| topic.partition(partition.partition));
        found.map(topics::Partition::bounds).ok_or_else(|| topics::unknown(partition))
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Vec<Option<i64>> {
        let group = self.groups.get(group);
        let committed = |partition| group.and_then(|group| group.committed.get(partition).copied());
        partitions.iter().map(committed).collect()
    }

    fn is_pending(&self, group: &str, partitions: &[TopicPartition]) -> bool {
        self.transactions.values().filter_map(|it| it.open.as_ref()).any(|open| {
            let mut pending = open.positions.keys();
            pending.any(|(name, partition)| &**name == group && partitions.contains(partition))
        })
    }

    /// Refuses positions that are in no partition.
    pub(super) fn check_positions(&self, positions: &[Position]) -> Result<(), LogError> {
        for Position { partition, next } in positions {
            self.bounds(partition)?;
            if *next < 0 {
                let message = format!("position {next} of {partition} is negative; give the next");
                return Err(LogError::new(LogErrorKind::Invalid, message));
            }
        }
        Ok(())
    }

    /// Runs a change of a group and tells those who wait when it began a generation.
    pub(super) fn change<T>(
        &mut self,
        group: &Arc<str>,
        change: impl FnOnce(&mut Group, &Topics) -> T,
    ) -> T {
        let group = self.groups.entry(Arc::clone(group)).or_default();
        let before = group.generation;
        let answer = change(group, &self.topics);
        self.changed |= group.generation != before;
        answer
    }

    /// Takes an id over: its open transaction is aborted and every producer so far is fenced.
    pub(super) fn fence(&mut self, id: &Arc<str>) -> u64 {
        self.end(id, false);
        let transactional = self.transactions.entry(Arc::clone(id)).or_default();
        transactional.epoch += 1;
        transactional.epoch
    }

    pub(super) fn epoch(&self, id: &str) -> u64 {
        self.transactions.get(id).map_or(0, |it| it.epoch)
    }

    pub(super) fn open(&mut self, id: &str) -> Option<&mut Open> {
        self.transactions.get_mut(id)?.open.as_mut()
    }

    pub(super) fn begin(&mut self, id: &Arc<str>, deadline: Timestamp) {
        let open = Open {
            number: self.number(),
            deadline,
            partitions: BTreeSet::new(),
            positions: BTreeMap::new(),
            spoiled: false,
        };
        self.transactions.entry(Arc::clone(id)).or_default().open = Some(open);
    }

    /// Ends an id's open transaction, if there is one.
    pub(super) fn end(&mut self, id: &str, commit: bool) {
        let Some(open) = self.transactions.get_mut(id).and_then(|it| it.open.take()) else {
            return;
        };
        for TopicPartition { topic, partition } in &open.partitions {
            let topic = self.topics.get_mut(topic);
            let at = usize::try_from(*partition).ok();
            if let Some(log) = topic.zip(at).and_then(|(it, at)| it.partitions.get_mut(at)) {
                log.decide(open.number, commit);
            }
        }
        if commit {
            for ((group, partition), next) in open.positions {
                self.groups.entry(group).or_default().committed.insert(partition, next);
            }
        }
        self.changed = true;
    }

    /// The transactional ids with an open transaction.
    pub(super) fn open_ids(&self) -> Vec<Arc<str>> {
        self.transactions.iter().filter(|(_, it)| it.open.is_some()).map(name).collect()
    }
}

fn name<T>((name, _): (&Arc<str>, T)) -> Arc<str> {
    Arc::clone(name)
}
