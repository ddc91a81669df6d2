//! A producer of the test log.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel::{BoxFuture, Timestamp};

use super::Member;
use super::faults::{Fault, Op, asked_for};
use super::state::{Shared, State};
use super::topics::unknown;
use crate::log::{
    Delivered, LogError, LogErrorKind, LogProducer, Membership, Outgoing, Position,
    ProducerSettings, TopicPartition,
};

/// How long a transaction may stay open by default.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Producer {
    shared: Arc<Shared>,
    identity: Option<Identity>,
    timeout: Duration,
    /// It was fenced or does not know what it did: it is of no use any more.
    over: AtomicBool,
}

#[derive(Debug)]
struct Identity {
    id: Arc<str>,
    epoch: u64,
}

impl Producer {
    pub(super) fn new(shared: &Arc<Shared>, settings: &ProducerSettings) -> Result<Self, LogError> {
        let id = settings.transactional_id.as_deref().map(Arc::<str>::from);
        if id.as_ref().is_some_and(|id| id.is_empty()) {
            return Err(invalid("a transactional id is empty; give it a name"));
        }
        let epoch = shared.with(|state, _| {
            state.reachable()?;
            state.faults.check(Op::Producer)?;
            Ok(id.as_ref().map_or(0, |id| state.fence(id)))
        })?;
        let identity = id.map(|id| Identity { id, epoch });
        let timeout = settings.transaction_timeout.unwrap_or(TRANSACTION_TIMEOUT);
        let over = AtomicBool::new(false);
        Ok(Self { shared: Arc::clone(shared), identity, timeout, over })
    }

    /// One call: refused when this producer is over, ended by a fault, or done.
    fn call<T>(
        &self,
        op: Op,
        step: impl FnOnce(&mut State, Timestamp) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if self.over.load(Ordering::SeqCst) {
            return Err(fenced());
        }
        let answer = self.shared.with(|state, now| {
            let answer = self.check(state, op).and_then(|()| step(state, now));
            if let Err(error) = &answer
                && (op == Op::Send || error.kind() == LogErrorKind::Abortable)
                && let Some(open) = self.identity.as_ref().and_then(|own| own.open(state))
            {
                open.spoiled = true;
            }
            answer
        });
        if let Err(error) = &answer
            && matches!(error.kind(), LogErrorKind::Fenced | LogErrorKind::Indefinite)
        {
            self.over.store(true, Ordering::SeqCst);
        }
        answer
    }

    fn check(&self, state: &mut State, op: Op) -> Result<(), LogError> {
        state.reachable()?;
        if let Some(own) = &self.identity
            && state.epoch(&own.id) != own.epoch
        {
            return Err(fenced());
        }
        match state.faults.take(op) {
            None => Ok(()),
            Some(Fault::Fails(kind)) => {
                if let (LogErrorKind::Fenced, Some(own)) = (kind, &self.identity) {
                    state.fence(&own.id);
                }
                Err(asked_for(op, kind))
            }
            Some(Fault::AnswerLost) => {
                if let Some(own) = &self.identity {
                    state.end(&own.id, true);
                }
                Err(asked_for(op, LogErrorKind::Indefinite))
            }
        }
    }

    fn own(&self) -> Result<&Identity, LogError> {
        let message = "a producer without a transactional id has no transactions; give it one";
        self.identity.as_ref().ok_or_else(|| invalid(message))
    }

    fn begin_now(&self) -> Result<(), LogError> {
        self.call(Op::Begin, |state, now| {
            let own = self.own()?;
            if own.open(state).is_some() {
                return Err(invalid("a transaction is open already; commit or abort it first"));
            }
            state.begin(&own.id, now.after(self.timeout));
            Ok(())
        })
    }

    fn send_now(&self, record: Outgoing) -> Result<Delivered, LogError> {
        self.call(Op::Send, |state, now| {
            let transaction = match &self.identity {
                Some(own) => Some(own.open(state).ok_or_else(none_open)?.number),
                None => None,
            };
            let delivered = append(state, record, now, transaction)?;
            if let Some(open) = self.identity.as_ref().and_then(|own| own.open(state)) {
                open.partitions.insert(delivered.partition.clone());
            }
            Ok(delivered)
        })
    }

    fn send_positions_now(
        &self,
        positions: Vec<Position>,
        membership: &Membership,
    ) -> Result<(), LogError> {
        self.call(Op::SendPositions, |state, _| {
            let own = self.own()?;
            own.open(state).ok_or_else(none_open)?;
            let foreign = "the membership is of another log; take it from a consumer of this one";
            let member = membership.get::<Member>().ok_or_else(|| invalid(foreign))?;
            member.check(state)?;
            state.check_positions(&positions)?;
            let open = own.open(state).ok_or_else(none_open)?;
            for Position { partition, next } in positions {
                open.positions.insert((Arc::clone(&member.group), partition), next);
            }
            Ok(())
        })
    }

    fn commit_now(&self) -> Result<(), LogError> {
        self.call(Op::Commit, |state, _| {
            let own = self.own()?;
            if own.open(state).ok_or_else(none_open)?.spoiled {
                let message = "a call of the transaction has failed; abort it and read again";
                return Err(LogError::new(LogErrorKind::Abortable, message));
            }
            state.end(&own.id, true);
            Ok(())
        })
    }

    fn abort_now(&self) -> Result<(), LogError> {
        self.call(Op::Abort, |state, _| {
            state.end(&self.own()?.id, false);
            Ok(())
        })
    }
}

impl Identity {
    /// The open transaction, unless it is another producer's.
    fn open<'a>(&self, state: &'a mut State) -> Option<&'a mut super::state::Open> {
        if state.epoch(&self.id) == self.epoch { state.open(&self.id) } else { None }
    }
}

impl LogProducer for Producer {
    fn begin(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { self.begin_now() })
    }

    fn send(&self, record: Outgoing) -> BoxFuture<'static, Result<Delivered, LogError>> {
        Box::pin(ready(self.send_now(record)))
    }

    fn send_positions<'a>(
        &'a self,
        positions: Vec<Position>,
        membership: &'a Membership,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(async { self.send_positions_now(positions, membership) })
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { self.commit_now() })
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { self.abort_now() })
    }
}

/// Appends a record within the log's limits.
pub(super) fn append(
    state: &mut State,
    record: Outgoing,
    now: Timestamp,
    transaction: Option<u64>,
) -> Result<Delivered, LogError> {
    let (bytes, max) = (size(&record), state.limits.record_bytes_max);
    if bytes > max {
        let topic = &record.topic;
        let message = format!("a record of {bytes} bytes for {topic} exceeds {max}; make it less");
        return Err(invalid(message));
    }
    let Some(topic) = state.topics.get_mut(&record.topic) else {
        return Err(unknown(&TopicPartition::new(record.topic, record.partition.unwrap_or(0))));
    };
    let delivered = topic.append(record, now, transaction)?;
    state.touch();
    Ok(delivered)
}

fn size(record: &Outgoing) -> usize {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers = record.headers.iter().map(|header| header.name.len() + length(&header.value));
    length(&record.key) + length(&record.value) + headers.sum::<usize>()
}

pub(super) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> LogError {
    LogError::new(LogErrorKind::Invalid, message)
}

fn none_open() -> LogError {
    invalid("no transaction is open; begin one first")
}

fn fenced() -> LogError {
    let message = "the producer is fenced or does not know what it did; stop or make a new one";
    LogError::new(LogErrorKind::Fenced, message)
}
