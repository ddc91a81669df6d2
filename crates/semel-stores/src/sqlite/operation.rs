//! The store's operations inside a transaction that somebody else begins and ends.

use rusqlite::{Connection, OptionalExtension, params};
use semel::protocol::{self, Change};
use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal};
use semel::{Error, ErrorKind, Record, RecordId, Timestamp};

use super::fault::Fault;
use super::row;

/// The most records that one sweep deletes, so that nobody waits long behind it.
const SWEEP_MAX: usize = 10_000;

/// What a caller asks of the writer.
#[derive(Debug)]
pub(super) enum Request {
    Claim(ClaimRequest),
    Complete(Completion),
    Release(Release),
    Renew(Renewal),
    Sweep(usize),
}

/// What the writer answers.
#[derive(Debug)]
pub(super) enum Answer {
    Claimed(Claimed),
    Done,
    Swept(usize),
    Until(Timestamp),
}

/// One transaction on the file, with the counter that all keys share.
pub(super) struct Session<'a> {
    connection: &'a Connection,
    now: Timestamp,
    /// The counter, once it was read, and whether it was raised.
    counter: Option<(u64, bool)>,
    wrote: bool,
}

impl<'a> Session<'a> {
    /// `connection` must be inside a transaction that holds the write lock.
    pub(super) fn new(connection: &'a Connection, now: Timestamp) -> Self {
        Self { connection, now, counter: None, wrote: false }
    }

    /// Whether there is anything to commit.
    pub(super) fn wrote(&self) -> bool {
        self.wrote
    }

    pub(super) fn run(&mut self, request: &Request) -> Result<Answer, Fault> {
        match request {
            Request::Claim(request) => self.claim(request).map(Answer::Claimed),
            Request::Complete(request) => self.complete(request).map(Answer::Until),
            Request::Release(request) => {
                let change = protocol::release(self.read(&request.id)?, request, self.now)?;
                self.apply(&request.id, change)?;
                Ok(Answer::Done)
            }
            Request::Renew(request) => {
                let record = self.read(&request.id)?;
                let (until, change) = protocol::renew(record, request, self.now)?;
                self.apply(&request.id, change)?;
                Ok(Answer::Until(until))
            }
            Request::Sweep(limit) => self.sweep(*limit).map(Answer::Swept),
        }
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Result<Claimed, Fault> {
        let record = self.read(&request.id)?;
        let next = self.counter()? + 1;
        let mut raised = false;
        let (claimed, change) = protocol::claim(record, request, self.now, || {
            raised = true;
            next
        });
        if raised {
            self.counter = Some((next, true));
        }
        self.apply(&request.id, change)?;
        self.audit(request, &claimed)?;
        Ok(claimed)
    }

    pub(super) fn complete(&mut self, request: &Completion) -> Result<Timestamp, Fault> {
        let record = self.read(&request.id)?;
        let (expires_at, change) = protocol::complete(record, request, self.now)?;
        self.apply(&request.id, change)?;
        Ok(expires_at)
    }

    pub(super) fn commit_step(&mut self, request: &Renewal) -> Result<Timestamp, Fault> {
        let record = self.read(&request.id)?;
        let (until, change) = protocol::commit_step(record, request, self.now)?;
        self.apply(&request.id, change)?;
        Ok(until)
    }

    /// Writes the counter back, if it was raised. The last thing before a commit.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        if let Some((counter, true)) = self.counter {
            let update = "UPDATE semel_meta SET value = ?1 WHERE name = 'counter'";
            self.connection.prepare_cached(update)?.execute([row::signed(counter)])?;
            self.counter = Some((counter, false));
        }
        Ok(())
    }

    fn read(&self, id: &RecordId) -> Result<Option<Record>, Fault> {
        row::read(self.connection, id)
    }

    fn apply(&mut self, id: &RecordId, change: Change) -> Result<(), Fault> {
        match change {
            Change::Keep => return Ok(()),
            Change::Put(record) => row::write(self.connection, id, &record)?,
            Change::Remove => row::remove(self.connection, id)?,
        }
        self.wrote = true;
        Ok(())
    }

    fn counter(&mut self) -> Result<u64, Fault> {
        if let Some((counter, _)) = self.counter {
            return Ok(counter);
        }
        let select = "SELECT value FROM semel_meta WHERE name = 'counter'";
        let mut select = self.connection.prepare_cached(select)?;
        let counter: Option<i64> = select.query_row((), |row| row.get(0)).optional()?;
        // Guessed too low it would be given twice; and there must be a number above it.
        let counter = counter.and_then(|it| u64::try_from(it).ok());
        let counter = counter.filter(|it| *it < i64::MAX.unsigned_abs()).ok_or_else(|| {
            let message = "the store's counter is lost or no number; stop all writers and restore \
                           the file from a copy";
            Error::new(ErrorKind::Corrupt, message)
        })?;
        self.counter = Some((counter, false));
        Ok(counter)
    }

    fn audit(&mut self, request: &ClaimRequest, claimed: &Claimed) -> Result<(), Fault> {
        let (Some(takeover), Claimed::Acquired { fence, .. }) = (&request.takeover, claimed) else {
            return Ok(());
        };
        // A takeover whose answer was lost is sent again with the same fence: one entry.
        let insert = "INSERT OR IGNORE INTO semel_audit \
            (key, tenant, operation, counter, nonce, at, action, actor, reason) \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let id = &request.id;
        self.connection.prepare_cached(insert)?.execute(params![
            id.key.as_str(),
            id.tenant.as_str(),
            id.operation.as_str(),
            row::signed(fence.counter),
            fence.nonce.as_bytes(),
            row::millis(self.now),
            takeover.action.name(),
            takeover.actor,
            takeover.reason,
        ])?;
        self.wrote = true;
        Ok(())
    }

    fn sweep(&mut self, limit: usize) -> Result<usize, Fault> {
        let limit = limit.min(SWEEP_MAX);
        let delete = "DELETE FROM semel_record WHERE rowid IN (SELECT rowid FROM semel_record \
            WHERE state = 'completed' AND deadline <= ?1 ORDER BY deadline LIMIT ?2)";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut delete = self.connection.prepare_cached(delete)?;
        let swept = delete.execute((row::millis(self.now), limit))?;
        self.wrote |= swept > 0;
        Ok(swept)
    }
}
