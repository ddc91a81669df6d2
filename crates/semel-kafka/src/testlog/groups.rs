//! Consumer groups: who is a member, who owns what, and what is on its way from one to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use semel::Timestamp;

use super::topics::Topic;
use crate::log::{Event, TopicPartition};

pub(super) type Topics = BTreeMap<Arc<str>, Topic>;

/// A group lives on without members: its committed positions stay.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Grows with everything that moves: a join, a leave, a partition that was let go.
    pub(super) generation: u64,
    pub(super) committed: BTreeMap<TopicPartition, i64>,
    /// Consumers in the order in which they came, also those that the group has given up.
    clients: BTreeMap<u64, Client>,
    held: BTreeMap<TopicPartition, Holding>,
    /// Who should have what.
    targets: BTreeMap<TopicPartition, u64>,
}

#[derive(Debug)]
struct Client {
    topics: Vec<Arc<str>>,
    /// The last generation in which it was a member; nothing while it is one.
    given_up: Option<u64>,
    /// What it had when it was given up, until it lets go of it.
    lost: BTreeSet<TopicPartition>,
    lost_is_known: bool,
    /// It is in `next` and thus alive.
    waits: bool,
    seen: Timestamp,
    /// Since when the group waits for it to let partitions go.
    recalled: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    client: u64,
    stage: Stage,
}

/// Where a partition is on its way to its owner and away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Given; the owner has not heard of it.
    Offered,
    Held,
    /// Wanted back; the owner has not heard of it.
    Recalled,
    /// Wanted back, and the owner knows.
    Leaving,
}

impl Group {
    pub(super) fn join(&mut self, id: u64, names: Vec<Arc<str>>, topics: &Topics, now: Timestamp) {
        let client = Client {
            topics: names,
            given_up: None,
            lost: BTreeSet::new(),
            lost_is_known: false,
            waits: false,
            seen: now,
            recalled: None,
        };
        self.clients.insert(id, client);
        self.rebalance(topics, now);
    }

    /// Takes a consumer out for good; what it had is free at once.
    pub(super) fn leave(&mut self, id: u64, topics: &Topics, now: Timestamp) {
        let Some(client) = self.clients.remove(&id) else { return };
        if client.given_up.is_none() {
            self.held.retain(|_, holding| holding.client != id);
            self.rebalance(topics, now);
        }
    }

