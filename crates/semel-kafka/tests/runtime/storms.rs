//! Everything that can go wrong with a log, at random, while consumers come and go.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use semel::Effect;
use semel_kafka::log::{Log, LogErrorKind, Outgoing, Record, TopicPartition};
use semel_kafka::{Identity, Op, TestLog, Transform};

use super::guarded::{guard, guarded};
use super::support::{
    Switch, assert_once_and_in_order, block_on, fill, log, number, options, read_until,
};

const RECORDS: u32 = 400;
const KEYS: u32 = 11;

/// A storm that takes longer than this does not end by itself.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// What a log looks like, to find out why a consumer does not go on.
async fn state(log: &TestLog) -> String {
    let mut told = format!(
        "{} outputs, open transactions {:?}, members {:?}",
        log.topic_records("out").len(),
        log.open_transactions(),
        log.members("group")
    );
    for partition in 0..3 {
        let partition = TopicPartition::new("in", partition);
        let committed = log.committed("group", std::slice::from_ref(&partition)).await;
        let bounds = log.bounds(&partition).await;
        told.push_str(&format!("; {partition} at {committed:?} of {bounds:?}"));
    }
    told
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    Fails(Op, LogErrorKind),
    Loses(bool),
    Expels(usize),
    Rebalances,
    Rotates,
    Outage,
}

pub(crate) fn trouble() -> impl Strategy<Value = Trouble> {
    let op = prop_oneof![
        Just(Op::Begin),
        Just(Op::Send),
        Just(Op::SendPositions),
        Just(Op::Commit),
        Just(Op::Abort),
        Just(Op::ConsumerCommit),
        Just(Op::Next),
        Just(Op::Producer),
    ];
    let kind = prop_oneof![
        Just(LogErrorKind::Abortable),
        Just(LogErrorKind::Indefinite),
        Just(LogErrorKind::Unavailable),
    ];
    prop_oneof![
        4 => (op, kind).prop_map(|(op, kind)| Trouble::Fails(op, kind)),
        2 => any::<bool>().prop_map(Trouble::Loses),
        2 => (0_usize..3).prop_map(Trouble::Expels),
        1 => Just(Trouble::Rebalances),
        2 => Just(Trouble::Rotates),
        1 => Just(Trouble::Outage),
    ]
}

pub(crate) fn make(log: &TestLog, trouble: Trouble) {
    match trouble {
        Trouble::Fails(op, kind) => log.fail_next(op, kind),
        Trouble::Loses(took_effect) => log.lose_next_commit(took_effect),
        Trouble::Expels(which) => {
            if let Some(member) = log.members("group").get(which) {
                log.expel("group", *member);
            }
        }
        Trouble::Rebalances => log.rebalance("group"),
        Trouble::Rotates => log.rotate("group"),
        Trouble::Outage => {
            log.set_down(true);
            log.set_down(false);
        }
    }
}

fn copies(log: &TestLog, troubles: Vec<Trouble>) -> Vec<Record> {
    let log = log.clone();
    block_on(async move {
        fill(&log, 0..RECORDS, KEYS);
        let switch = Switch::new();
        let runs: Vec<_> = (0..3)
            .map(|member| {
                let (log, until) = (Arc::new(log.clone()), switch.until());
                let id = format!("copy-{member}");
                let options = options("in").batch_max(10);
                let consumer = Transform::new(log, id, Identity::header("id"), options).unwrap();
                tokio::spawn(async move {
                    let handler = |record: Arc<Record>| async move {
                        let Record { key, value, .. } = (*record).clone();
                        Ok(vec![Outgoing { key, value, ..Outgoing::to("out") }])
                    };
                    consumer.run(handler, until).await
                })
            })
            .collect();
        let mut troubles = troubles.into_iter();
        let shared = log.clone();
        let runs = futures_util::future::try_join_all(
            runs.into_iter().map(|run| async { run.await.unwrap() }),
        );
        let mut runs = tokio::spawn(runs);
        let outputs = read_until(&log, "out", |read| {
            // The next trouble with every look that found something.
            if let Some(trouble) = troubles.next() {
                make(&shared, trouble);
            }
            read.len() >= RECORDS as usize
        });
        let outputs = tokio::select! {
            outputs = outputs => outputs,
            ended = &mut runs => panic!("a consumer ended: {ended:?}"),
            () = tokio::time::sleep(HANGS_AFTER) => panic!("it hangs: {}", state(&log).await),
        };
        switch.off();
        runs.await.unwrap().unwrap();
        outputs
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn outputs_of_transforms_are_there_once_and_in_order(
        troubles in proptest::collection::vec(trouble(), 5..60),
    ) {
        let log = log();
        let outputs = copies(&log, troubles);
        let numbers: Vec<_> = outputs.iter().map(number).collect();
        assert_once_and_in_order(&numbers, RECORDS, KEYS);
        prop_assert_eq!(log.topic_records("out").len(), RECORDS as usize);
        prop_assert!(log.topic_records("dead").is_empty());
    }

    #[test]
    fn effects_of_guarded_consumers_happen_once_and_in_order(
        troubles in proptest::collection::vec(trouble(), 5..60),
    ) {
        let log = log();
        let effects = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&effects);
        block_on(async {
            fill(&log, 0..RECORDS, KEYS);
            let (guard, switch) = (guard(Effect::Keyed), Switch::new());
            let troubles = Arc::new(Mutex::new(troubles.into_iter()));
            let runs: Vec<_> = (0..3).map(|_| {
                let consumer = guarded(&log, &guard, options("in"));
                let (until, switch) = (switch.until(), switch.clone());
                let (effects, troubles) = (Arc::clone(&effects), Arc::clone(&troubles));
                let log = log.clone();
                tokio::spawn(async move {
                    let handler = move |record: Arc<Record>, _| {
                        let (effects, switch) = (Arc::clone(&effects), switch.clone());
                        let trouble = troubles.lock().unwrap().next();
                        if let Some(trouble) = trouble {
                            make(&log, trouble);
                        }
                        async move {
                            tokio::task::yield_now().await;
                            let mut effects = effects.lock().unwrap();
                            effects.push(number(&record));
                            if effects.len() >= RECORDS as usize {
                                switch.off();
                            }
                            Ok(())
                        }
                    };
                    consumer.run(handler, until).await
                })
            }).collect();
            for run in runs {
                run.await.unwrap().unwrap();
            }
        });
        let effects = seen.lock().unwrap().clone();
        assert_once_and_in_order(&effects, RECORDS, KEYS);
    }
}
