//! Connections that break.

use std::time::Duration;

use semel::ErrorKind;
use semel_kafka::ledger::Ledger;
use semel_kafka::{PostgresLedger, Window};
use semel_testkit::FaultProxy;
use semel_testkit::servers::{PgBouncer, Postgres, skips};

use super::support::{Bench, OnPostgres, block_on, name, patient, pool, see, take, to};

#[test]
fn a_commit_whose_reply_is_lost_has_an_unknown_outcome() {
    block_on(async {
        let Some(bench) = OnPostgres::new().await else { return };
        let address = bench.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
        let proxy = FaultProxy::start(address).unwrap();
        let ledger = patient(pool(&proxy.url(&bench.url), 4));
        let group = name("group");
        let owned = take(&ledger, &group, &[0]).await.remove(0);
        let mut transaction = ledger.begin().await.unwrap();
        ledger.advance(&mut transaction, &group, &[to(&owned, 1)]).await.unwrap();
        proxy.lose_reply(0);
        let error = ledger.commit(transaction).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.outcome_unknown(), "{error}");
        // Taking it again tells what became of it.
        assert_eq!(take(&ledger, &group, &[0]).await[0].next, Some(1));
    });
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for() {
    block_on(async {
        let Some(bench) = OnPostgres::new().await else { return };
        let address = bench.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
        let proxy = FaultProxy::start(address).unwrap();
        let only = pool(&proxy.url(&bench.url), 1);
        let ledger = PostgresLedger::new(only).response_timeout(Duration::from_secs(2));
        let group = name("group");
        let owned = take(&ledger, &group, &[0]).await.remove(0);
        let mut transaction = ledger.begin().await.unwrap();
        proxy.lose_replies();
        let moves = [to(&owned, 1)];
        let error = ledger.advance(&mut transaction, &group, &moves).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.outcome_unknown(), "nothing is committed: {error}");
        let error = ledger.commit(transaction).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        proxy.heal();
        // The only connection of the pool was given up, and a new one works.
        let window = Window::endless();
        assert_eq!(see(&ledger, &group, &window, &["a"]).await, [true]);
    });
}

#[test]
fn a_transaction_that_is_never_ended_does_not_hold_up_its_successor_for_ever() {
    block_on(async {
        let Some(bench) = OnPostgres::new().await else { return };
        let (ledger, group) = (bench.ledger(), name("group"));
        let owned = take(&*ledger, &group, &[0]).await.remove(0);
        let mut stuck = ledger.begin().await.unwrap();
        ledger.advance(&mut stuck, &group, &[to(&owned, 1)]).await.unwrap();
        let hasty =
            PostgresLedger::new(pool(&bench.url, 1)).response_timeout(Duration::from_millis(900));
        let partitions = [owned.partition.clone()];
        let error = hasty.take(&group, &partitions).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("semel_kafka.position"), "{error}");
        assert!(!error.outcome_unknown());
        ledger.rollback(stuck).await;
        assert_eq!(take(&hasty, &group, &[0]).await[0].epoch, 2);
    });
}

#[test]
fn a_pooler_of_transactions_may_stand_in_between() {
    if skips(Postgres::missing()) || skips(PgBouncer::missing()) {
        return;
    }
    block_on(async {
        let postgres = Postgres::start().unwrap();
        let pooler = PgBouncer::start(&postgres).unwrap();
        patient(pool(&postgres.url(), 1)).migrate().await.unwrap();
        // More clients than the server would notice, each on any of its sessions.
        let ledgers: Vec<_> = (0..4).map(|_| patient(pool(&pooler.url(), 1))).collect();
        let group = name("group");
        let window = Window::endless();
        for round in 0..3 {
            for (at, ledger) in ledgers.iter().enumerate() {
                ledger.check().await.unwrap();
                let owned = take(ledger, &group, &[0]).await.remove(0);
                let mut transaction = ledger.begin().await.unwrap();
                let next = owned.next.unwrap_or_default() + 1;
                ledger.advance(&mut transaction, &group, &[to(&owned, next)]).await.unwrap();
                ledger.commit(transaction).await.unwrap();
                let is_new = round == 0 && at == 0;
                assert_eq!(see(ledger, &group, &window, &["a"]).await, [is_new]);
            }
        }
        assert_eq!(take(&ledgers[0], &group, &[0]).await[0].next, Some(12));
    });
}
