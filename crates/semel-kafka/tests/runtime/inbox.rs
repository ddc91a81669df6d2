//! Id, effect and position in one transaction, in SQLite.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use semel_kafka::log::{Outgoing, Record};
use semel_kafka::{
    Clockwork, ConsumerOptions, Failed, Identity, Inbox, Refresh, SqliteLedger, SqliteTransaction,
    TestLog, Window, dead_letter,
};
use tempfile::TempDir;

use super::storms::{Trouble, make, trouble};
use super::support::{
    Switch, assert_once_and_in_order, block_on, fill, header, log, number, options, read,
};

/// A database with a table of the handler's own.
pub(crate) struct Place {
    folder: TempDir,
    ledger: Arc<SqliteLedger>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(SqliteLedger::open(folder.path().join("orders.db")).unwrap());
        let place = Self { folder, ledger };
        place.open().execute_batch("CREATE TABLE effect (number INTEGER)").unwrap();
        place
    }

    fn open(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("orders.db")).unwrap()
    }

    /// The effects, in the order in which they were committed.
    pub(crate) fn effects(&self) -> Vec<u32> {
        let connection = self.open();
        let mut select = connection.prepare("SELECT number FROM effect ORDER BY rowid").unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    pub(crate) fn inbox(&self, log: &TestLog, options: ConsumerOptions) -> Inbox<SqliteLedger> {
        let day = Duration::from_secs(86_400);
        let window = Window::of(day, Clockwork::Wall, Refresh::Fixed).unwrap();
        let (log, ledger) = (Arc::new(log.clone()), Arc::clone(&self.ledger));
        Inbox::new(log, ledger, Identity::header("id"), window, options).unwrap()
    }
}

pub(crate) async fn insert(
    record: &Record,
    transaction: &mut SqliteTransaction,
) -> Result<(), Failed> {
    let number = number(record);
    let insert = "INSERT INTO effect (number) VALUES (?1)";
    transaction.with(move |connection| connection.execute(insert, [number])).await?;
    Ok(())
}

#[test]
fn records_that_were_written_twice_take_effect_once() {
    block_on(async {
        let (log, place, switch) = (log(), Place::new(), Switch::new());
        fill(&log, 0..100, 7);
        fill(&log, 0..100, 5); // The same ids, partly in other partitions.
        fill(&log, 100..101, 1);
        let (inbox, until) = (place.inbox(&log, options("in")), switch.until());
        let seen = Arc::new(Mutex::new(0));
        inbox
            .run(
                |record, transaction| {
                    let (seen, switch) = (Arc::clone(&seen), switch.clone());
                    Box::pin(async move {
                        insert(record, transaction).await?;
                        let mut seen = seen.lock().unwrap();
                        *seen += 1;
                        if *seen == 101 {
                            switch.off();
                        }
                        Ok(())
                    })
                },
                until,
            )
            .await
            .unwrap();
        let mut effects = place.effects();
        effects.sort_unstable();
        assert_eq!(effects, (0..101).collect::<Vec<_>>());
    });
}

#[test]
fn a_handler_that_fails_leaves_nothing_and_its_record_goes_to_the_dead_letters() {
    block_on(async {
        let (log, place, switch) = (log(), Place::new(), Switch::new());
        fill(&log, 0..60, 6);
        let (inbox, until) = (place.inbox(&log, options("in")), switch.until());
        let run = tokio::spawn(async move {
            let handled = inbox.run(
                |record, transaction| {
                    Box::pin(async move {
                        insert(record, transaction).await?;
                        match number(record) {
                            11 => Err(Failed::retry("eleven")),
                            12 => panic!("twelve"),
                            _ => Ok(()),
                        }
                    })
                },
                until,
            );
            handled.await
        });
        let dead = read(&log, "dead", 2).await;
        // The rest of the partitions is done once what follows the letters is.
        while place.effects().len() < 58 {
            tokio::task::yield_now().await;
        }
        switch.off();
        run.await.unwrap().unwrap();
        let effects = place.effects();
        assert_eq!(effects.len(), 58);
        assert!(!effects.contains(&11) && !effects.contains(&12), "{effects:?}");
        for letter in &dead {
            assert_eq!(header(letter, dead_letter::REASON), "handler-failed");
            assert_eq!(header(letter, dead_letter::ATTEMPTS), "3");
        }
    });
}

#[test]
fn the_position_in_the_ledger_is_the_truth_and_not_the_one_in_the_log() {
    block_on(async {
        let (log, place) = (log(), Place::new());
        fill(&log, 0..30, 3);
        for round in 1..=3 {
            // Each round begins with a group that the log knows nothing of.
            let options = ConsumerOptions::new("group", ["in"], semel_kafka::Poison::stop(1));
            let options = options.commit_every(Duration::from_secs(3600));
            let (inbox, switch) = (place.inbox(&log, options), Switch::new());
            fill(&log, round * 30..(round + 1) * 30, 3);
            let until = switch.until();
            let run = tokio::spawn(async move {
                let handled =
                    inbox.run(|record, transaction| Box::pin(insert(record, transaction)), until);
                handled.await
            });
            let wanted = (round as usize + 1) * 30;
            while place.effects().len() < wanted {
                tokio::task::yield_now().await;
            }
            // Not in an orderly way: nothing is committed to the log.
            run.abort();
            drop(run.await);
        }
        assert_once_and_in_order(&place.effects(), 120, 3);
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn effects_in_the_database_happen_once_and_in_order(
        troubles in proptest::collection::vec(trouble(), 5..60),
    ) {
        const RECORDS: u32 = 300;
        let (log, place) = (log(), Place::new());
        block_on(storm(&log, &place, troubles, RECORDS));
        assert_once_and_in_order(&place.effects(), RECORDS, 11);
    }
}

async fn storm(log: &TestLog, place: &Place, troubles: Vec<Trouble>, records: u32) {
    fill(log, 0..records, 11);
    fill(log, 0..records, 11);
    let troubles = Arc::new(Mutex::new(troubles.into_iter()));
    let switch = Switch::new();
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let inbox = place.inbox(log, options("in").batch_max(10));
            let (log, troubles) = (log.clone(), Arc::clone(&troubles));
            let until = switch.until();
            tokio::spawn(async move {
                let handled = inbox.run(
                    |record, transaction| {
                        let trouble = troubles.lock().unwrap().next();
                        if let Some(trouble) = trouble {
                            make(&log, trouble);
                        }
                        Box::pin(insert(record, transaction))
                    },
                    until,
                );
                handled.await
            })
        })
        .collect();
    // What is written last in each partition comes last: then everything has been handled.
    for key in 0..33 {
        let last = Outgoing::to("in").key(key.to_string()).value((records + key).to_string());
        log.append(last.header("id", format!("last-{key}"))).unwrap();
    }
    while place.effects().len() < records as usize + 33 {
        assert!(runs.iter().all(|run| !run.is_finished()), "a consumer ended");
        tokio::task::yield_now().await;
    }
    switch.off();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    let connection = place.open();
    connection.execute("DELETE FROM effect WHERE number >= ?1", [records]).unwrap();
}
