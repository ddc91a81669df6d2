//! A reader of the test log.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel::BoxFuture;

use super::faults::Op;
use super::state::{Shared, State};
use crate::log::{LogError, LogReader, Position, Read, TopicPartition};

#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    reading: Reading,
}

#[derive(Debug, Default)]
struct Reading {
    places: BTreeMap<TopicPartition, Place>,
    knows_it_is_down: bool,
}

#[derive(Debug)]
struct Place {
    next: i64,
    /// What was readable when it started, until it is told that this was returned.
    end: Option<i64>,
}

impl Reader {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), reading: Reading::default() }
    }

    fn start_now(&mut self, positions: Vec<Position>) -> Result<(), LogError> {
        self.shared.with(|state, _| {
            state.reachable()?;
            state.check_positions(&positions)?;
            for Position { partition, next } in positions {
                let bounds = state.bounds(&partition)?;
                let place = Place { next: next.max(bounds.low), end: Some(bounds.stable) };
                self.reading.places.insert(partition, place);
            }
            Ok(())
        })
    }
}

impl Reading {
    fn step(&mut self, state: &mut State) -> Option<Result<Read, LogError>> {
        if let Err(error) = state.reachable() {
            let is_known = std::mem::replace(&mut self.knows_it_is_down, true);
            return (!is_known).then_some(Err(error));
        }
        self.knows_it_is_down = false;
        if let Err(error) = state.faults.check(Op::Read) {
            return Some(Err(error));
        }
        for (partition, place) in &mut self.places {
            let topic = state.topics.get(&partition.topic);
            let Some(log) = topic.and_then(|it| it.partition(partition.partition)) else {
                continue;
            };
            let (records, next) = log.read(place.next, state.limits.batch_max);
            place.next = next;
            if !records.is_empty() {
                return Some(Ok(Read::Records(records)));
            }
            if place.end.is_some_and(|end| next >= end) {
                place.end = None;
                return Some(Ok(Read::End(partition.clone())));
            }
        }
        None
    }
}

impl LogReader for Reader {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, LogError>> {
        let Self { shared, reading } = self;
        Box::pin(async move { shared.wait(|state, _| reading.step(state)).await })
    }

    fn start(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>> {
        let started = self.start_now(positions);
        Box::pin(async { started })
    }

    fn stop(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.reading.places.retain(|partition, _| !partitions.contains(partition));
        Box::pin(async { Ok(()) })
    }
}
