//! Records that wait for the relay.

use bytes::Bytes;
use semel::Timestamp;
use semel_kafka::ledger::{Batch, Ledger, OutboxTable};
use semel_kafka::log::{Header, Outgoing};

use super::support::{Bench, OnPostgres, block_on, name, on_both};

on_both!(
    a_record_leaves_as_it_was_put_in,
    a_transaction_that_is_undone_sends_nothing,
    a_sealed_batch_stays_the_same_until_it_is_discarded,
    relays_at_the_same_time_seal_one_batch,
    outboxes_have_numbers_of_their_own,
);

async fn put<B: Bench>(bench: &B, outbox: &str, values: &[&'static str]) -> Vec<String> {
    let ledger = bench.ledger();
    let mut transaction = ledger.begin().await.unwrap();
    let mut ids = Vec::new();
    for value in values {
        let record = Outgoing::to("events").value(*value);
        ids.push(B::enqueue(&mut transaction, outbox, &record).await);
    }
    ledger.commit(transaction).await.unwrap();
    ids
}

fn values(batch: &Batch) -> Vec<&str> {
    let value = |record: &(String, Outgoing)| record.1.value.clone().unwrap();
    let values = batch.records.iter().map(value);
    values.map(|value| std::str::from_utf8(value.to_vec().leak()).unwrap()).collect()
}

async fn a_record_leaves_as_it_was_put_in<B: Bench>(bench: &B) {
    let (ledger, outbox) = (bench.ledger(), name("outbox"));
    let records = [
        Outgoing::to("bare"),
        Outgoing {
            topic: "full".into(),
            partition: Some(3),
            key: Some(Bytes::from_static(&[0, 255])),
            value: Some(Bytes::new()),
            headers: vec![
                Header::new("twice", &b"\x00\xfe"[..]),
                Header { name: "none".into(), value: None },
                Header::new("twice", ""),
                Header::new("quote\"d", "last"),
            ],
            timestamp: Some(Timestamp::from_millis(17)),
        },
    ];
    let mut transaction = ledger.begin().await.unwrap();
    let mut ids = Vec::new();
    for record in &records {
        ids.push(B::enqueue(&mut transaction, &outbox, record).await);
    }
    ledger.commit(transaction).await.unwrap();
    let batch = ledger.seal(&outbox, 10).await.unwrap().unwrap();
    assert_eq!(batch.records, ids.into_iter().zip(records).collect::<Vec<_>>());
}

async fn a_transaction_that_is_undone_sends_nothing<B: Bench>(bench: &B) {
    let (ledger, outbox) = (bench.ledger(), name("outbox"));
    let mut transaction = ledger.begin().await.unwrap();
    B::enqueue(&mut transaction, &outbox, &Outgoing::to("events")).await;
    ledger.rollback(transaction).await;
    assert_eq!(ledger.seal(&outbox, 10).await.unwrap(), None);
    assert_eq!(ledger.waiting(&outbox).await.unwrap(), (0, None));
    // No number was used.
    put(bench, &outbox, &["a"]).await;
    assert_eq!(ledger.seal(&outbox, 10).await.unwrap().unwrap().number, 0);
}

async fn a_sealed_batch_stays_the_same_until_it_is_discarded<B: Bench>(bench: &B) {
    let (ledger, outbox) = (bench.ledger(), name("outbox"));
    let ids = put(bench, &outbox, &["a", "b", "c"]).await;
    let first = ledger.seal(&outbox, 2).await.unwrap().unwrap();
    assert_eq!((first.number, values(&first)), (0, vec!["a", "b"]));
    assert_eq!(first.records[0].0, ids[0]);
    put(bench, &outbox, &["d"]).await;
    // A relay that starts after a crash finds it unchanged.
    let again = bench.other().seal(&outbox, 100).await.unwrap().unwrap();
    assert_eq!(again, first);
    let (many, since) = ledger.waiting(&outbox).await.unwrap();
    assert_eq!(many, 4);
    assert!(since.is_some());
    // One that was never sealed is not there to be discarded.
    ledger.discard(&outbox, 1).await.unwrap();
    assert_eq!(ledger.seal(&outbox, 2).await.unwrap().unwrap(), first);
    for _ in 0..2 {
        ledger.discard(&outbox, 0).await.unwrap();
    }
    let second = ledger.seal(&outbox, 100).await.unwrap().unwrap();
    assert_eq!((second.number, values(&second)), (1, vec!["c", "d"]));
    ledger.discard(&outbox, 0).await.unwrap();
    assert_eq!(ledger.seal(&outbox, 1).await.unwrap().unwrap(), second);
    ledger.discard(&outbox, 1).await.unwrap();
    assert_eq!(ledger.seal(&outbox, 1).await.unwrap(), None);
    put(bench, &outbox, &["e"]).await;
    assert_eq!(ledger.seal(&outbox, 1).await.unwrap().unwrap().number, 2);
}

async fn relays_at_the_same_time_seal_one_batch<B: Bench>(bench: &B) {
    for _ in 0..5 {
        let outbox = name("outbox");
        put(bench, &outbox, &["a", "b", "c"]).await;
        let relays: Vec<_> = (0..4)
            .map(|_| {
                let (ledger, outbox) = (bench.ledger(), outbox.clone());
                tokio::spawn(async move { ledger.seal(&outbox, 2).await.unwrap().unwrap() })
            })
            .collect();
        for relay in relays {
            let batch = relay.await.unwrap();
            assert_eq!((batch.number, values(&batch)), (0, vec!["a", "b"]));
        }
    }
}

async fn outboxes_have_numbers_of_their_own<B: Bench>(bench: &B) {
    for outbox in [name("outbox"), name("outbox")] {
        put(bench, &outbox, &["a"]).await;
        assert_eq!(bench.ledger().seal(&outbox, 1).await.unwrap().unwrap().number, 0);
    }
}

#[test]
fn a_relay_waits_for_one_that_is_sealing() {
    block_on(async {
        let Some(bench) = OnPostgres::new().await else { return };
        let (ledger, outbox) = (bench.ledger(), name("outbox"));
        put(&bench, &outbox, &["a", "b"]).await;
        let first = ledger.begin().await.unwrap();
        first.query("SELECT * FROM semel_kafka.seal($1, 1)", &[&outbox]).await.unwrap();
        let (session, its_outbox) = (name("session"), outbox.clone());
        let other = bench.named(&session);
        let second = tokio::spawn(async move { other.seal(&its_outbox, 2).await });
        bench.waits(&session).await;
        ledger.commit(first).await.unwrap();
        let batch = second.await.unwrap().unwrap().unwrap();
        assert_eq!((batch.number, values(&batch)), (0, vec!["a"]));
    });
}
