//! Records that something else has changed.

use redis::AsyncCommands;
use semel::store::{Filter, Release, ReleaseVerdict};
use semel::{ErrorKind, Inspect, Store};

use super::support::{Place, acquire, answer, block_on, completion, finish, id, request};

/// Changes one byte of the only record.
async fn flip(place: &Place, at: isize) {
    let (record, mut connection) = (place.record().await, place.raw().await);
    let byte: Vec<u8> = connection.getrange(&record, at, at).await.unwrap();
    let _: usize = connection.setrange(&record, at, &[byte[0] ^ 0xff][..]).await.unwrap();
}

#[test]
fn a_damaged_record_is_refused_never_guessed_and_kept() {
    block_on(async {
        // State, counter, end of the retention, checksum, fingerprint, key, answer.
        for at in [5, 10, 44, 75, 95, 132, 160] {
            let Some(place) = Place::new().await else { return };
            let store = place.redis();
            let fence = acquire(&*store, "k").await;
            store.complete(&completion("k", fence, "done")).await.unwrap();
            flip(&place, at).await;
            let errors = [
                store.claim(&request("k")).await.unwrap_err(),
                store.get(&id("k")).await.unwrap_err(),
                store.complete(&completion("k", fence, "again")).await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
                assert!(error.to_string().contains(&place.record().await), "{error}");
            }
            flip(&place, at).await;
            assert_eq!(answer(&*store, "k").await, "done");
        }
    });
}

#[test]
fn a_claim_without_a_readable_state_can_neither_end_nor_be_taken() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        let fence = acquire(&*store, "k").await;
        flip(&place, 5).await;
        let release = Release { id: id("k"), fence, verdict: ReleaseVerdict::NotApplied };
        let kinds = [
            store.complete(&completion("k", fence, "x")).await.unwrap_err().kind(),
            store.release(&release).await.unwrap_err().kind(),
            store.claim(&request("k")).await.unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::Corrupt; 3]);
    });
}

/// The scripts that complete and renew change the checksum by what they change; that must not
/// cover up what was wrong before.
#[test]
fn damage_stays_visible_whatever_is_written_over_it() {
    block_on(async {
        // Revision, end of the lease, when it was changed and made, checksum, names.
        for at in [35, 44, 60, 68, 76, 100] {
            let Some(place) = Place::new().await else { return };
            let store = place.redis();
            let fence = acquire(&*store, "k").await;
            flip(&place, at).await;
            assert_eq!(store.claim(&request("k")).await.unwrap_err().kind(), ErrorKind::Corrupt);
            // The owner's fence fits, so its outcome may be stored; it is not replayed unseen.
            drop(store.complete(&completion("k", fence, "x")).await);
            let replay = store.claim(&request("k")).await;
            assert_eq!(replay.unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
        }
    });
}

#[test]
fn a_damaged_record_hides_no_other_from_a_list() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        finish(&*store, "a", "x").await;
        flip(&place, 5).await;
        finish(&*store, "b", "x").await;
        let listed = store.list(&Filter::default(), None, 10).await.unwrap();
        let states: Vec<_> = listed.iter().map(|it| (it.id.key.as_str(), it.state)).collect();
        assert_eq!(states, [("a", "damaged"), ("b", "completed")]);
    });
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_kept() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        let fence = acquire(&*store, "k").await;
        let (record, mut connection) = (place.record().await, place.raw().await);
        let _: usize = connection.setrange(&record, 4, &[2][..]).await.unwrap();
        for error in [
            store.claim(&request("k")).await.unwrap_err(),
            store.complete(&completion("k", fence, "x")).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::TooNew);
            assert!(error.to_string().contains("upgrade"), "{error}");
        }
        let byte: Vec<u8> = connection.getrange(&record, 4, 4).await.unwrap();
        assert_eq!(byte, [2]);
    });
}

/// The names and payload of a record that the scripts wrote are those that this program writes,
/// and its other keys are those of the documentation.
#[test]
fn a_finished_operation_leaves_one_record_and_the_counter_of_its_shard() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        let fence = acquire(&*store, "k").await;
        let (record, mut connection) = (place.record().await, place.raw().await);
        let shard = format!("{}:open", record.split(":r:").next().unwrap());
        let open: Vec<String> = connection.zrange(&shard, 0, -1).await.unwrap();
        assert_eq!(open, [record.as_str(), "fence"]);
        let life: i64 = connection.pttl(&record).await.unwrap();
        assert_eq!(life, -1, "an open record never expires");
        store.complete(&completion("k", fence, "done")).await.unwrap();
        let life: i64 = connection.pttl(&record).await.unwrap();
        assert!((3_590_000..=3_600_000).contains(&life), "{life}");
        let left: Vec<(String, u64)> = connection.zrange_withscores(&shard, 0, -1).await.unwrap();
        assert_eq!(left, [("fence".to_owned(), fence.counter)]);
        let mut keys = place.keys("").await;
        keys.sort();
        let mut expected = [format!("{}meta", place.prefix), shard, record];
        expected.sort();
        assert_eq!(keys, expected);
    });
}
