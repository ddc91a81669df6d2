//! The thread that writes: it takes what is waiting, runs it in one transaction, and answers after
//! the commit. One `fsync` then serves everybody who waited for it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;
use semel::{Clock, Error, ErrorKind};

use super::connection;
use super::fault::{Fault, explain, may_be_one_members, may_have_committed, spoils_connection};
use super::lock::is_busy;
use super::operation::{Answer, Request, Session};
use super::seat::Place;
use super::worker::join;

/// One caller's request, and where to answer it.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Result<Answer, Error>>,
}

/// The writing end of the store. Dropping it finishes what is queued and ends the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

pub(super) struct WriterSettings {
    pub(super) place: Place,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_max: usize,
    pub(super) queue_max: usize,
}

impl Writer {
    #[expect(clippy::disallowed_methods, reason = "the store owns its writer and joins it")]
    pub(super) fn start(connection: Connection, settings: WriterSettings) -> Result<Self, Error> {
        let (queue, jobs) = async_channel::bounded(settings.queue_max.max(1));
        let mut work = Work { settings, connection: Some(connection), was_locked: false };
        let thread = std::thread::Builder::new()
            .name("semel-sqlite".to_owned())
            .spawn(move || work.serve(&jobs))
            .map_err(|error| {
                let message = "the system gave no thread for the store's writer";
                Error::new(ErrorKind::Unavailable, message).with_source(error)
            })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(super) fn queue(&self) -> Option<&Sender<Job>> {
        self.queue.as_ref()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

struct Work {
    settings: WriterSettings,
    /// `None` after a failure that makes the connection doubtful; opened anew for the next group.
    connection: Option<Connection>,
    /// Whether the last failure was a lock that somebody else kept.
    was_locked: bool,
}

impl Work {
    fn serve(&mut self, jobs: &Receiver<Job>) {
        let mut group = Vec::new();
        while let Ok(first) = jobs.recv_blocking() {
            group.push(first);
            while group.len() < self.settings.group_max {
                match jobs.try_recv() {
                    Ok(job) => group.push(job),
                    Err(_) => break,
                }
            }
            self.serve_group(&mut group);
            if jobs.is_closed() {
                // The store is being dropped. One wait for a lock that somebody else keeps is
                // enough; without it, what is still queued is refused at once.
                self.last_patience();
            }
        }
    }

    /// Answers every job of the group, and only after its commit.
    fn serve_group(&mut self, group: &mut Vec<Job>) {
        let (requests, replies): (Vec<_>, Vec<_>) =
            group.drain(..).map(|job| (job.request, job.reply)).unzip();
        let answers = match self.commit(&requests) {
            Ok(answers) => answers,
            Err(failure) if failure.may_be_one_members() && requests.len() > 1 => {
                requests.iter().map(|request| self.commit_alone(request)).collect()
            }
            Err(failure) => requests.iter().map(|_| Err(failure.again(&self.settings))).collect(),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever stopped waiting has decided to do without the answer.
            drop(reply.send(answer));
        }
    }

    fn commit_alone(&mut self, request: &Request) -> Result<Answer, Error> {
        let answers = self.commit(std::slice::from_ref(request));
        let mut answers = answers.map_err(|failure| failure.again(&self.settings))?;
        answers.pop().unwrap_or_else(|| Err(super::mixed_up()))
    }

    fn commit(&mut self, requests: &[Request]) -> Result<Vec<Result<Answer, Error>>, Failure> {
        if let Err(error) = self.settings.place.check() {
            // The connection still leads to the old file; it is good again if that comes back.
            return Err(Failure::Reopen(error));
        }
        let Place { path, secret, patience, .. } = &self.settings.place;
        let connection = match &self.connection {
            Some(connection) => connection,
            None => {
                let opened =
                    connection::reopen(path, secret, *patience).map_err(Failure::Reopen)?;
                self.connection.insert(opened)
            }
        };
        let outcome = run_group(connection, requests, &self.settings);
        self.was_locked = outcome.as_ref().is_err_and(Failure::is_locked);
        if let Err(failure) = &outcome {
            // A transaction that cannot even be rolled back ends with its connection.
            let is_open =
                !connection.is_autocommit() && connection.execute_batch("ROLLBACK").is_err();
            if is_open || failure.spoils_connection() {
                self.connection = None;
            }
        }
        outcome
    }

    fn last_patience(&mut self) {
        if self.was_locked {
            self.settings.place.patience = Duration::ZERO;
        }
    }
}

/// All or nothing: either every answer stands, or the file is as it was before.
///
/// A failure may leave the transaction open; the caller rolls it back.
fn run_group(
    connection: &Connection,
    requests: &[Request],
    settings: &WriterSettings,
) -> Result<Vec<Result<Answer, Error>>, Failure> {
    let WriterSettings { place, clock, .. } = settings;
    let before = |error| Failure::File { error, committing: false };
    let _turn = place.lock.begin(connection, place.patience).map_err(before)?;
    // Read under the lock: waiting for it may have taken seconds of somebody's lease.
    let mut session = Session::new(connection, clock.now());
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        match session.run(request) {
            Ok(answer) => answers.push(Ok(answer)),
            // Some failures end the transaction on their own; then nothing in it has happened.
            Err(Fault::Record(error)) if connection.is_autocommit() => {
                return Err(Failure::Reopen(error));
            }
            Err(Fault::Record(error)) => answers.push(Err(error)),
            Err(Fault::File(error)) => return Err(before(error)),
        }
    }
    if !session.wrote() {
        // Nothing to keep, so nothing to wait for on the disk.
        connection.execute_batch("ROLLBACK").map_err(before)?;
        return Ok(answers);
    }
    session.finish().map_err(|fault| match fault {
        Fault::File(error) => before(error),
        Fault::Record(error) => Failure::Reopen(error),
    })?;
    let committed = connection.execute_batch("COMMIT");
    committed.map_err(|error| Failure::File { error, committing: true })?;
    Ok(answers)
}

/// Why a whole group failed.
#[derive(Debug)]
enum Failure {
    /// The file failed, maybe in the middle of the commit.
    File { error: rusqlite::Error, committing: bool },
    /// The file could not be opened again after an earlier failure, or not be relied on.
    Reopen(Error),
}

impl Failure {
    fn may_be_one_members(&self) -> bool {
        matches!(self, Self::File { error, committing }
            if may_be_one_members(error) && !(*committing && may_have_committed(error)))
    }

    fn is_locked(&self) -> bool {
        matches!(self, Self::File { error, .. } if is_busy(error))
    }

    fn spoils_connection(&self) -> bool {
        match self {
            Self::File { error, .. } => spoils_connection(error),
            Self::Reopen(_) => true,
        }
    }

    /// The error for one member of the group.
    fn again(&self, settings: &WriterSettings) -> Error {
        match self {
            Self::File { error, committing } => {
                let explained = explain(error, &settings.place.path);
                let is_unknown = *committing && may_have_committed(error);
                if is_unknown { explained.with_outcome_unknown() } else { explained }
            }
            Self::Reopen(error) => Error::new(error.kind(), error.to_string()),
        }
    }
}
