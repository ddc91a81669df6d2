//! Retry topics: the partition goes on, and the order of each key is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use semel::ErrorKind;
use semel_kafka::log::{Log, LogErrorKind, Outgoing, ProducerSettings, Record, TopicPartition};
use semel_kafka::{ConsumerOptions, Op, Order, Poison, TestLog, dead_letter};

use super::classes::{Class, Fails};
use super::storms::{make, trouble};
use super::support::{Switch, assert_once_and_in_order, block_on, fill, header, log, number, read};

const KEYS: u32 = 6;

fn parked() -> TestLog {
    let log = log();
    log.create_topic("in.retry", 3);
    log
}

fn poison() -> Poison {
    let poison = Poison::dead_letter("dead", 1_000).retry_topics(".retry", 2);
    poison.pause(Duration::from_millis(1))
}

fn options(poison: Poison) -> ConsumerOptions {
    ConsumerOptions::new("group", ["in"], poison)
        .batch_max(20)
        .buffer_max(100)
        .commit_every(Duration::from_millis(20))
}

/// Fails for the records of key 0 as long as the switch is on.
fn key_0_while(on: &Arc<AtomicBool>) -> Fails {
    let on = Arc::clone(on);
    Arc::new(move |record| {
        assert_eq!(&*record.partition.topic, "in", "a handler sees the record as it was");
        assert!(record.headers.iter().all(|header| !header.name.starts_with("semel-retry")));
        on.load(Ordering::SeqCst) && number(record).is_multiple_of(KEYS)
    })
}

/// A member in the background.
fn spawn(
    class: &Class,
    log: &TestLog,
    options: ConsumerOptions,
    fails: Fails,
) -> (Switch, tokio::task::JoinHandle<()>) {
    let (class, log, switch) = (class.clone(), log.clone(), Switch::new());
    let until = switch.until();
    let run = tokio::spawn(async move {
        class.run(&log, "member", options, fails, until).await.unwrap();
    });
    (switch, run)
}

