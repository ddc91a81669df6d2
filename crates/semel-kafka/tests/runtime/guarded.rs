//! Each record under a guard.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use semel::{Effect, Failure, FingerprintKey, Guard, MemoryStore, OnUnknown};
use semel_kafka::log::{Log, Outgoing, Record};
use semel_kafka::{ConsumerOptions, Guarded, Identity, TestLog, dead_letter};

use super::support::{
    Switch, assert_once_and_in_order, block_on, fill, header, log, number, options, read,
};

pub(crate) fn guard(effect: Effect) -> Guard {
    Guard::builder(Arc::new(MemoryStore::new()))
        .operation("consume")
        .unwrap()
        .effect(effect)
        .build()
        .unwrap()
}

pub(crate) fn guarded(log: &TestLog, guard: &Guard, options: ConsumerOptions) -> Guarded {
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more").unwrap();
    let log = Arc::new(log.clone());
    Guarded::new(log, guard.clone(), secret, Identity::header("id"), options).unwrap()
}

#[test]
fn keys_run_side_by_side_and_each_keeps_its_order() {
    block_on(async {
        let log = log();
        fill(&log, 0..200, 10);
        let (done, running, most) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)), Arc::default());
        let most: Arc<AtomicUsize> = most;
        let switch = Switch::new();
        let (consumer, until) =
            (guarded(&log, &guard(Effect::Keyed), options("in")), switch.until());
        let seen = (Arc::clone(&done), Arc::clone(&most));
        let run = tokio::spawn(async move {
            let handler = move |record: Arc<Record>, _| {
                let (done, running, most) = (done.clone(), running.clone(), most.clone());
                let switch = switch.clone();
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    for _ in 0..number(&record) % 7 {
                        tokio::task::yield_now().await;
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                    let mut done = done.lock().unwrap();
                    done.push(number(&record));
                    if done.len() == 200 {
                        switch.off();
                    }
                    Ok(())
                }
            };
            consumer.run(handler, until).await
        });
        run.await.unwrap().unwrap();
        let (done, most) = (seen.0.lock().unwrap().clone(), seen.1.load(Ordering::SeqCst));
        assert_once_and_in_order(&done, 200, 10);
        assert!(most > 2 && most <= 10, "{most} ran at once");
        let partitions: Vec<_> =
            (0..3).map(|it| semel_kafka::log::TopicPartition::new("in", it)).collect();
        let committed = log.committed("group", &partitions).await.unwrap();
        let read: i64 = committed.into_iter().flatten().sum();
        assert_eq!(read, 200, "everything is committed when it stops");
    });
}

#[test]
fn a_record_that_was_written_twice_runs_once_and_with_another_payload_it_is_a_mismatch() {
    block_on(async {
        let log = log();
        fill(&log, 0..1, 1);
        fill(&log, 0..1, 1);
        log.append(Outgoing::to("in").key("0").value("other").header("id", "id-0")).unwrap();
        let (ran, switch) = (Arc::new(AtomicU32::new(0)), Switch::new());
        let (consumer, until) =
            (guarded(&log, &guard(Effect::Keyed), options("in")), switch.until());
        let counted = Arc::clone(&ran);
        let run = tokio::spawn(async move {
            let handler = move |_, _| {
                counted.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }
            };
            consumer.run(handler, until).await
        });
        let dead = read(&log, "dead", 1).await;
        switch.off();
        run.await.unwrap().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        assert_eq!(header(&dead[0], dead_letter::REASON), "mismatch");
        assert_eq!(dead[0].value.as_deref(), Some(&b"other"[..]));
    });
}

#[test]
fn a_failure_blocks_its_key_alone_until_it_is_over() {
    block_on(async {
        let log = log();
        fill(&log, 0..30, 3);
        let done = Arc::new(Mutex::new(Vec::new()));
        let switch = Switch::new();
        let (consumer, until) =
            (guarded(&log, &guard(Effect::Keyed), options("in")), switch.until());
        let seen = Arc::clone(&done);
        let run = tokio::spawn(async move {
            let handler = move |record: Arc<Record>, _| {
                let (done, switch) = (Arc::clone(&done), switch.clone());
                async move {
                    if number(&record) == 3 {
                        return Err(Failure::not_applied("three is down"));
                    }
                    let mut done = done.lock().unwrap();
                    done.push(number(&record));
                    if done.len() == 29 {
                        switch.off();
                    }
                    Ok(())
                }
            };
            consumer.run(handler, until).await
        });
        let dead = read(&log, "dead", 1).await;
        run.await.unwrap().unwrap();
        assert_eq!(header(&dead[0], dead_letter::REASON), "handler-failed");
        assert_eq!(header(&dead[0], dead_letter::ATTEMPTS), "3");
        let done = seen.lock().unwrap().clone();
        let of_the_key: Vec<_> = done.iter().copied().filter(|it| it % 3 == 0).collect();
        assert_eq!(of_the_key, [0, 6, 9, 12, 15, 18, 21, 24, 27]);
    });
}

#[test]
fn an_outcome_that_is_unknown_is_parked_and_its_record_says_so() {
    block_on(async {
        let log = log();
        fill(&log, 0..1, 1);
        let guard = guard(Effect::Foreign(OnUnknown::Hold));
        let switch = Switch::new();
        let (consumer, until) = (guarded(&log, &guard, options("in")), switch.until());
        let run = tokio::spawn(async move {
            let handler =
                |_, _| async { Err(Failure::from(std::io::Error::other("the line went dead"))) };
            consumer.run(handler, until).await
        });
        let dead = read(&log, "dead", 1).await;
        switch.off();
        run.await.unwrap().unwrap();
        assert_eq!(header(&dead[0], dead_letter::REASON), "outcome-unknown");
        let key = semel::Key::parse("id-0").unwrap();
        let id = guard.record_id(&semel::Tenant::single(), &key);
        assert_eq!(guard.store().get(&id).await.unwrap().unwrap().state.name(), "held");
    });
}
