//! What a driver says to its group and to the log.

use semel::Error;

use super::super::entry::{Batch, Entry};
use super::super::shelf::Shelf;
use super::super::work::Work;
use super::super::{UNREACHED_PAUSE, ended_by};
use super::Driver;
use crate::failpoint;
use crate::log::{Event, LogError, LogErrorKind, Position, Record, TopicPartition};

impl<W: Work> Driver<'_, W> {
    /// Reads on from where the truth is.
    pub(super) async fn read_again(&mut self) -> Result<(), Error> {
        let read = self.shelves.iter().filter(|(_, shelf)| !shelf.is_stopped);
        let partitions: Vec<_> = read.map(|(partition, _)| partition.clone()).collect();
        // Also without partitions: what this member left open may hold up others.
        let starts = match self.work.starts(&partitions).await {
            Ok(starts) => starts,
            Err(problem) => return self.failed(problem, &Batch::default()).await,
        };
        let (mut positions, mut assigned) = (Vec::new(), Vec::new());
        let (mut sources, mut parked) = (Vec::new(), Vec::new());
        for (partition, start) in partitions.into_iter().zip(starts) {
            let Some(shelf) = self.shelves.get_mut(&partition) else { continue };
            shelf.records.clear();
            shelf.is_paused = false;
            if shelf.is_companion {
                parked.push((partition, start));
                continue;
            }
            sources.push(partition.clone());
            if !shelf.is_assigned {
                assigned.push((partition, start));
            } else if let Some(next) = start.or(shelf.first) {
                // Without a position nothing was ever finished; what was read first is still first.
                positions.push(Position { partition, next });
            }
        }
        let sought = async {
            self.take(parked).await?;
            self.assign(assigned).await?;
            self.consumer.seek(positions).await?;
            self.consumer.resume(sources).await
        };
        match sought.await {
            Ok(()) => {
                self.rewind = None;
                Ok(())
            }
            Err(error) => self.settle(Err(error)),
        }
    }

    /// Begins to read these partitions of retry topics.
    pub(super) async fn take(
        &mut self,
        parked: Vec<(TopicPartition, Option<i64>)>,
    ) -> Result<(), LogError> {
        let Some(retries) = &mut self.retries else { return Ok(()) };
        let (companions, starts): (Vec<_>, Vec<_>) = parked.into_iter().unzip();
        let sources: Vec<_> = companions.iter().filter_map(|it| retries.source(it)).collect();
        retries.take(&sources, &starts).await
    }

    pub(super) async fn react(&mut self, event: Result<Event, LogError>) -> Result<(), Error> {
        match event {
            Ok(Event::Assigned(partitions)) => self.welcome(partitions).await,
            Ok(Event::Revoked(partitions)) => {
                failpoint::pass("kafka:revoked");
                self.display().await;
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

    pub(super) async fn welcome(
        &mut self,
        mut partitions: Vec<TopicPartition>,
    ) -> Result<(), Error> {
        let count = partitions.len();
        for partition in &partitions {
            self.shelves.insert(partition.clone(), Shelf::default());
        }
        self.meter.assigned(self.owned());
        if let Some(retries) = &self.retries {
            let companions = retries.companions(&partitions);
            for companion in &companions {
                let shelf = Shelf { is_companion: true, ..Shelf::default() };
                self.shelves.insert(companion.clone(), shelf);
            }
            partitions.extend(companions);
        }
        match self.work.starts(&partitions).await {
            Ok(starts) => {
                let mut starts: Vec<_> = partitions.into_iter().zip(starts).collect();
                let parked = starts.split_off(count);
                let answered = async {
                    self.take(parked).await?;
                    self.assign(starts).await
                };
                let answered = answered.await;
                self.settle(answered)
            }
            // Answered once it is known from where to read. Asking the group for its position
            // instead could wait for a transaction that this very member has left open.
            Err(problem) => self.failed(problem, &Batch::default()).await,
        }
    }

    /// How many partitions the group has given to this member.
    pub(super) fn owned(&self) -> usize {
        self.shelves.values().filter(|shelf| !shelf.is_companion).count()
    }

    /// Answers the group; done again by [`Self::read_again`] for what it did not hear.
    pub(super) async fn assign(
        &mut self,
        starts: Vec<(TopicPartition, Option<i64>)>,
    ) -> Result<(), LogError> {
        if starts.is_empty() {
            return Ok(());
        }
        self.consumer.assign(starts.clone()).await?;
        for (partition, _) in starts {
            if let Some(shelf) = self.shelves.get_mut(&partition) {
                shelf.is_assigned = true;
            }
        }
        Ok(())
    }

    pub(super) async fn part_with(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Error> {
        let mut all = partitions.clone();
        if let Some(retries) = &mut self.retries {
            all.extend(retries.companions(&partitions));
            let parted = retries.let_go(&partitions).await;
            self.settle(parted)?;
        }
        for partition in &all {
            self.shelves.remove(partition);
        }
        self.work.let_go(&all);
        self.meter.assigned(self.owned());
        let unassigned = self.consumer.unassign(partitions).await;
        self.settle(unassigned)?;
        self.resume_if_there_is_room().await
    }

    pub(super) async fn store_parked(
        &mut self,
        parked: Result<Vec<Entry>, LogError>,
    ) -> Result<(), Error> {
        let entries = match parked {
            Ok(entries) => entries,
            Err(error) => return self.react(Err(error)).await,
        };
        for entry in entries {
            let shelf = self.shelves.get_mut(&entry.at);
            // Whatever is dropped here is read again before anything else is done.
            if let Some(shelf) = shelf.filter(|it| !it.is_stopped && self.rewind.is_none()) {
                shelf.put(entry);
            }
        }
        Ok(())
    }

    pub(super) async fn store(&mut self, records: Vec<Record>) -> Result<(), Error> {
        for record in records {
            let shelf = self.shelves.get_mut(&record.partition);
            let Some(shelf) = shelf.filter(|shelf| !shelf.is_stopped) else { continue };
            if self.rewind.is_some() {
                // They are read again, from here where nothing was ever finished.
                shelf.first.get_or_insert(record.offset);
            } else {
                shelf.put(Entry::new(record));
            }
        }
        self.meter.buffered(self.buffered());
        if !self.is_full() || self.rest().is_zero() {
            return Ok(());
        }
        let mut full = Vec::new();
        for (partition, shelf) in &mut self.shelves {
            if !shelf.records.is_empty() && !shelf.is_paused && !shelf.is_companion {
                shelf.is_paused = true;
                full.push(partition.clone());
            }
        }
        let paused = self.consumer.pause(full).await;
        self.settle(paused)
    }

    pub(super) async fn resume_if_there_is_room(&mut self) -> Result<(), Error> {
        if self.rewind.is_some() || self.buffered() > self.options.buffer_max / 2 {
            return Ok(());
        }
        let mut resumed = Vec::new();
        for (partition, shelf) in &mut self.shelves {
            if shelf.is_paused && !shelf.is_stopped {
                shelf.is_paused = false;
                resumed.push(partition.clone());
            }
        }
        if resumed.is_empty() {
            return Ok(());
        }
        let resumed = self.consumer.resume(resumed).await;
        self.settle(resumed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffered() >= self.options.buffer_max
    }

    pub(super) fn buffered(&self) -> usize {
        // What is in retry topics has a bound of its own.
        let own = self.shelves.values().filter(|shelf| !shelf.is_companion);
        own.map(|shelf| shelf.records.len()).sum()
    }

    /// Shows in the group what is done. Nothing depends on it.
    pub(super) async fn display(&mut self) {
        if !W::IS_DISPLAYED {
            return;
        }
        let done = self.shelves.iter().filter_map(|(partition, shelf)| {
            shelf.done.map(|next| Position { partition: partition.clone(), next })
        });
        let done: Vec<_> = done.collect();
        if done.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.commit(done).await {
            tracing::debug!(%error, "the group's display of the position is late");
        }
    }
}
