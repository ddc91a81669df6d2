//! What the output of a transform tells.

use std::collections::BTreeSet;

use super::history::{Fate, History};
use super::job::Class;
use super::place::{PARTITIONS, Run, until};
use super::reader::{Entry, Reader};

/// Checks that somebody who read the output all the time saw what is there, and nothing else, in
/// order. Nobody may work any more. Returns what is worth telling.
pub(crate) async fn audit(run: &Run) -> String {
    let Some(reader) = run.reader() else {
        let calls = run.sink.calls().filter(|_| run.class == Class::Guarded);
        return calls.map(|calls| format!("{calls} calls, ")).unwrap_or_default();
    };
    let output = format!("{}-out", run.name);
    run.is_without_transactions().await;
    let all = Reader::start(run.bootstrap(), &output, PARTITIONS, "read_uncommitted");
    let late = Reader::start(run.bootstrap(), &output, PARTITIONS, "read_committed");
    until("the end", async || all.is_at_end() && late.is_at_end()).await;
    until("the reader is there", async || reader.count() >= late.count()).await;
    let committed: BTreeSet<_> = late.entries().into_iter().collect();
    let fate = |entry: &Entry| match committed.contains(entry) {
        true => Fate::Committed,
        false => Fate::Aborted,
    };
    let writes: Vec<_> = all.entries().into_iter().map(|it| (it.clone(), fate(&it))).collect();
    let aborted = writes.iter().filter(|(_, fate)| *fate == Fate::Aborted).count();
    let history = History { writes, readers: vec![reader.polls(), late.polls()] };
    let anomalies = history.anomalies();
    assert!(anomalies.is_empty(), "{}: {anomalies:?}", run.name);
    let seen: BTreeSet<_> = reader.entries().into_iter().collect();
    assert!(seen == committed, "{}: a reader saw something else than what is there", run.name);
    format!("{aborted} outputs aborted, ")
}
