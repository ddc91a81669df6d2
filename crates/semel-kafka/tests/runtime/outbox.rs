//! From the database into the log.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use semel::ErrorKind;
use semel_kafka::log::{LogErrorKind, Outgoing};
use semel_kafka::outbox::Relay;
use semel_kafka::{KEY_HEADER, Op, SqliteLedger, TestLog};
use tempfile::TempDir;

use super::storms::{Trouble, make, trouble};
use super::support::{Switch, assert_once_and_in_order, block_on, header, log, number, read};

const KEYS: u32 = 5;

struct Place {
    folder: TempDir,
    ledger: Arc<SqliteLedger>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Arc::new(SqliteLedger::open(folder.path().join("shop.db")).unwrap());
        Self { folder, ledger }
    }

    /// What a request does: rows of its own and a record, together.
    fn write(&self, numbers: std::ops::Range<u32>) -> Vec<String> {
        let path = self.folder.path().join("shop.db");
        let mut connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let transaction = connection.transaction().unwrap();
        let ids = numbers.map(|number| {
            let record = Outgoing::to("out").key((number % KEYS).to_string());
            let record = record.value(number.to_string());
            SqliteLedger::enqueue(&transaction, "orders", &record).unwrap()
        });
        let ids = ids.collect();
        transaction.commit().unwrap();
        ids
    }

    fn relay(&self, log: &TestLog) -> Relay {
        let (log, table) = (Arc::new(log.clone()), Arc::clone(&self.ledger));
        let relay = Relay::new(log, table, "orders", "out").unwrap();
        relay.batch_max(7).poll_every(Duration::from_millis(2))
    }
}

#[test]
fn rows_arrive_once_in_order_and_with_their_ids() {
    block_on(async {
        let (log, place, switch) = (log(), Place::new(), Switch::new());
        let ids = place.write(0..30);
        let (relay, until) = (place.relay(&log), switch.until());
        let run = tokio::spawn(async move { relay.run(until).await });
        let mut arrived = read(&log, "out", 30).await;
        switch.off();
        run.await.unwrap().unwrap();
        let numbers: Vec<_> = arrived.iter().map(number).collect();
        assert_once_and_in_order(&numbers, 30, KEYS);
        arrived.sort_by_key(number);
        let keys: Vec<_> = arrived.iter().map(|it| header(it, KEY_HEADER)).collect();
        assert_eq!(keys, ids);
        assert!(ids.iter().all(|id| id.len() == 32), "ids are unlike those of any other outbox");
    });
}

#[test]
fn a_row_that_the_log_refuses_stops_the_relay_by_name() {
    block_on(async {
        let (log, place) = (log(), Place::new());
        place.write(0..3);
        log.fail_next(Op::Send, LogErrorKind::Invalid);
        let error = place.relay(&log).run(std::future::pending()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("the outbox `orders`"), "{error}");
        assert!(log.topic_records("out").is_empty());
    });
}

#[test]
fn a_second_relay_ends_the_first_one() {
    block_on(async {
        let (log, place, switch) = (log(), Place::new(), Switch::new());
        let first = place.relay(&log);
        let first = tokio::spawn(async move { first.run(std::future::pending()).await });
        place.write(0..5);
        drop(read(&log, "out", 5).await);
        let (second, until) = (place.relay(&log), switch.until());
        let second = tokio::spawn(async move { second.run(until).await });
        for number in 5..200 {
            place.write(number..number + 1);
            if first.is_finished() {
                break;
            }
            drop(read(&log, "out", number as usize + 1).await);
        }
        assert_eq!(first.await.unwrap().unwrap_err().kind(), ErrorKind::ClaimLost);
        switch.off();
        second.await.unwrap().unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn rows_arrive_once_whatever_the_log_does_and_however_relays_end(
        troubles in proptest::collection::vec(trouble(), 5..40),
    ) {
        let (log, place) = (log(), Place::new());
        block_on(storm(&log, &place, troubles));
        let numbers: Vec<_> = log.topic_records("out").iter().map(number).collect();
        assert_once_and_in_order(&numbers, 200, KEYS);
    }
}

async fn storm(log: &TestLog, place: &Place, troubles: Vec<Trouble>) {
    let mut troubles = troubles.into_iter();
    for round in 0..10 {
        place.write(round * 20..(round + 1) * 20);
        let relay = place.relay(log);
        let run = tokio::spawn(async move { relay.run(std::future::pending()).await });
        let wanted = (round as usize + 1) * 20;
        // The last round has to get through; the others end somewhere.
        let mut patience = if round == 9 { u32::MAX } else { 50 };
        while log.topic_records("out").len() < wanted && patience > 0 {
            troubles.next().into_iter().for_each(|trouble| make(log, trouble));
            assert!(!run.is_finished(), "the relay ended");
            tokio::task::yield_now().await;
            patience -= 1;
        }
        run.abort();
        drop(run.await);
    }
}
