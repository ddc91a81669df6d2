//! The way to the server: one connection that is made anew when it breaks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, RedisError, Value};
use semel::{Clock, Error, ErrorKind, Timestamp};

use super::address::Address;
use super::connect::Connector;
use super::facts::{self, RedisFacts};
use super::fault::Fault;
use super::meta::Meta;
use super::options::RedisOptions;
use super::script::Script;

/// One connection, shared by all callers; calls on it are pipelined.
#[derive(Debug)]
pub(super) struct Link {
    connector: Connector,
    server: String,
    meta: Meta,
    allow_eviction: bool,
    patience: Duration,
    /// For connecting and the first answer.
    answer_timeout: Duration,
    clock: Arc<dyn Clock>,
    seat: Mutex<Seat>,
    /// Held by the one that connects, so that a server that comes back is not stormed.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Seat {
    /// Rises with every connection, so that a late failure does not throw away its successor.
    number: u64,
    wire: Option<Wire>,
}

/// A connection of redis-rs. Clones share it.
#[derive(Clone)]
pub(super) enum Wire {
    Cluster(ClusterConnection),
    Single(MultiplexedConnection),
}

impl Link {
    pub(super) fn new(address: Address, meta: Meta, options: &RedisOptions) -> Result<Self, Error> {
        Ok(Self {
            server: address.to_string(),
            connector: Connector::new(address, options)?,
            meta,
            allow_eviction: options.allow_eviction,
            patience: options.patience,
            answer_timeout: options.connect_timeout + options.response_timeout,
            clock: Arc::clone(&options.clock),
            seat: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        })
    }

    /// The server's URL without its login.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn secret(&self) -> &[u8; 32] {
        self.meta.secret()
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.connector.is_cluster()
    }

    pub(super) fn allow_eviction(&self) -> bool {
        self.allow_eviction
    }

    /// The patience of one operation that begins now.
    pub(super) fn patience(&self) -> Patience<'_> {
        let until = self.clock.now().after(self.patience);
        Patience { link: self, until, pause_ms: PAUSE_MS, maybe_done: false }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Bounds what redis-rs does not bound itself.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, RedisError>> + Unpin,
    ) -> Result<T, Fault> {
        match select(work, self.clock.sleep(self.answer_timeout)).await {
            Either::Left((done, _)) => done.map_err(|error| Fault::of(&error)),
            Either::Right(_) => Err(Fault::unreachable("it did not answer in time")),
        }
    }

    /// Sends a command once.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        self.ask_on_wire(command).await.map(|(answer, _)| answer)
    }

    /// Runs a script once; whole if the server does not know it (any more).
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: &[impl AsRef<str> + Sync],
        arguments: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Value, Fault> {
        self.run_on_wire(script, keys, arguments).await.map(|(answer, _)| answer)
    }

    /// The same, and on which connection; see [`Self::leave`].
    pub(super) async fn run_on_wire(
        &self,
        script: &Script,
        keys: &[impl AsRef<str> + Sync],
        arguments: &[impl AsRef<[u8]> + Sync],
    ) -> Result<(Value, u64), Fault> {
        let answer = self.ask_on_wire(&script.command(false, keys, arguments)).await;
        match answer {
            Err(fault) if fault.is_unknown_script => {
                self.ask_on_wire(&script.command(true, keys, arguments)).await
            }
            answer => answer,
        }
    }

    async fn ask_on_wire(&self, command: &Cmd) -> Result<(Value, u64), Fault> {
        let (number, mut wire) = self.wire().await?;
        let answer = wire.ask(command).await;
        let answer = answer.map_err(|error| self.judge(number, &wire, &error))?;
        Ok((answer, number))
    }

    /// What a failure on a connection means; gives the connection up if that is needed.
    fn judge(&self, number: u64, wire: &Wire, error: &RedisError) -> Fault {
        let fault = Fault::of(error);
        if fault.spoils_connection && wire.is_spoilt_by(error) {
            self.leave(number);
        }
        fault
    }

    /// Runs a script, again and again while that may help.
    pub(super) async fn run_patiently(
        &self,
        script: &Script,
        keys: &[impl AsRef<str> + Sync],
        arguments: &[impl AsRef<[u8]> + Sync],
        patience: &mut Patience<'_>,
    ) -> Result<Value, Error> {
        loop {
            match self.run(script, keys, arguments).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }

    /// Sends a command, again and again while that may help.
    pub(super) async fn ask_patiently(
        &self,
        command: &Cmd,
        patience: &mut Patience<'_>,
    ) -> Result<Value, Error> {
        loop {
            match self.ask(command).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }

    /// The addresses of all nodes that take writes.
    pub(super) async fn primaries(&self) -> Result<Vec<String>, Error> {
        if !self.is_cluster() {
            return Ok(vec![String::new()]);
        }
        let mut patience = self.patience();
        loop {
            let looked = match self.wire().await {
                Ok((number, mut wire)) => {
                    let answers = wire.ask_primaries(&redis::cmd("PING")).await;
                    answers.map_err(|error| self.judge(number, &wire, &error))
                }
                Err(fault) => Err(fault),
            };
            match looked {
                Ok(answers) => return Ok(answers.into_iter().map(|(node, _)| node).collect()),
                Err(fault) => patience.after(fault.of_a_question()).await?,
            }
        }
    }

    /// Asks one of [`Self::primaries`], again and again while that may help.
    pub(super) async fn ask_node_patiently(
        &self,
        node: &str,
        command: &Cmd,
    ) -> Result<Value, Error> {
        let mut patience = self.patience();
        loop {
            let answer = match self.wire().await {
                Ok((number, mut wire)) => {
                    let answer = wire.ask_node(node, command.clone()).await;
                    answer.map_err(|error| self.judge(number, &wire, &error))
                }
                Err(fault) => Err(fault),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(fault) => patience.after(fault.of_a_question()).await?,
            }
        }
    }

    /// Asks the server for its facts, again and again while that may help.
    pub(super) async fn facts(&self) -> Result<RedisFacts, Error> {
        let mut patience = self.patience();
        loop {
            let looked = match self.wire().await {
                Ok((number, mut wire)) => {
                    let looked = facts::look(&mut wire, self).await;
                    looked.inspect_err(|fault| {
                        if fault.spoils_connection {
                            self.leave(number);
                        }
                    })
                }
                Err(fault) => Err(fault),
            };
            match looked {
                Ok(facts) => return Ok(facts),
                Err(fault) => patience.after(fault.of_a_question()).await?,
            }
        }
    }

    /// Asks a server for its facts once, on a connection of its own, whatever records are there.
    pub(super) async fn facts_without_records(&self) -> Result<RedisFacts, Error> {
        let looked = async {
            let mut wire = self.connector.connect().await?;
            facts::look(&mut wire, self).await
        };
        looked.await.map_err(|fault| fault.of_a_question().into_error(&self.server))
    }

    /// The connection, made and looked at first if there is none.
    pub(super) async fn wire(&self) -> Result<(u64, Wire), Fault> {
        if let Some(open) = self.seated() {
            return Ok(open);
        }
        let _alone = self.connecting.lock().await;
        if let Some(open) = self.seated() {
            return Ok(open);
        }
        let mut wire = self.connector.connect().await?;
        facts::admit(&mut wire, self.allow_eviction).await?;
        self.meta.check(&mut wire).await?;
        let mut seat = self.seat();
        seat.number += 1;
        seat.wire = Some(wire.clone());
        Ok((seat.number, wire))
    }

    fn seated(&self) -> Option<(u64, Wire)> {
        let seat = self.seat();
        seat.wire.clone().map(|wire| (seat.number, wire))
    }

    /// Gives a connection up: the next call makes a new one.
    pub(super) fn leave(&self, number: u64) {
        let mut seat = self.seat();
        if seat.number == number {
            seat.wire = None;
        }
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        // Nothing panics while it holds the lock.
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = match self {
            Self::Cluster(connection) => connection.req_packed_command(command).await,
            Self::Single(connection) => connection.req_packed_command(command).await,
        };
        answer.and_then(Value::extract_error)
    }

    /// A cluster's connection mends itself node by node; it is thrown away only as a whole.
    fn is_spoilt_by(&self, error: &RedisError) -> bool {
        match self {
            Self::Cluster(_) => error.kind() == redis::ErrorKind::ClusterConnectionNotFound,
            Self::Single(_) => true,
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cluster(_) => "Wire(cluster)",
            Self::Single(_) => "Wire(single)",
        })
    }
}

