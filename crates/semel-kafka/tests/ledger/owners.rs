//! Who may move a position.

use semel::ErrorKind;
use semel_kafka::Window;
use semel_kafka::ledger::Ledger;

use super::support::{Bench, name, on_both, partition, sighting, take, to};

on_both!(
    a_position_moves_with_its_owner,
    a_position_that_is_not_the_named_one_does_not_move,
    an_earlier_owner_moves_nothing,
    all_partitions_move_or_none,
    taking_waits_for_a_transaction_that_is_about_to_commit,
    partitions_come_back_in_the_order_of_the_question,
);

async fn a_position_moves_with_its_owner<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let first = take(&*ledger, &group, &[0]).await;
    assert_eq!((first[0].epoch, first[0].next), (1, None));
    let mut transaction = ledger.begin().await.unwrap();
    ledger.advance(&mut transaction, &group, &[to(&first[0], 7)]).await.unwrap();
    ledger.commit(transaction).await.unwrap();
    let second = take(&*bench.other(), &group, &[0]).await;
    assert_eq!((second[0].epoch, second[0].next), (2, Some(7)));
}

async fn a_position_that_is_not_the_named_one_does_not_move<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let mut owned = take(&*ledger, &group, &[0]).await.remove(0);
    owned.next = Some(3);
    let mut transaction = ledger.begin().await.unwrap();
    let error = ledger.advance(&mut transaction, &group, &[to(&owned, 4)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ClaimLost);
    assert!(error.to_string().contains("orders-0"), "{error}");
    ledger.rollback(transaction).await;
    assert_eq!(take(&*ledger, &group, &[0]).await[0].next, None);
}

async fn an_earlier_owner_moves_nothing<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let old = take(&*ledger, &group, &[0]).await.remove(0);
    let new = take(&*bench.other(), &group, &[0]).await.remove(0);
    let mut transaction = ledger.begin().await.unwrap();
    let error = ledger.advance(&mut transaction, &group, &[to(&old, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ClaimLost);
    assert!(!error.outcome_unknown());
    ledger.rollback(transaction).await;
    let mut transaction = ledger.begin().await.unwrap();
    ledger.advance(&mut transaction, &group, &[to(&new, 1)]).await.unwrap();
    ledger.commit(transaction).await.unwrap();
}

async fn all_partitions_move_or_none<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let mine = take(&*ledger, &group, &[0, 1, 2]).await;
    take(&*bench.other(), &group, &[1]).await;
    let moves: Vec<_> = mine.iter().map(|owned| to(owned, 9)).collect();
    let mut transaction = ledger.begin().await.unwrap();
    let error = ledger.advance(&mut transaction, &group, &moves).await.unwrap_err();
    assert!(error.to_string().contains("orders-1"), "{error}");
    drop(transaction);
    for owned in take(&*ledger, &group, &[0, 1, 2]).await {
        assert_eq!(owned.next, None);
    }
}

async fn taking_waits_for_a_transaction_that_is_about_to_commit<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let old = take(&*ledger, &group, &[0]).await.remove(0);
    let mut transaction = ledger.begin().await.unwrap();
    ledger.advance(&mut transaction, &group, &[to(&old, 5)]).await.unwrap();
    let (other, others_group) = (bench.other(), group.clone());
    let taking = tokio::spawn(async move { take(&*other, &others_group, &[0]).await });
    bench.somebody_waits().await;
    let seen = [sighting("a", 0, None)];
    let window = Window::endless();
    assert_eq!(ledger.remember(&mut transaction, &group, &window, &seen).await.unwrap(), [true]);
    ledger.commit(transaction).await.unwrap();
    let new = taking.await.unwrap().remove(0);
    assert_eq!((new.epoch, new.next), (2, Some(5)));
    // The old owner does not know it yet.
    let mut transaction = ledger.begin().await.unwrap();
    let moved = semel_kafka::ledger::Owned { next: Some(5), ..old };
    let error = ledger.advance(&mut transaction, &group, &[to(&moved, 6)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ClaimLost);
}

async fn partitions_come_back_in_the_order_of_the_question<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let taken = take(&*ledger, &group, &[3, 0, 2]).await;
    let found: Vec<_> = taken.into_iter().map(|owned| owned.partition).collect();
    assert_eq!(found, [partition(3), partition(0), partition(2)]);
}
