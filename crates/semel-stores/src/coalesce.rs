//! Many callers, few calls: what piles up behind a busy server goes to it as one batch.
//!
//! A caller that finds a free lane runs its own operation at once, in its own task: nobody waits
//! for a batch to fill, and an idle store costs no hop. Only what arrives while all lanes are busy
//! queues up, and the first lane that becomes free takes all of it. So batches grow with the load
//! and disappear with it.
//!
//! Where a call costs the server much more than an operation in it, [`Bounds::gathers`] makes the
//! batches larger, still without a timer: everybody who is ready to run gets in line before a lane
//! goes, unless no other lane is busy.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use semel::{BoxFuture, Error, ErrorKind};

/// Runs a batch and answers each operation, in order.
type Run<Op, Answer> =
    dyn Fn(Vec<Op>) -> BoxFuture<'static, Vec<Result<Answer, Error>>> + Send + Sync;

/// The bounds of a [`Coalescer`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Batches that run at once.
    pub(crate) lanes: usize,
    /// Operations in one batch.
    pub(crate) batch_max: usize,
    /// Operations that wait for a lane; more are refused.
    pub(crate) queue_max: usize,
    /// Whether a lane lets others get in line first when it is not the only busy one.
    pub(crate) gathers: bool,
}

/// Gathers operations of one kind into batches. See the [module's page](self).
pub(crate) struct Coalescer<Op, Answer>(Arc<Inner<Op, Answer>>);

struct Inner<Op, Answer> {
    bounds: Bounds,
    run: Box<Run<Op, Answer>>,
    state: Mutex<State<Op, Answer>>,
}

struct State<Op, Answer> {
    busy: usize,
    queue: VecDeque<Waiting<Op, Answer>>,
}

struct Waiting<Op, Answer> {
    op: Op,
    reply: oneshot::Sender<Result<Answer, Error>>,
}

/// The right to run one batch. Dropping it hands the right to what has queued up meanwhile, also
/// when its caller gave up or panicked.
struct Lane<Op: Send + 'static, Answer: Send + 'static>(Option<Arc<Inner<Op, Answer>>>);

enum Place<Op: Send + 'static, Answer: Send + 'static> {
    Lane(Lane<Op, Answer>, Op),
    Queue(oneshot::Receiver<Result<Answer, Error>>),
}

impl<Op: Send + 'static, Answer: Send + 'static> Coalescer<Op, Answer> {
    pub(crate) fn new<R>(bounds: Bounds, run: R) -> Self
    where
        R: Fn(Vec<Op>) -> BoxFuture<'static, Vec<Result<Answer, Error>>> + Send + Sync + 'static,
    {
        let state = Mutex::new(State { busy: 0, queue: VecDeque::new() });
        Self(Arc::new(Inner { bounds, run: Box::new(run), state }))
    }

    /// Runs one operation, alone or with others. Must be called inside a tokio runtime.
    ///
    /// Dropped while it queues, the operation does not run; dropped later, it may have.
    pub(crate) async fn submit(&self, op: Op) -> Result<Answer, Error> {
        match self.0.enter(op)? {
            Place::Lane(lane, op) => {
                let answer = (self.0.run)(vec![op]).await.pop();
                drop(lane);
                answer.unwrap_or_else(|| Err(lost()))
            }
            Place::Queue(answer) => answer.await.unwrap_or_else(|_| Err(lost())),
        }
    }
}

impl<Op: Send + 'static, Answer: Send + 'static> Inner<Op, Answer> {
    fn state(&self) -> MutexGuard<'_, State<Op, Answer>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, op: Op) -> Result<Place<Op, Answer>, Error> {
        let mut state = self.state();
        let is_free = state.busy < self.bounds.lanes;
        if is_free && (state.busy == 0 || !self.bounds.gathers) {
            state.busy += 1;
            return Ok(Place::Lane(Lane(Some(Arc::clone(self))), op));
        }
        if state.queue.len() >= self.bounds.queue_max {
            let max = self.bounds.queue_max;
            let message = format!("the store is overloaded: `queue_max` ({max}) operations wait");
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let (reply, answer) = oneshot::channel();
        state.queue.push_back(Waiting { op, reply });
        if is_free {
            state.busy += 1;
            drop(state);
            // It is handed to a task, which goes behind all that are ready now.
            drop(Lane(Some(Arc::clone(self))));
        }
        Ok(Place::Queue(answer))
    }

    /// What has queued up, or nothing, and then the lane is given back.
    fn next(&self) -> Vec<Waiting<Op, Answer>> {
        let mut state = self.state();
        // Whoever gave up waiting does not want it done any more.
        state.queue.retain(|waiting| !waiting.reply.is_canceled());
        let many = state.queue.len().min(self.bounds.batch_max);
        if many == 0 {
            state.busy -= 1;
        }
        state.queue.drain(..many).collect()
    }

    /// Lets everybody who is ready get in line, and takes them along.
    async fn gather(&self, batch: &mut Vec<Waiting<Op, Answer>>) {
        tokio::task::yield_now().await;
        let mut state = self.state();
        state.queue.retain(|waiting| !waiting.reply.is_canceled());
        batch.retain(|waiting| !waiting.reply.is_canceled());
        let many = state.queue.len().min(self.bounds.batch_max.saturating_sub(batch.len()));
        batch.extend(state.queue.drain(..many));
    }