/// The first pause before trying again; doubled up to [`PAUSE_MS_MAX`].
const PAUSE_MS: u64 = 10;
const PAUSE_MS_MAX: u64 = 320;

/// How long one operation goes on trying, and what is known of its earlier attempts.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    link: &'a Link,
    until: Timestamp,
    pause_ms: u64,
    /// An earlier attempt may have had its effect.
    pub(super) maybe_done: bool,
}

impl Patience<'_> {
    /// Waits before the next attempt, or says that there is none.
    pub(super) async fn after(&mut self, fault: Fault) -> Result<(), Error> {
        self.maybe_done |= fault.maybe_done;
        let left = self.until.since(self.link.clock.now());
        let pause = Duration::from_millis(self.pause_ms);
        if !fault.is_passing || left <= pause {
            return Err(self.mark(fault.into_error(&self.link.server)));
        }
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
        self.link.clock.sleep(pause).await;
        Ok(())
    }

    /// How long an attempt that begins now may stand in line.
    pub(super) fn attempt_until(&self) -> Timestamp {
        self.link.clock.now().after(self.link.answer_timeout).max(self.until)
    }

    /// A write was overtaken by another one. That is no fault, but it has to end as well.
    pub(super) fn once_more(&self) -> Result<(), Error> {
        if self.until > self.link.clock.now() {
            return Ok(());
        }
        let message = "the record changed again and again while this operation looked at it";
        Err(self.mark(Error::new(ErrorKind::Unavailable, message)))
    }

    /// Says with an error whether an attempt may have had its effect.
    pub(super) fn mark(&self, error: Error) -> Error {
        if self.maybe_done && error.kind() != ErrorKind::ClaimLost {
            error.with_outcome_unknown()
        } else {
            error
        }
    }
}
