//! What lanes say to their group and to the log.

use semel::{BoxFuture, Error};

use super::super::entry::Entry;
use super::super::{UNREACHED_PAUSE, ended_by};
use super::{Job, LaneKey, Lanes, Part, Within};
use crate::failpoint;
use crate::log::{Event, LogError, LogErrorKind, Position, Record, TopicPartition};
use crate::options::Order;

impl<J: Job> Lanes<'_, J> {
    pub(super) async fn react(&mut self, event: Result<Event, LogError>) -> Result<(), Error> {
        match event {
            Ok(Event::Assigned(partitions)) => {
                for partition in &partitions {
                    self.parts.insert(partition.clone(), Part::default());
                }
                for companion in self.companions(&partitions) {
                    let part = Part { is_companion: true, ..Part::default() };
                    self.parts.insert(companion, part);
                }
                self.meter.assigned(self.owned());
                self.assign().await
            }
            Ok(Event::Revoked(partitions)) => {
                failpoint::pass("kafka:revoked");
                let mut all = self.companions(&partitions);
                all.extend(partitions.iter().cloned());
                self.drain(&all).await?;
                self.commit(&all).await;
                self.part_with(partitions).await
            }
            Ok(Event::Lost(partitions)) => {
                tracing::warn!(?partitions, "the group gave this member up");
                self.part_with(partitions).await
            }
            Ok(Event::Records(records)) => self.store(records).await,
            Err(error) if error.kind() == LogErrorKind::Fenced => Err(ended_by(error)),
            Err(error) if error.kind() == LogErrorKind::Invalid => Err(ended_by(error)),
            Err(error) => {
                tracing::warn!(%error, "the log cannot be read just now");
                self.options.clock.sleep(UNREACHED_PAUSE).await;
                Ok(())
            }
        }
    }

    /// Answers the group about the partitions of which it has not heard; done again with every
    /// tick.
    pub(super) async fn assign(&mut self) -> Result<(), Error> {
        let taken = self.take().await;
        self.passing(|_| Box::pin(async { taken })).await?;
        let unheard = self.parts.iter().filter(|(_, part)| !part.is_assigned && !part.is_companion);
        let unheard: Vec<_> = unheard.map(|(partition, _)| (partition.clone(), None)).collect();
        if unheard.is_empty() {
            return Ok(());
        }
        match self.consumer.assign(unheard.clone()).await {
            Ok(()) => {
                for (partition, _) in unheard {
                    if let Some(part) = self.parts.get_mut(&partition) {
                        part.is_assigned = true;
                    }
                }
                Ok(())
            }
            Err(error) => self.passing(|_| Box::pin(async { Err(error) })).await,
        }
    }

    /// Begins to read the retry topics of partitions that are new here. Until that is done their
    /// records are held.
    pub(super) async fn take(&mut self) -> Result<(), LogError> {
        let Some(retries) = &mut self.retries else { return Ok(()) };
        let new =
            self.parts.iter().filter(|(it, part)| !part.is_companion && !retries.is_taken(it));
        let sources: Vec<_> = new.map(|(partition, _)| partition.clone()).collect();
        if sources.is_empty() {
            return Ok(());
        }
        let companions = retries.companions(&sources);
        let starts = self.consumer.committed(companions).await?;
        retries.take(&sources, &starts).await?;
        self.ready.extend(self.held.drain(..));
        Ok(())
    }

    pub(super) fn companions(&self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        self.retries.as_ref().map_or_else(Vec::new, |retries| retries.companions(partitions))
    }

    /// How many partitions the group has given to this member.
    pub(super) fn owned(&self) -> usize {
        self.parts.values().filter(|part| !part.is_companion).count()
    }

    /// A call whose failure the next tick or the group's next event mends.
    pub(super) async fn passing<'s>(
        &'s mut self,
        call: impl FnOnce(&'s mut Self) -> BoxFuture<'s, Result<(), LogError>>,
    ) -> Result<(), Error> {
        match call(self).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == LogErrorKind::Fenced => Err(ended_by(error)),
            Err(error) if error.kind() == LogErrorKind::Invalid => Err(ended_by(error)),
            Err(error) => {
                tracing::warn!(%error, "the group is not answered");
                Ok(())
            }
        }
    }

    pub(super) async fn part_with(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Error> {
        for partition in partitions.iter().chain(&self.companions(&partitions)) {
            self.empty(partition);
            self.parts.remove(partition);
        }
        if let Some(retries) = &mut self.retries {
            let parted = retries.let_go(&partitions).await;
            self.passing(|_| Box::pin(async { parted })).await?;
        }
        self.meter.assigned(self.owned());
        self.passing(|it| Box::pin(it.consumer.unassign(partitions))).await?;
        self.resume_if_there_is_room().await
    }

    pub(super) async fn store(&mut self, records: Vec<Record>) -> Result<(), Error> {
        for record in records {
            if self.put(Entry::new(record)) {
                self.buffered += 1;
            }
        }
        self.meter.buffered(self.buffered);
        let is_full = self.buffered >= self.options.buffer_max;
        let mut full = Vec::new();
        for (partition, part) in &mut self.parts {
            let is_over = is_full && !part.pending.is_empty();
            let is_over = is_over || part.ahead() >= self.options.ahead_max;
            if !part.is_paused && !part.is_companion && is_over {
                part.is_paused = true;
                full.push(partition.clone());
            }
        }
        if full.is_empty() {
            return Ok(());
        }
        self.passing(|it| Box::pin(it.consumer.pause(full))).await
    }

    pub(super) fn store_parked(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.put(entry);
        }
        // The end of a retry topic may have been told.
        self.ready.extend(self.held.drain(..));
    }

    /// Puts a record into its lane; false when it is not wanted.
    pub(super) fn put(&mut self, entry: Entry) -> bool {
        let Some(part) = self.parts.get_mut(&entry.at) else { return false };
        if part.is_stopped || part.read.is_some_and(|read| entry.offset < read) {
            return false;
        }
        part.read = Some(entry.offset + 1);
        part.pending.insert(entry.offset);
        let (key, not_before) = (self.lane_of(&entry), entry.not_before);
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.records.push_back(entry);
        if lane.records.len() == 1 {
            self.ready_at(key, not_before);
        }
        true
    }

    pub(super) fn lane_of(&self, entry: &Entry) -> LaneKey {
        let within = match (self.options.order, &entry.record.key) {
            (Order::Partition, _) => Within::Partition,
            (Order::Key, Some(key)) => Within::Key(key.clone()),
            (Order::Key, None) => Within::Alone(entry.offset),
        };
        LaneKey { partition: entry.at.clone(), within }
    }

    pub(super) async fn resume_if_there_is_room(&mut self) -> Result<(), Error> {
        if self.buffered > self.options.buffer_max / 2 {
            return Ok(());
        }
        let has_room = |part: &&Part| part.ahead() <= self.options.ahead_max / 2;
        let waits = |part: &&Part| part.is_paused && !part.is_stopped;
        let waiting = self.parts.iter().filter(|(_, part)| waits(part) && has_room(part));
        let waiting: Vec<_> = waiting.map(|(partition, _)| partition.clone()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        match self.consumer.resume(waiting.clone()).await {
            Ok(()) => {
                for partition in &waiting {
                    if let Some(part) = self.parts.get_mut(partition) {
                        part.is_paused = false;
                    }
                }
                Ok(())
            }
            Err(error) => self.passing(|_| Box::pin(async { Err(error) })).await,
        }
    }

    /// Waits for what runs in these partitions, for a while; starts nothing new in them.
    pub(super) async fn drain(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let is_of = |key: &LaneKey| partitions.contains(&key.partition);
        self.ready.retain(|key| !is_of(key));
        self.held.retain(|key| !is_of(key));
        let over = self.options.clock.sleep(self.options.drain_max);
        let mut over = std::pin::pin!(over);
        while self.seats.values().any(|(key, _)| is_of(key)) {
            let ended = tokio::select! {
                biased;
                ended = self.running.join_next_with_id() => ended,
                () = &mut over => {
                    tracing::warn!(?partitions, "handlers still run after drain_max; going on");
                    return Ok(());
                }
            };
            self.ended(ended).await?;
            // Its end made the next one of its lane ready.
            self.ready.retain(|key| !is_of(key));
        }
        Ok(())
    }

    /// Commits up to where everything is finished.
    pub(super) async fn commit(&mut self, partitions: &[TopicPartition]) {
        let mut positions = Vec::new();
        for partition in partitions {
            let Some(part) = self.parts.get(partition) else { continue };
            if let Some(next) = part.position().filter(|next| part.committed != Some(*next)) {
                positions.push(Position { partition: partition.clone(), next });
            }
        }
        if positions.is_empty() {
            return;
        }
        failpoint::pass("kafka:before_position");
        let committed = self.consumer.commit(positions.clone()).await;
        failpoint::pass("kafka:after_position");
        match committed {
            Ok(()) => {
                for Position { partition, next } in positions {
                    if let Some(part) = self.parts.get_mut(&partition) {
                        part.committed = Some(next);
                    }
                }
            }
            // What is read again is recognised.
            Err(error) => tracing::warn!(%error, "positions are committed later"),
        }
    }
}