    async fn run_batch(&self, mut batch: Vec<Waiting<Op, Answer>>) {
        if self.bounds.gathers {
            self.gather(&mut batch).await;
        }
        if batch.is_empty() {
            return;
        }
        let (ops, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Waiting { op, reply }| (op, reply)).unzip();
        for (reply, answer) in replies.into_iter().zip((self.run)(ops).await) {
            // Whoever does not listen any more finds the answer in the record.
            drop(reply.send(answer));
        }
    }
}

impl<Op: Send + 'static, Answer: Send + 'static> Drop for Lane<Op, Answer> {
    fn drop(&mut self) {
        let Some(inner) = self.0.take() else { return };
        let batch = inner.next();
        if batch.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The runtime has ended, and with it those who wait: their replies are dropped here.
            inner.state().busy -= 1;
            return;
        };
        // Made before it is spawned: a runtime that shuts down drops the task without a start.
        let lane = Lane(Some(inner));
        runtime.spawn(async move {
            if let Some(inner) = &lane.0 {
                inner.run_batch(batch).await;
            }
            drop(lane);
        });
    }
}

impl<Op, Answer> fmt::Debug for Coalescer<Op, Answer> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescer").field("bounds", &self.0.bounds).finish_non_exhaustive()
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "the batch that carried the operation was cut off")
        .with_outcome_unknown()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Doubles numbers, one permit a batch, and remembers how large the batches were.
    struct Doubler {
        coalescer: Arc<Coalescer<usize, usize>>,
        permits: Arc<Semaphore>,
        sizes: Arc<Mutex<Vec<usize>>>,
        started: Arc<AtomicUsize>,
    }

    impl Doubler {
        fn new(lanes: usize, batch_max: usize, queue_max: usize) -> Self {
            Self::with(Bounds { lanes, batch_max, queue_max, gathers: false })
        }

        fn with(bounds: Bounds) -> Self {
            let permits = Arc::new(Semaphore::new(0));
            let sizes = Arc::<Mutex<Vec<usize>>>::default();
            let started = Arc::<AtomicUsize>::default();
            let inside = (Arc::clone(&permits), Arc::clone(&sizes), Arc::clone(&started));
            let coalescer = Arc::new(Coalescer::new(bounds, move |ops: Vec<usize>| {
                let (permits, sizes, started) = inside.clone();
                Box::pin(async move {
                    started.fetch_add(1, Ordering::SeqCst);
                    permits.acquire().await.unwrap().forget();
                    sizes.lock().unwrap().push(ops.len());
                    ops.into_iter().map(|it| Ok(it * 2)).collect()
                })
            }));
            Self { coalescer, permits, sizes, started }
        }

        fn ask(&self, number: usize) -> tokio::task::JoinHandle<Result<usize, Error>> {
            let coalescer = Arc::clone(&self.coalescer);
            tokio::spawn(async move { coalescer.submit(number).await })
        }

        fn sizes(&self) -> Vec<usize> {
            self.sizes.lock().unwrap().clone()
        }
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_piles_up_goes_as_one_batch_and_everybody_gets_his_own_answer() {
        let doubler = Doubler::new(1, 100, 100);
        let asked: Vec<_> = (0..10).map(|it| doubler.ask(it)).collect();
        settle().await;
        doubler.permits.add_permits(2);
        for (it, answer) in asked.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap().unwrap(), it * 2);
        }
        assert_eq!(doubler.sizes(), [1, 9]);
    }

    #[tokio::test]
    async fn an_idle_store_is_asked_at_once_and_alone() {
        let doubler = Doubler::new(4, 100, 100);
        doubler.permits.add_permits(3);
        for it in 0..3 {
            assert_eq!(doubler.coalescer.submit(it).await.unwrap(), it * 2);
        }
        assert_eq!(doubler.sizes(), [1, 1, 1]);
    }

    #[tokio::test]
    async fn where_calls_are_gathered_whoever_is_ready_shares_one() {
        let bounds = Bounds { lanes: 2, batch_max: 100, queue_max: 100, gathers: true };
        let doubler = Doubler::with(bounds);
        let asked: Vec<_> = (0..10).map(|it| doubler.ask(it)).collect();
        settle().await;
        // The first found an idle store, the second waited for all others.
        assert_eq!(doubler.started.load(Ordering::SeqCst), 2);
        doubler.permits.add_permits(2);
        for (it, answer) in asked.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap().unwrap(), it * 2);
        }
        assert_eq!(doubler.sizes(), [1, 9]);
        settle().await;
        assert_eq!(doubler.coalescer.0.state().busy, 0);
    }

    #[tokio::test]
    async fn no_batch_and_no_queue_is_longer_than_its_bound() {
        let doubler = Doubler::new(1, 2, 5);
        let asked: Vec<_> = (0..6).map(|it| doubler.ask(it)).collect();
        settle().await;
        let refused = doubler.coalescer.submit(7).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.to_string().contains("queue_max"), "{refused}");
        doubler.permits.add_permits(10);
        for answer in asked {
            answer.await.unwrap().unwrap();
        }
        assert_eq!(doubler.sizes(), [1, 2, 2, 1]);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_neither_blocks_the_lane_nor_runs_from_the_queue() {
        let doubler = Doubler::new(1, 100, 100);
        let (first, second, third) = (doubler.ask(1), doubler.ask(2), doubler.ask(3));
        settle().await;
        second.abort();
        first.abort();
        settle().await;
        assert_eq!(doubler.started.load(Ordering::SeqCst), 2);
        doubler.permits.add_permits(1);
        assert_eq!(third.await.unwrap().unwrap(), 6);
        assert_eq!(doubler.sizes(), [1]);
    }
}
