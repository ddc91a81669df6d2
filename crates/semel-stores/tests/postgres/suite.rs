//! The public suite and the reference machine.

use proptest::collection::vec;
use proptest::prelude::*;
use semel::conformance::model::{Move, agree};
use semel::conformance::{self};
use semel::store::Claimed;
use semel_stores::postgres::PostgresOptions;

use super::support::{Place, acquire, block_on, request, url};

#[test]
fn the_postgres_store_passes_the_suite() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let report = conformance::run(&place).await;
        assert!(report.failed.is_empty(), "{report}");
        assert!(report.skipped.is_empty(), "{report}");
        assert_eq!(report.passed.len(), conformance::cases().count());
    });
}

#[test]
fn a_store_that_sends_every_operation_by_itself_passes_the_suite() {
    block_on(async {
        let Some(url) = url() else { return };
        let options = PostgresOptions::default().batch_max(1).pool(2).transaction_pooler(true);
        let report = conformance::run(&Place::at(&url, options).await).await;
        assert!(report.failed.is_empty(), "{report}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_postgres_store_agrees_with_the_reference_machine(bytes in vec(any::<[u8; 3]>(), 0..60)) {
        let moves: Vec<_> = bytes.into_iter().map(Move::decode).collect();
        let agreed = block_on(async {
            match Place::new().await {
                Some(place) => agree(&place, &moves).await,
                None => Ok(()),
            }
        });
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

#[test]
fn two_stores_on_one_database_share_records_counter_and_secret() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (one, other) = (place.postgres(), place.open().await);
        assert_eq!(one.secret(), other.secret());
        let first = acquire(&*one, "shared").await;
        let seen = semel::Store::claim(&other, &request("shared")).await.unwrap();
        assert!(matches!(seen, Claimed::InFlight { .. }), "{seen:?}");
        let second = acquire(&other, "second").await;
        let third = acquire(&*one, "third").await;
        assert!(first.counter < second.counter && second.counter < third.counter);
    });
}
