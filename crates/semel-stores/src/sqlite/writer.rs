//! The thread that writes: it takes what is waiting, runs it in one transaction, and answers after
//! the commit. One `fsync` then serves everybody who waited for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::{Connection, TransactionBehavior};
use semel::{Clock, Error, ErrorKind};

use super::connection;
use super::fault::{Fault, explain, spoils_connection};
use super::operation::{Answer, Request, Session};

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
    pub(super) path: PathBuf,
    pub(super) patience: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) group_max: usize,
    pub(super) queue_max: usize,
}

impl Writer {
    #[expect(clippy::disallowed_methods, reason = "the store owns its writer and joins it")]
    pub(super) fn start(connection: Connection, settings: WriterSettings) -> Result<Self, Error> {
        let (queue, jobs) = async_channel::bounded(settings.queue_max.max(1));
        let mut work = Work { settings, connection: Some(connection) };
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
            // A writer that panicked has told so already; there is nothing left to save.
            drop(thread.join());
        }
    }
}

struct Work {
    settings: WriterSettings,
    /// `None` after a failure that makes the connection doubtful; opened anew for the next group.
    connection: Option<Connection>,
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
        }
    }

    /// Answers every job of the group, and only after its commit.
    fn serve_group(&mut self, group: &mut Vec<Job>) {
        let (requests, replies): (Vec<_>, Vec<_>) =
            group.drain(..).map(|job| (job.request, job.reply)).unzip();
        let answers = match self.commit(&requests) {
            Ok(answers) => answers,
            Err(failure) => requests.iter().map(|_| Err(failure.again(&self.settings))).collect(),
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Whoever stopped waiting has decided to do without the answer.
            drop(reply.send(answer));
        }
    }

    fn commit(&mut self, requests: &[Request]) -> Result<Vec<Result<Answer, Error>>, Failure> {
        let WriterSettings { path, patience, .. } = &self.settings;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty @ None => {
                let opened = connection::open(path, false, *patience).map_err(Failure::Reopen)?;
                empty.insert(opened)
            }
        };
        let outcome = run_group(connection, requests, &*self.settings.clock);
        if let Err(Failure::File { error, .. }) = &outcome
            && spoils_connection(error)
        {
            self.connection = None;
        }
        outcome
    }
}

/// All or nothing: either every answer stands, or the file is as it was before.
fn run_group(
    connection: &mut Connection,
    requests: &[Request],
    clock: &dyn Clock,
) -> Result<Vec<Result<Answer, Error>>, Failure> {
    let before = |error| Failure::File { error, committing: false };
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(before)?;
    // Read under the lock: waiting for it may have taken seconds of somebody's lease.
    let mut session = Session::new(&transaction, clock.now());
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        match session.run(request) {
            Ok(answer) => answers.push(Ok(answer)),
            Err(Fault::Record(error)) => answers.push(Err(error)),
            Err(Fault::File(error)) => return Err(before(error)),
        }
    }
    if !session.wrote() {
        // Nothing to keep, so nothing to wait for on the disk.
        transaction.rollback().map_err(before)?;
        return Ok(answers);
    }
    session.finish().map_err(|fault| match fault {
        Fault::File(error) => before(error),
        Fault::Record(error) => Failure::Reopen(error),
    })?;
    transaction.commit().map_err(|error| Failure::File { error, committing: true })?;
    Ok(answers)
}

/// Why a whole group failed.
#[derive(Debug)]
enum Failure {
    /// The file failed, maybe in the middle of the commit.
    File { error: rusqlite::Error, committing: bool },
    /// The file could not be opened again after an earlier failure.
    Reopen(Error),
}

impl Failure {
    /// The error for one member of the group.
    fn again(&self, settings: &WriterSettings) -> Error {
        match self {
            Self::File { error, committing } => {
                let explained = explain(error, &settings.path);
                if *committing { explained.with_outcome_unknown() } else { explained }
            }
            Self::Reopen(error) => Error::new(error.kind(), error.to_string()),
        }
    }
}