    /// Gives a member up: others have its partitions at once, and it will hear that it lost them.
    pub(super) fn give_up(&mut self, id: u64, topics: &Topics, now: Timestamp) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.given_up.is_some() {
            return;
        }
        client.given_up = Some(self.generation);
        client.lost_is_known = false;
        client.recalled = None;
        for (partition, holding) in &self.held {
            if holding.client == id && holding.stage != Stage::Offered {
                client.lost.insert(partition.clone());
            }
        }
        self.held.retain(|_, holding| holding.client != id);
        self.rebalance(topics, now);
    }

    /// The members, in the order in which they came.
    pub(super) fn members(&self) -> impl Iterator<Item = u64> {
        self.clients.iter().filter(|(_, client)| client.given_up.is_none()).map(|(id, _)| *id)
    }

    pub(super) fn is_current(&self, id: u64, generation: u64) -> bool {
        generation == self.generation && self.members().any(|member| member == id)
    }

    /// The generation a consumer believes in: one that was given up knows none of the later ones.
    pub(super) fn generation_of(&self, id: u64) -> u64 {
        let given_up = self.clients.get(&id).and_then(|client| client.given_up);
        given_up.unwrap_or(self.generation)
    }

    pub(super) fn reads(&self, topic: &str) -> bool {
        self.clients.values().any(|client| client.topics.iter().any(|name| &**name == topic))
    }

    /// Begins a generation with the assignment it needs.
    pub(super) fn rebalance(&mut self, topics: &Topics, now: Timestamp) {
        self.targets = self.assignment(topics);
        self.hand_out(now);
    }

    /// Begins a generation in which every partition belongs to the next member.
    pub(super) fn rotate(&mut self, now: Timestamp) {
        let members: Vec<u64> = self.members().collect();
        for target in self.targets.values_mut() {
            let next = members.iter().copied().find(|member| member > target);
            *target = next.or_else(|| members.first().copied()).unwrap_or(*target);
        }
        self.hand_out(now);
    }

    fn hand_out(&mut self, now: Timestamp) {
        self.generation += 1;
        for (partition, &target) in &self.targets {
            let offered = Holding { client: target, stage: Stage::Offered };
            let holding = self.held.entry(partition.clone()).or_insert(offered);
            match holding.stage {
                Stage::Offered => *holding = offered,
                Stage::Held if holding.client != target => holding.stage = Stage::Recalled,
                Stage::Recalled if holding.client == target => holding.stage = Stage::Held,
                Stage::Held | Stage::Recalled | Stage::Leaving => {}
            }
        }
        for (id, client) in &mut self.clients {
            let waits = self.held.values().any(|holding| {
                holding.client == *id && matches!(holding.stage, Stage::Recalled | Stage::Leaving)
            });
            client.recalled = waits.then(|| client.recalled.unwrap_or(now));
        }
    }

    /// Who should have what: nobody has two partitions more than another, and as little moves as
    /// that allows.
    fn assignment(&self, topics: &Topics) -> BTreeMap<TopicPartition, u64> {
        let mut wanted: BTreeMap<TopicPartition, Vec<u64>> = BTreeMap::new();
        for id in self.members() {
            for name in self.clients.get(&id).into_iter().flat_map(|client| &client.topics) {
                for number in 0..topics.get(name).map_or(0, Topic::count) {
                    let readers = wanted.entry(TopicPartition::new(Arc::clone(name), number));
                    readers.or_default().push(id);
                }
            }
        }
        let mut loads: BTreeMap<u64, usize> = self.members().map(|id| (id, 0)).collect();
        let mut targets = BTreeMap::new();
        for (partition, readers) in &wanted {
            if let Some(target) = self.targets.get(partition)
                && readers.contains(target)
            {
                *loads.entry(*target).or_default() += 1;
                targets.insert(partition.clone(), *target);
            }
        }
        let load = |loads: &BTreeMap<u64, usize>, id: u64| loads.get(&id).copied().unwrap_or(0);
        for (partition, readers) in &wanted {
            if targets.contains_key(partition) {
                continue;
            }
            if let Some(id) = readers.iter().copied().min_by_key(|id| (load(&loads, *id), *id)) {
                *loads.entry(id).or_default() += 1;
                targets.insert(partition.clone(), id);
            }
        }
        // Each move brings two members closer together, so it ends.
        loop {
            let moves = wanted.iter().rev().filter_map(|(partition, readers)| {
                let from = *targets.get(partition)?;
                let to = readers.iter().copied().min_by_key(|id| (load(&loads, *id), *id))?;
                let gap = load(&loads, from).saturating_sub(load(&loads, to));
                (gap >= 2).then_some((gap, partition, from, to))
            });
            let widest = moves.reduce(|best, other| if other.0 > best.0 { other } else { best });
            let Some((_, partition, from, to)) = widest else { return targets };
            *loads.entry(from).or_default() -= 1;
            *loads.entry(to).or_default() += 1;
            targets.insert(partition.clone(), to);
        }
    }

    /// A consumer asks what happens next. One that was given up and has let go joins again.
    pub(super) fn poll(&mut self, id: u64, topics: &Topics, now: Timestamp) -> Option<Event> {
        let client = self.clients.get_mut(&id)?;
        client.waits = true;
        client.seen = now;
        if client.given_up.is_some() {
            if !client.lost.is_empty() {
                let is_known = std::mem::replace(&mut client.lost_is_known, true);
                return (!is_known).then(|| Event::Lost(client.lost.iter().cloned().collect()));
            }
            client.given_up = None;
            self.rebalance(topics, now);
        }
        let recalled = self.advance(id, Stage::Recalled, Stage::Leaving);
        if !recalled.is_empty() {
            return Some(Event::Revoked(recalled));
        }
        let offered = self.advance(id, Stage::Offered, Stage::Held);
        (!offered.is_empty()).then_some(Event::Assigned(offered))
    }

    fn advance(&mut self, id: u64, from: Stage, to: Stage) -> Vec<TopicPartition> {
        let mut moved = Vec::new();
        for (partition, holding) in &mut self.held {
            if holding.client == id && holding.stage == from {
                holding.stage = to;
                moved.push(partition.clone());
            }
        }
        moved
    }

    /// The consumer has left `next`.
    pub(super) fn left_next(&mut self, id: u64, now: Timestamp) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.waits = false;
            client.seen = now;
        }
    }

    pub(super) fn is_leaving(&self, id: u64, partition: &TopicPartition) -> bool {
        self.held
            .get(partition)
            .is_some_and(|holding| holding.client == id && holding.stage == Stage::Leaving)
    }

    /// The consumer lets partitions go; those that were revoked have a new owner at once.
    pub(super) fn let_go(&mut self, id: u64, partitions: &[TopicPartition], now: Timestamp) {
        let mut freed = false;
        for partition in partitions {
            if self.is_leaving(id, partition) {
                self.held.remove(partition);
                freed = true;
            }
            if let Some(client) = self.clients.get_mut(&id) {
                client.lost.remove(partition);
            }
        }
        if freed {
            self.hand_out(now);
        }
    }

    /// The members whose time is over.
    pub(super) fn expired(&self, patience: Duration, now: Timestamp) -> Vec<u64> {
        let over = |id: &u64| self.deadline(*id, patience).is_some_and(|deadline| deadline <= now);
        self.members().filter(over).collect()
    }

    /// When the first member's time will be over.
    pub(super) fn first_deadline(&self, patience: Duration) -> Option<Timestamp> {
        self.members().filter_map(|id| self.deadline(id, patience)).min()
    }

    fn deadline(&self, id: u64, patience: Duration) -> Option<Timestamp> {
        let client = self.clients.get(&id)?;
        let silent = (!client.waits).then_some(client.seen);
        silent.into_iter().chain(client.recalled).min().map(|since| since.after(patience))
    }

    /// Gives every member its whole time again: the group's coordinator was away.
    pub(super) fn forgive(&mut self, now: Timestamp) {
        for client in self.clients.values_mut() {
            client.seen = now;
            client.recalled = client.recalled.map(|_| now);
        }
    }
}
