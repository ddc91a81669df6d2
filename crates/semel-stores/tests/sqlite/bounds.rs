//! Every bound is kept, and nothing is synced for nothing.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use semel::{ErrorKind, Store};

use super::support::{File, acquire, answer, block_on, completion, finish, request};

#[test]
fn whoever_finds_the_queue_full_waits_for_a_while_and_hears_why_it_was_not_taken() {
    let file = File::new();
    file.close();
    let options = file.options().queue_max(1).group_max(1).patience(Duration::from_secs(60));
    let store = options.open(file.path()).unwrap();
    let other = file.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut sweeps: Vec<_> = (0..6).map(|_| store.sweep(0)).collect();
    let mut poll_all = || -> Vec<_> {
        let mut context = Context::from_waker(Waker::noop());
        sweeps.iter_mut().map(|sweep| sweep.as_mut().poll(&mut context)).collect()
    };
    assert!(poll_all().iter().all(Poll::is_pending), "the writer waits for the lock");
    file.clock.advance(Duration::from_secs(60));
    let polled = poll_all();
    let refused = polled.iter().filter(|it| match it {
        Poll::Ready(Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("`queue_max` (1)"), "{error}");
            true
        }
        Poll::Ready(Ok(_)) | Poll::Pending => false,
    });
    // One is with the writer and one has the place, if the writer was quick enough.
    let refused = refused.count();
    assert!((4..6).contains(&refused), "{refused} of 6 were refused");
    other.execute_batch("ROLLBACK").unwrap();
    for (sweep, polled) in sweeps.into_iter().zip(polled) {
        if polled.is_pending() {
            assert_eq!(block_on(sweep).unwrap(), 0, "what was taken is done");
        }
    }
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let file = File::new();
    let store = file.sqlite();
    finish(&*store, "finished", "answer").unwrap();
    let running = acquire(&*store, "running");
    let log = format!("{}-wal", file.path().display());
    let written = || {
        let log = std::fs::metadata(&log).unwrap();
        (log.len(), log.modified().unwrap())
    };
    let before = written();
    for _ in 0..20 {
        assert_eq!(answer(&*store, "finished"), "answer");
        block_on(store.claim(&request("running"))).unwrap();
        assert_eq!(block_on(store.sweep(10)).unwrap(), 0);
        let late = semel::Fence { counter: running.counter + 1, ..running };
        block_on(store.complete(&completion("running", late, "late"))).unwrap_err();
    }
    assert_eq!(written(), before);
    finish(&*store, "another", "answer").unwrap();
    assert_ne!(written(), before, "the log is where a change would be seen");
}

#[test]
fn dropping_the_store_finishes_what_was_taken() {
    let file = File::new();
    let store = file.sqlite();
    let completions: Vec<_> = (0..50)
        .map(|it| format!("k{it}"))
        .map(|key| completion(&key, acquire(&*store, &key), "done"))
        .collect();
    for completion in &completions {
        // Sent, and the answer not waited for.
        let mut sent = store.complete(completion);
        let polled = sent.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending() || matches!(polled, Poll::Ready(Ok(_))));
    }
    drop(store);
    file.close();
    let store = file.open();
    for it in 0..50 {
        assert_eq!(answer(&store, &format!("k{it}")), "done");
    }
}

#[test]
fn dropping_the_store_does_not_wait_for_a_lock_again_and_again() {
    let file = File::new();
    file.close();
    let patience = Duration::from_millis(50);
    let options = file.options().group_max(1).patience(patience);
    let store = options.open(file.path()).unwrap();
    let other = file.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut sweeps: Vec<_> = (0..2000).map(|_| store.sweep(0)).collect();
    for sweep in &mut sweeps {
        assert!(sweep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(sweeps);
    // With patience for each it would take minutes, and the test would be killed.
    drop(store);
    other.execute_batch("ROLLBACK").unwrap();
    acquire(&file.open(), "k");
}
