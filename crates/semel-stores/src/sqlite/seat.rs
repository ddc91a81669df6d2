//! One connection for callers' transactions, and what its transaction has come to.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ffi};
use semel::store::{Completion, Renewal};
use semel::{Clock, Error, ErrorKind, Timestamp, failpoint};

use super::connection;
use super::fault::{Fault, may_have_committed, spoils_connection};
use super::lock::{Lock, Slow, Turn};
use super::operation::Session;
use super::transaction::SqliteTransactionError;

/// What every connection to the file needs to know.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) secret: [u8; 32],
    pub(super) patience: Duration,
    pub(super) lock: Arc<Lock>,
    /// Device and inode of the file that was opened.
    pub(super) file: Option<(u64, u64)>,
}

impl Place {
    /// Refuses to go on when the path leads to another file by now, or to none: this process
    /// would write records that nobody else sees, and a key could be executed twice.
    pub(super) fn check(&self) -> Result<(), Error> {
        if file_at(&self.path) == self.file {
            return Ok(());
        }
        let message = format!(
            "another file is at {} than the one that was opened, or none; put the store back, or \
             restart every process that serves from it",
            self.path.display()
        );
        Err(Error::new(ErrorKind::Unavailable, message))
    }
}

/// Device and inode of the file at a path.
#[cfg(unix)]
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Files that are open cannot be replaced where this is compiled.
#[cfg(not(unix))]
pub(super) fn file_at(_path: &Path) -> Option<(u64, u64)> {
    None
}

/// A panic of the caller's work, to be raised again where the caller waits.
pub(super) type Panic = Box<dyn Any + Send>;

/// A connection on its own thread, used by one transaction after the other.
pub(super) struct Seat {
    place: Place,
    /// Opened with the first transaction, and anew after a failure that makes it doubtful.
    connection: Option<Connection>,
    phase: Phase,
    /// Only our own COMMIT may commit; see [`Seat::connect`].
    may_commit: Arc<AtomicBool>,
}

enum Phase {
    Unbegun,
    Begun {
        _turn: Turn,
        _slow: Slow,
    },
    /// Something inside ended the transaction. It must not begin again under the same caller:
    /// what came before is rolled back, and what follows would be half of the effect.
    Broken,
}

impl Seat {
    pub(super) fn new(place: Place) -> Self {
        let may_commit = Arc::new(AtomicBool::new(false));
        Self { place, connection: None, phase: Phase::Unbegun, may_commit }
    }

    /// Runs the caller's work in the transaction, which it begins if need be.
    pub(super) fn work<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Result<T, SqliteTransactionError>, Panic> {
        let path = self.place.path.clone();
        let connection = match self.begin() {
            Ok(connection) => connection,
            Err(fault) => return Ok(Err(fault.into_error(&path).into())),
        };
        // The work's own state is gone with its panic, and ours is checked below.
        let worked = catch_unwind(AssertUnwindSafe(|| work(connection)));
        let has_ended = connection.is_autocommit();
        if has_ended {
            self.phase = Phase::Broken;
        }
        match worked? {
            Ok(_) if has_ended => Ok(Err(broken().into())),
            Err(error) if is_stray_commit(&error) => Ok(Err(broken().into())),
            worked => Ok(worked.map_err(SqliteTransactionError::from)),
        }
    }

    /// Completes the record in the transaction and commits both.
    pub(super) fn commit(
        &mut self,
        completion: &Completion,
        clock: &dyn Clock,
    ) -> Result<Timestamp, Error> {
        self.write_and_commit(clock, |session| session.complete(completion))
    }

    /// Stores the step in the transaction and commits both.
    pub(super) fn commit_step(
        &mut self,
        renewal: &Renewal,
        clock: &dyn Clock,
    ) -> Result<Timestamp, Error> {
        self.write_and_commit(clock, |session| session.commit_step(renewal))
    }

    fn write_and_commit(
        &mut self,
        clock: &dyn Clock,
        write: impl FnOnce(&mut Session<'_>) -> Result<Timestamp, Fault>,
    ) -> Result<Timestamp, Error> {
        let committed = self.try_to_commit(clock, write);
        self.roll_back();
        committed
    }

    /// Ends the transaction, if there is one, and makes the seat free for the next.
    pub(super) fn roll_back(&mut self) {
        let rolled_back = match &self.connection {
            Some(connection) if !connection.is_autocommit() => connection.execute_batch("ROLLBACK"),
            _ => Ok(()),
        };
        if rolled_back.is_err() {
            // Closing the connection rolls back for certain.
            self.connection = None;
        }
        self.phase = Phase::Unbegun;
    }

    fn try_to_commit(
        &mut self,
        clock: &dyn Clock,
        write: impl FnOnce(&mut Session<'_>) -> Result<Timestamp, Fault>,
    ) -> Result<Timestamp, Error> {
        let (path, may_commit) = (self.place.path.clone(), Arc::clone(&self.may_commit));
        let connection = self.begin().map_err(|fault| fault.into_error(&path))?;
        let mut session = Session::new(connection, clock.now());
        let written = write(&mut session).map_err(|fault| fault.into_error(&path))?;
        failpoint::pass("in_tx_before_commit");
        may_commit.store(true, Ordering::Relaxed);
        let committed = connection.execute_batch("COMMIT");
        may_commit.store(false, Ordering::Relaxed);
        failpoint::pass("after_commit");
        let Err(error) = committed else { return Ok(written) };
        if spoils_connection(&error) {
            self.connection = None;
        }
        let is_unknown = may_have_committed(&error);
        let error = Fault::File(error).into_error(&path);
        Err(if is_unknown { error.with_outcome_unknown() } else { error })
    }

    fn begin(&mut self) -> Result<&Connection, Fault> {
        self.place.check()?;
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let connection = self.connection.insert(connection);
        match self.phase {
            Phase::Begun { .. } => {}
            Phase::Broken => return Err(broken().into()),
            Phase::Unbegun => {
                let turn = self.place.lock.begin(connection, self.place.patience)?;
                self.phase = Phase::Begun { _turn: turn, _slow: self.place.lock.slow() };
            }
        }
        Ok(connection)
    }

    /// A connection on which a COMMIT that is not ours becomes a rollback: a caller's stray
    /// COMMIT would keep the effect without its record.
    fn connect(&self) -> Result<Connection, Error> {
        let Place { path, secret, patience, .. } = &self.place;
        let mut connection = connection::reopen(path, secret, *patience)?;
        let may_commit = Arc::clone(&self.may_commit);
        let refuse = move || !may_commit.load(Ordering::Relaxed);
        let hooked = connection.commit_hook(Some(refuse));
        hooked.map_err(|error| Fault::from(error).into_error(path))?;
        Ok(connection)
    }
}

/// Whether our hook made a COMMIT fail.
fn is_stray_commit(error: &rusqlite::Error) -> bool {
    error.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK)
}

fn broken() -> Error {
    let message = "the transaction was ended from inside (by COMMIT, ROLLBACK, a conflict clause \
                   that rolls back, or a failure of the disk) and everything in it is rolled back; \
                   leave its end to the store";
    Error::new(ErrorKind::Unavailable, message)
}