async fn waits_for(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_key_that_fails_waits_in_the_retry_topic_while_the_others_go_on() {
    for class in Class::all() {
        block_on(async {
            let (log, on) = (parked(), Arc::new(AtomicBool::new(true)));
            fill(&log, 0..60, KEYS);
            let (switch, run) = spawn(&class, &log, options(poison()), key_0_while(&on));
            class.until(&log, 50).await;
            waits_for(|| log.topic_records("in.retry").len() >= 10).await;
            assert!(class.effects(&log).iter().all(|number| number % KEYS != 0));
            let first = &log.topic_records("in.retry")[0];
            assert_eq!(header(first, "semel-retry-reason"), "handler-failed");
            assert_eq!(header(first, "semel-retry-attempts"), "2");
            assert_eq!(header(&log.topic_records("in.retry")[1], "semel-retry-reason"), "follows");
            on.store(false, Ordering::SeqCst);
            class.until(&log, 60).await;
            switch.off();
            run.await.unwrap();
            assert_once_and_in_order(&class.effects(&log), 60, KEYS);
            assert!(log.topic_records("dead").is_empty());
            assert_eq!(log.topic_records("in.retry").len(), 10);
        });
    }
}

#[test]
fn a_key_that_has_left_the_retry_topic_is_handled_in_its_place_again() {
    for class in Class::all() {
        block_on(async {
            let (log, on) = (parked(), Arc::new(AtomicBool::new(true)));
            fill(&log, 0..6, KEYS);
            let (switch, run) = spawn(&class, &log, options(poison()), key_0_while(&on));
            waits_for(|| !log.topic_records("in.retry").is_empty()).await;
            on.store(false, Ordering::SeqCst);
            class.until(&log, 6).await;
            for next in (6..60).step_by(6) {
                fill(&log, next..next + 6, KEYS);
                class.until(&log, next as usize + 6).await;
            }
            switch.off();
            run.await.unwrap();
            assert_once_and_in_order(&class.effects(&log), 60, KEYS);
            let parked = log.topic_records("in.retry").len();
            assert!(parked <= 2, "{parked} records were parked although their key was free");
        });
    }
}

#[test]
fn whoever_comes_later_knows_which_keys_are_parked() {
    for class in Class::all() {
        block_on(async {
            let (log, on) = (parked(), Arc::new(AtomicBool::new(true)));
            fill(&log, 0..30, KEYS);
            let (switch, run) = spawn(&class, &log, options(poison()), key_0_while(&on));
            class.until(&log, 25).await;
            waits_for(|| log.topic_records("in.retry").len() >= 5).await;
            switch.off();
            run.await.unwrap();
            fill(&log, 30..60, KEYS);
            // The first record of key 0 fails twice more, so its followers could overtake it.
            let failures = Arc::new(AtomicU32::new(0));
            let fails: Fails =
                Arc::new(move |it| number(it) == 0 && failures.fetch_add(1, Ordering::SeqCst) < 2);
            let (switch, run) = spawn(&class, &log, options(poison()), fails);
            class.until(&log, 60).await;
            switch.off();
            run.await.unwrap();
            assert_once_and_in_order(&class.effects(&log), 60, KEYS);
            assert!(log.topic_records("dead").is_empty());
        });
    }
}

#[test]
fn a_full_retry_topic_makes_its_partition_wait_and_loses_nothing() {
    for class in Class::all() {
        block_on(async {
            let (log, on) = (parked(), Arc::new(AtomicBool::new(true)));
            fill(&log, 0..120, KEYS);
            let options = options(poison().backlog_max(3));
            let (switch, run) = spawn(&class, &log, options, key_0_while(&on));
            waits_for(|| log.topic_records("in.retry").len() >= 3).await;
            on.store(false, Ordering::SeqCst);
            class.until(&log, 120).await;
            switch.off();
            run.await.unwrap();
            assert_once_and_in_order(&class.effects(&log), 120, KEYS);
        });
    }
}

#[test]
fn a_record_that_is_never_handled_leaves_the_retry_topic_for_the_dead_letters() {
    for class in Class::all() {
        block_on(async {
            let log = parked();
            fill(&log, 0..30, KEYS);
            let poison = Poison::dead_letter("dead", 4).retry_topics(".retry", 2);
            let poison = poison.pause(Duration::from_millis(1));
            let fails: Fails = Arc::new(|record| number(record) == 6);
            let (switch, run) = spawn(&class, &log, options(poison), fails);
            let dead = read(&log, "dead", 1).await;
            class.until(&log, 29).await;
            switch.off();
            run.await.unwrap();
            assert_eq!(number(&dead[0]), 6);
            assert_eq!(header(&dead[0], dead_letter::ATTEMPTS), "4");
            assert_eq!(header(&dead[0], dead_letter::TOPIC), "in");
            assert_eq!(header(&dead[0], dead_letter::REASON), "handler-failed");
            assert!(dead[0].header("semel-retry-reason").is_none());
            let origin = log.topic_records("in").into_iter().find(|it| number(it) == 6).unwrap();
            assert_eq!(header(&dead[0], dead_letter::OFFSET), origin.offset.to_string());
            let mut effects = class.effects(&log);
            effects.retain(|number| number % KEYS == 0);
            assert_eq!(effects, [0, 12, 18, 24], "its followers came after it, in order");
        });
    }
}

#[test]
fn a_record_that_somebody_wrote_into_a_retry_topic_by_hand_is_handled() {
    for class in Class::all() {
        block_on(async {
            let log = parked();
            fill(&log, 0..6, KEYS);
            let by_hand = Outgoing::to("in.retry").key("0").value("6").header("id", "id-6");
            log.append(by_hand).unwrap();
            let fails: Fails = Arc::new(|_| false);
            let (switch, run) = spawn(&class, &log, options(poison()), fails);
            class.until(&log, 7).await;
            switch.off();
            run.await.unwrap();
            let mut effects = class.effects(&log);
            effects.sort_unstable();
            assert_eq!(effects, (0..7).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_record_that_is_not_parked_at_once_is_not_overtaken_by_the_next_one_of_its_key() {
    for class in Class::all() {
        block_on(async {
            let (log, on) = (parked(), Arc::new(AtomicBool::new(true)));
            fill(&log, 0..6, KEYS);
            let (switch, run) = spawn(&class, &log, options(poison()), key_0_while(&on));
            waits_for(|| !log.topic_records("in.retry").is_empty()).await;
            log.set_down(true);
            log.fail_next(Op::Send, LogErrorKind::Unavailable);
            fill(&log, 6..60, KEYS);
            log.set_down(false);
            waits_for(|| log.topic_records("in.retry").len() >= 10).await;
            on.store(false, Ordering::SeqCst);
            class.until(&log, 60).await;
            switch.off();
            run.await.unwrap();
            assert_once_and_in_order(&class.effects(&log), 60, KEYS);
        });
    }
}

/// Somebody who owned the partition before may still be about to commit what it parked.
#[test]
fn nothing_is_handled_before_the_end_of_the_retry_topic_is_known() {
    for class in Class::all() {
        block_on(async {
            let log = parked();
            let partition = TopicPartition::new("in", 0);
            let mut record = Outgoing::to("in").key("k").value("1").header("id", "id-1");
            record.partition = Some(0);
            log.append(record).unwrap();
            let transactional_id = Some("earlier owner".to_owned());
            let settings = ProducerSettings { transactional_id, ..ProducerSettings::default() };
            let earlier = log.producer(&settings).await.unwrap();
            earlier.begin().await.unwrap();
            let mut first = Outgoing::to("in.retry").key("k").value("0").header("id", "id-0");
            first.partition = Some(0);
            earlier.send(first).await.unwrap();
            let fails: Fails = Arc::new(|_| false);
            let (switch, run) = spawn(&class, &log, options(poison()), fails);
            // The other partitions are read, this one is not.
            let mut other = Outgoing::to("in").value("9").header("id", "id-9");
            other.partition = Some(1);
            log.append(other).unwrap();
            class.until(&log, 1).await;
            assert_eq!(class.effects(&log), [9]);
            earlier.commit().await.unwrap();
            class.until(&log, 3).await;
            switch.off();
            run.await.unwrap();
            let mut effects = class.effects(&log);
            effects.retain(|number| *number != 9);
            assert_eq!(effects, [0, 1]);
            let committed = log.committed("group", std::slice::from_ref(&partition)).await;
            if matches!(class, Class::Transform) {
                assert_eq!(committed.unwrap(), [Some(1)]);
            }
        });
    }
}

#[test]
fn a_retry_topic_that_is_missing_or_too_small_ends_the_consumer_with_the_way_out() {
    for class in Class::all() {
        for partitions in [None, Some(2)] {
            block_on(async {
                let log = log();
                if let Some(partitions) = partitions {
                    log.create_topic("in.retry", partitions);
                }
                let fails: Fails = Arc::new(|_| false);
                let run =
                    class.run(&log, "member", options(poison()), fails, std::future::pending());
                let error = run.await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Settings);
                let message = error.to_string();
                assert!(message.contains("`in.retry`"), "{message}");
                assert!(message.contains("create it with at least 3 partitions"), "{message}");
            });
        }
    }
}

#[test]
fn settings_of_retry_topics_that_break_the_promise_are_refused() {
    let refusal = |options: ConsumerOptions| {
        let log = Arc::new(parked());
        let identity = semel_kafka::Identity::header("id");
        let refused = semel_kafka::Transform::new(log, "id", identity, options);
        refused.unwrap_err().to_string()
    };
    let message = refusal(options(poison()).order(Order::Partition));
    assert!(message.contains("Order::Key"), "{message}");
    let message = refusal(options(Poison::dead_letter("dead", 3).retry_topics(".retry", 3)));
    assert!(message.contains("after 3 attempts, and has 3"), "{message}");
    let message = refusal(options(Poison::stop(3).retry_topics("", 1)));
    assert!(message.contains("suffix"), "{message}");
    let message = refusal(options(poison().backlog_max(0)));
    assert!(message.contains("backlog_max"), "{message}");
    let message = refusal(ConsumerOptions::new("group", ["in", "in.retry"], poison()));
    assert!(message.contains("without being named"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn effects_happen_once_and_in_order_when_handlers_fail_and_so_does_everything_else(
        troubles in proptest::collection::vec(trouble(), 0..40),
        class in 0_usize..3,
        seed in any::<u32>(),
    ) {
        const RECORDS: u32 = 240;
        let class = Class::all()[class].clone();
        let log = parked();
        block_on(async {
            fill(&log, 0..RECORDS, 11);
            let switch = Switch::new();
            let calls = Arc::new(AtomicU32::new(seed));
            let troubles = Arc::new(std::sync::Mutex::new(troubles.into_iter()));
            let runs: Vec<_> = (0..3).map(|member| {
                let (class, log, until) = (class.clone(), log.clone(), switch.until());
                let (calls, troubles) = (Arc::clone(&calls), Arc::clone(&troubles));
                tokio::spawn(async move {
                    let shared = log.clone();
                    let fails: Fails = Arc::new(move |record: &Record| {
                        if let Some(trouble) = troubles.lock().unwrap().next() {
                            make(&shared, trouble);
                        }
                        let call = calls.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9);
                        // A third of the keys fails often.
                        let often = number(record) % 11 < 4;
                        call >> 24 < if often { 100 } else { 10 }
                    });
                    let options = options(poison().backlog_max(30)).batch_max(10);
                    class.run(&log, &format!("member-{member}"), options, fails, until).await
                })
            }).collect();
            class.until(&log, RECORDS as usize).await;
            switch.off();
            for run in runs {
                run.await.unwrap().unwrap();
            }
        });
        assert_once_and_in_order(&class.effects(&log), RECORDS, 11);
        prop_assert!(log.topic_records("dead").is_empty());
    }
}
