//! The public suite and the reference machine.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use semel::conformance::model::{Move, agree};
use semel::conformance::{self};
use semel::store::Claimed;
use semel::{Inspect, Store};

use super::support::{File, acquire, block_on, completion, request};

#[test]
fn the_sqlite_store_passes_the_suite() {
    let report = block_on(conformance::run(&File::new()));
    assert!(report.failed.is_empty(), "{report}");
    assert!(report.skipped.is_empty(), "{report}");
    assert_eq!(report.passed.len(), conformance::cases().count());
}

#[test]
fn a_store_that_commits_every_operation_by_itself_passes_the_suite() {
    let file = File::new();
    file.close();
    let single = file.options().group_max(1).queue_max(1).open(file.path()).unwrap();
    struct Single(File, Arc<semel_stores::sqlite::SqliteStore>);
    impl conformance::Harness for Single {
        fn store(&self) -> Arc<dyn Store> {
            self.1.clone()
        }
        fn inspect(&self) -> Option<Arc<dyn Inspect>> {
            Some(self.1.clone())
        }
        fn elapse(&self, duration: std::time::Duration) -> semel::BoxFuture<'_, ()> {
            self.0.elapse(duration)
        }
    }
    let report = block_on(conformance::run(&Single(file, Arc::new(single))));
    assert!(report.failed.is_empty(), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_sqlite_store_agrees_with_the_reference_machine(bytes in vec(any::<[u8; 3]>(), 0..60)) {
        let moves: Vec<_> = bytes.into_iter().map(Move::decode).collect();
        let agreed = block_on(agree(&File::new(), &moves));
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

#[test]
fn a_group_is_all_or_nothing_for_the_disk_and_single_for_its_members() {
    // One late completion among good ones fails alone.
    let file = File::new();
    let store = file.sqlite();
    let fences: Vec<_> = (0..20).map(|it| acquire(&*store, &format!("k{it}"))).collect();
    let late = semel::Fence { counter: fences[7].counter + 1000, ..fences[7] };
    let completions: Vec<_> = fences
        .iter()
        .enumerate()
        .map(|(it, fence)| {
            completion(&format!("k{it}"), if it == 7 { late } else { *fence }, "done")
        })
        .collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = completions
            .iter()
            .map(|completion| scope.spawn(|| block_on(store.complete(completion))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (it, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_ok(), it != 7, "k{it}: {answer:?}");
    }
}

#[test]
fn two_stores_on_one_file_share_records_counter_and_secret() {
    let file = File::new();
    let (one, other) = (file.sqlite(), file.open());
    assert_eq!(one.secret(), other.secret());
    let first = acquire(&*one, "shared");
    let seen = block_on(other.claim(&request("shared"))).unwrap();
    assert!(matches!(seen, Claimed::InFlight { .. }), "{seen:?}");
    let second = acquire(&other, "second");
    let third = acquire(&*one, "third");
    assert!(first.counter < second.counter && second.counter < third.counter);
}
