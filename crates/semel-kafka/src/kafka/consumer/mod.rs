//! The consumer: a thread that owns the client of librdkafka, and a desk between it and the async
//! side.
//!
//! # Rules
//!
//! 1. A rebalance waits inside librdkafka's callback until the async side has answered, and
//!    commands are served meanwhile. Without an answer to an assignment it goes on with the
//!    partitions paused, without one to a revocation it takes them and tells their loss.
//! 2. A full queue never costs the membership: after half a second the partitions are paused and
//!    the thread polls on.
//! 3. Positions of a partition that this member does not hold are refused here, because after a
//!    forced revocation the new generation would let them pass.

mod desk;
mod serve;
mod thread;
mod turn;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use semel::BoxFuture;
use tokio::sync::oneshot;

pub(super) use self::desk::Member;
use self::desk::{Command, Desk, Reply, ended};
use self::turn::{Client, Turns};
use super::options::{KafkaOptions, refused};
use super::{convert, fault};
use crate::log::{
    Begin, ConsumerSettings, Event, LogConsumer, LogError, LogErrorKind, Membership, Position,
    TopicPartition,
};

/// How long things may take, and where to begin.
struct Times {
    assign: Duration,
    revoke: Duration,
    request: Duration,
    begin: Offset,
}

/// Joins a group.
pub(super) fn join(
    options: &KafkaOptions,
    settings: &ConsumerSettings,
) -> Result<Box<dyn LogConsumer>, LogError> {
    if settings.group.is_empty() || settings.topics.is_empty() {
        let message = "a consumer has a group and at least one topic; name them";
        return Err(LogError::new(LogErrorKind::Invalid, message));
    }
    settings.topics.iter().try_for_each(|topic| convert::check_topic(topic))?;
    let config = options.consumer(settings)?;
    let desk = Arc::new(Desk::new(
        options.queued_max,
        options.queued_bytes_max,
        settings.companion_suffix.clone(),
    ));
    let revoke = options.revoke_time();
    let begin = match settings.begin {
        Begin::Earliest => Offset::Beginning,
        Begin::Latest => Offset::End,
    };
    let times = Times { assign: revoke, revoke, request: options.request_max, begin };
    let turns = Turns {
        desk: Arc::clone(&desk),
        times,
        has_turned: AtomicBool::new(false),
        is_held: AtomicBool::new(false),
    };
    let mut client: Client = config.create_with_context(turns).map_err(|it| refused(&it))?;
    let bell = Arc::clone(&desk);
    client.set_nonempty_callback(move || bell.ring());
    let topics: Vec<_> = settings.topics.iter().map(|topic| &**topic).collect();
    client.subscribe(&topics).map_err(|error| fault::plain("subscribe", error))?;
    let end = thread::start(client)?;
    Ok(Box::new(KafkaConsumer { desk, end: Some(end) }))
}

struct KafkaConsumer {
    desk: Arc<Desk>,
    end: Option<oneshot::Receiver<()>>,
}

impl KafkaConsumer {
    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> BoxFuture<'static, Result<T, LogError>> {
        let (reply, answer) = oneshot::channel();
        self.desk.ask(command(reply));
        Box::pin(async { answer.await.unwrap_or_else(|_| Err(ended())) })
    }
}

impl LogConsumer for KafkaConsumer {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, LogError>> {
        Box::pin(self.desk.next())
    }

    fn assign(
        &mut self,
        starts: Vec<(TopicPartition, Option<i64>)>,
    ) -> BoxFuture<'_, Result<(), LogError>> {
        self.ask(|reply| Command::Assign(starts, reply))
    }

    fn unassign(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.ask(|reply| Command::Unassign(partitions, reply))
    }

    fn seek(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>> {
        self.ask(|reply| Command::Seek(positions, reply))
    }

    fn pause(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.ask(|reply| Command::Pause(partitions, reply))
    }

    fn resume(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.ask(|reply| Command::Resume(partitions, reply))
    }

    fn commit(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>> {
        self.ask(|reply| Command::Commit(positions, reply))
    }

    fn committed(
        &mut self,
        partitions: Vec<TopicPartition>,
    ) -> BoxFuture<'_, Result<Vec<Option<i64>>, LogError>> {
        self.ask(|reply| Command::Committed(partitions, reply))
    }

    fn membership(&mut self) -> BoxFuture<'_, Result<Membership, LogError>> {
        self.ask(Command::Membership)
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, Result<(), LogError>> {
        self.desk.close();
        let end = self.end.take();
        Box::pin(async move {
            if let Some(end) = end {
                // An error says the same: the thread is over.
                drop(end.await);
            }
            Ok(())
        })
    }
}

/// Leaves the group; the thread ends by itself.
impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConsumer").field("desk", &self.desk).finish_non_exhaustive()
    }
}
