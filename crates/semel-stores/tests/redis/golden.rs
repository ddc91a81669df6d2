//! Records that version 1 wrote, on a server.

use redis::AsyncCommands;
use semel::store::{Claimed, Completion, Filter, StateFilter};
use semel::{
    Fence, Inspect, Key, Nonce, Operation, Outcome, RecordId, State, Store, Tenant, Verdict,
};

use super::support::{Place, block_on, request};

const GOLDEN: &str = include_str!("golden-1.txt");

fn id(key: &str) -> RecordId {
    RecordId {
        tenant: Tenant::new("acme").unwrap(),
        operation: Operation::new("create_order").unwrap(),
        key: Key::parse(key).unwrap(),
    }
}

fn fence(number: u8) -> Fence {
    let counter = 1_767_225_600_000_000 + u64::from(number);
    Fence { counter, nonce: Nonce::from_bytes([number; 16]) }
}

/// Puts the golden record of a key where the store looks for it.
async fn restore(place: &Place, key: &str) {
    let mut request = request(key);
    request.id = id(key);
    let before = place.keys("{s???}:r:").await;
    place.redis().claim(&request).await.unwrap();
    let after = place.keys("{s???}:r:").await;
    let record = after.into_iter().find(|it| !before.contains(it)).unwrap();
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
    let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    let value: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect();
    let _: () = place.raw().await.set(record, value).await.unwrap();
}

#[test]
fn records_of_version_1_live_on() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        for key in ["completed", "held", "in-progress", "interrupted"] {
            restore(&place, key).await;
        }
        let record = store.get(&id("held")).await.unwrap().unwrap();
        assert_eq!((record.fence, record.attempts), (fence(2), 2));
        let record = store.get(&id("in-progress")).await.unwrap().unwrap();
        let steps: Vec<_> = record.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, ["charge", "ship"]);
        // Its retention was over in 2026; a record is looked at, whatever Redis thinks of it.
        assert_eq!(store.get(&id("completed")).await.unwrap(), None);

        // The scripts go on with what they find.
        for (key, number) in [("held", 2), ("in-progress", 3)] {
            let outcome = Outcome::json(Verdict::Succeeded, &key).unwrap();
            let retention = std::time::Duration::from_secs(60);
            let completion = Completion { id: id(key), fence: fence(number), outcome, retention };
            store.complete(&completion).await.unwrap();
            let record = store.get(&id(key)).await.unwrap().unwrap();
            assert!(matches!(record.state, State::Completed { .. }), "{record:?}");
            assert_eq!(record.created_at.as_millis(), 1_767_225_600_000);
        }
        let mut next = request("interrupted");
        next.id = id("interrupted");
        next.fingerprint = semel::Fingerprint::from_bytes([4; 32]);
        let claimed = store.claim(&next).await.unwrap();
        let Claimed::Acquired { fence: newer, attempts, .. } = claimed else {
            panic!("expected Acquired, saw {claimed:?}")
        };
        assert_eq!(attempts, 3);
        assert!(newer.counter > fence(4).counter);
        let flying = Filter { state: Some(StateFilter::InProgress), ..Filter::default() };
        let listed = store.list(&flying, None, 10).await.unwrap();
        assert_eq!(listed.iter().map(|it| &it.id).collect::<Vec<_>>(), [&id("interrupted")]);
    });
}
