//! The operations on the hot path: one script each, many of them in one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use redis::Value;
use semel::{Error, ErrorKind, Timestamp};

use super::fault::Fault;
use super::link::{Link, Patience};
use super::options::RedisOptions;
use super::script::Script;
use crate::coalesce::{Bounds, Coalescer};

/// One operation: its keys and its arguments.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Vec<u8>>,
}

/// One attempt at an operation, and how long it may stand in line.
#[derive(Debug)]
struct Attempt {
    op: Arc<Op>,
    until: Timestamp,
}

/// What a script answered to one operation.
#[derive(Debug)]
pub(super) struct Seen {
    /// The server's time.
    pub(super) now: Timestamp,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// There is no record.
    Absent,
    /// It is done; the number says more.
    Done(u64),
    /// It is not done; this record has to be looked at.
    Record(Bytes),
}

/// Gathers operations of one kind into calls of one script.
#[derive(Debug)]
pub(super) struct Lane(Coalescer<Attempt, Result<Seen, Fault>>);

impl Lane {
    /// `common` stands in front of all arguments, behind the clock's offset.
    pub(super) fn new(
        link: &Arc<Link>,
        options: &RedisOptions,
        script: &'static Script,
        common: Option<String>,
    ) -> Self {
        let mut bounds = Bounds {
            lanes: options.batches_in_flight,
            batch_max: options.batch_max,
            queue_max: options.queue_max,
            // The server is one thread, and a call costs it more than an operation in it.
            gathers: true,
        };
        if link.is_cluster() {
            // A call must stay within one slot, so there is nothing to gather.
            let lanes = options.queue_max;
            bounds = Bounds { lanes, batch_max: 1, gathers: false, ..bounds };
        }
        let (link, offset) = (Arc::clone(link), Arc::clone(&options.clock_offset));
        Self(Coalescer::new(bounds, move |ops: Vec<Attempt>| {
            let (link, common) = (Arc::clone(&link), common.clone());
            let offset = offset_argument(&offset);
            Box::pin(async move {
                let common = common.as_deref().map(str::as_bytes);
                let common: Vec<_> = std::iter::once(&*offset).chain(common).collect();
                run(&link, script, common, &ops).await.into_iter().map(Ok).collect()
            })
        }))
    }

    /// Runs one operation, again and again while that may help.
    pub(super) async fn submit(&self, op: Op, patience: &mut Patience<'_>) -> Result<Seen, Error> {
        let op = Arc::new(op);
        loop {
            let attempt = Attempt { op: Arc::clone(&op), until: patience.attempt_until() };
            match self.0.submit(attempt).await.map_err(|error| patience.mark(error))? {
                Ok(seen) => return Ok(seen),
                Err(fault) => patience.after(fault).await?,
            }
        }
    }
}

/// The test clock's offset as an argument.
pub(super) fn offset_argument(offset: &AtomicI64) -> Vec<u8> {
    offset.load(Ordering::SeqCst).to_string().into_bytes()
}

async fn run(
    link: &Link,
    script: &Script,
    common: Vec<&[u8]>,
    attempts: &[Attempt],
) -> Vec<Result<Seen, Fault>> {
    let now = link.now();
    // It queued for too long behind a server that hangs; a later answer helps nobody.
    let is_late = |attempt: &Attempt| attempt.until <= now;
    let (mut keys, mut arguments) = (Vec::new(), common);
    for Attempt { op, .. } in attempts.iter().filter(|attempt| !is_late(attempt)) {
        keys.extend(op.keys.iter().map(String::as_str));
        arguments.extend(op.arguments.iter().map(Vec::as_slice));
    }
    let mut answers = match keys.is_empty() {
        true => Ok(Vec::new().into_iter()),
        false => ask(link, script, &keys, &arguments).await.map(Vec::into_iter),
    };
    let next = |attempt| match (is_late(attempt), &mut answers) {
        (true, _) => {
            let what = "it does not answer, and the operation waited its whole patience in line";
            Err(Fault::lasting(ErrorKind::Unavailable, what))
        }
        (false, Ok(answers)) => {
            answers.next().unwrap_or_else(|| Err(Fault::unexpected("too few answers")))
        }
        (false, Err(fault)) => Err(fault.clone()),
    };
    attempts.iter().map(next).collect()
}

/// Asks once for several operations of one script.
pub(super) async fn ask(
    link: &Link,
    script: &Script,
    keys: &[&str],
    arguments: &[&[u8]],
) -> Result<Vec<Result<Seen, Fault>>, Fault> {
    let (answer, number) = link.run_on_wire(script, keys, arguments).await?;
    let answers = parse(answer)?;
    // A former primary reads for us and refuses only the writes of a script.
    if answers.iter().any(|it| it.as_ref().is_err_and(|fault| fault.spoils_connection)) {
        link.leave(number);
    }
    Ok(answers)
}

/// The time, then one answer for each operation.
pub(super) fn parse(answer: Value) -> Result<Vec<Result<Seen, Fault>>, Fault> {
    let Value::Array(answers) = answer else { return Err(Fault::unexpected("no list")) };
    let mut answers = answers.into_iter();
    let Some(Value::Int(now)) = answers.next() else { return Err(Fault::unexpected("no time")) };
    let now = Timestamp::from_millis(unsigned(now));
    Ok(answers
        .map(|answer| {
            let what = match answer {
                Value::Nil => What::Absent,
                Value::Int(number) => What::Done(unsigned(number)),
                Value::BulkString(record) => What::Record(record.into()),
                Value::Array(error) => return Err(refused(&error)),
                _ => return Err(Fault::unexpected("an unknown type")),
            };
            Ok(Seen { now, what })
        })
        .collect())
}

/// The server refused this one operation of a call.
fn refused(error: &[Value]) -> Fault {
    let Some(Value::BulkString(text)) = error.first() else {
        return Fault::unexpected("an error without text");
    };
    let text = String::from_utf8_lossy(text);
    let (code, detail) = text.trim_start_matches('-').split_once(' ').unwrap_or((&text, ""));
    Fault::of_answer(code, detail)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
