//! Time as a component: the only file of this crate that may ask what time it is.
//!
//! Clocks never decide who may write: a wrong clock can make a lease end early or late, and the
//! fence still refuses the late owner. Retention is measured by the store's clock as well, so one
//! that jumps ahead by a whole retention forgets records.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A boxed future that can be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point in time from milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The point `duration` later; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time and wakes sleepers.
///
/// A store has a clock of its own (its server's); the guard's clock only paces heartbeats and
/// waits.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Completes once `duration` has passed. Dropping the future is safe and frees the timer.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clock, with a timer thread that is shared by the process and works under every
/// async runtime (the heartbeat of a blocked runtime still wakes up on time). A forked child starts
/// a thread of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::default().after(since_epoch)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let timers = system_timers();
        let deadline = Instant::now().checked_add(duration);
        Box::pin(Sleep { timers, deadline, registered: None })
    }
}

/// A clock that stands still until a test moves it.
///
/// ```
/// use semel::{Clock, ManualClock};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(30));
/// assert_eq!(clock.now().since(before), Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    timers: Arc<Timers<Timestamp>>,
    now: Arc<Mutex<Timestamp>>,
}

impl ManualClock {
    /// A clock that shows 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        let start = Timestamp::from_millis(1_767_225_600_000);
        Self { timers: Arc::default(), now: Arc::new(Mutex::new(start)) }
    }

    /// Moves the clock forward and wakes every sleeper whose time has come.
    pub fn advance(&self, duration: Duration) {
        let now = {
            let mut now = lock(&self.now);
            *now = now.after(duration);
            *now
        };
        for waker in self.timers.take_due(now) {
            waker.wake();
        }
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *lock(&self.now)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.now().after(duration);
        Box::pin(ManualSleep { clock: self.clone(), deadline, registered: None })
    }
}

struct ManualSleep {
    clock: ManualClock,
    deadline: Timestamp,
    registered: Option<Registration<Timestamp>>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Registered before the look at the clock, so that an `advance` in between is not missed.
        let registered = self.clock.timers.register(self.deadline, context.waker());
        self.registered = Some(registered);
        if self.clock.now() >= self.deadline { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Wakers in the order of their deadlines.
struct Timers<T> {
    state: Mutex<TimerState<T>>,
    earlier: Condvar,
}

struct TimerState<T> {
    wakers: BTreeMap<(T, u64), Waker>,
    next_id: u64,
    /// When the timer thread looks again by itself. Most timers are freed long before their time,
    /// so it is often earlier than the first one, and no new one needs to tell the thread.
    next_look: Option<T>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        let state = TimerState { wakers: BTreeMap::new(), next_id: 0, next_look: None };
        Self { state: Mutex::new(state), earlier: Condvar::new() }
    }
}

impl<T> fmt::Debug for Timers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").finish_non_exhaustive()
    }
}

impl<T: Copy + Ord> Timers<T> {
    fn register(self: &Arc<Self>, deadline: T, waker: &Waker) -> Registration<T> {
        let mut state = lock(&self.state);
        let place = (deadline, state.next_id);
        state.next_id += 1;
        state.wakers.insert(place, waker.clone());
        if state.next_look.is_none_or(|next_look| deadline < next_look) {
            state.next_look = Some(deadline);
            self.earlier.notify_one();
        }
        Registration { timers: Arc::clone(self), place }
    }

    fn take_due(&self, now: T) -> Vec<Waker> {
        let mut state = lock(&self.state);
        let later = state.wakers.split_off(&(now, u64::MAX));
        std::mem::replace(&mut state.wakers, later).into_values().collect()
    }
}

/// Takes its waker out of the timers when it is dropped, so that a cancelled sleep costs nothing.
struct Registration<T: Copy + Ord> {
    timers: Arc<Timers<T>>,
    place: (T, u64),
}

impl<T: Copy + Ord> Drop for Registration<T> {
    fn drop(&mut self) {
        lock(&self.timers.state).wakers.remove(&self.place);
    }
}

struct Sleep {
    timers: &'static Arc<Timers<Instant>>,
    /// `None` is later than any clock can show: it never comes.
    deadline: Option<Instant>,
    registered: Option<(Registration<Instant>, Waker)>,
}

impl Future for Sleep {
    type Output = ();

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        if Instant::now() >= deadline {
            self.registered = None;
            return Poll::Ready(());
        }
        let waker = context.waker();
        if !self.registered.as_ref().is_some_and(|(_, registered)| registered.will_wake(waker)) {
            self.registered = Some((self.timers.register(deadline, waker), waker.clone()));
        }
        Poll::Pending
    }
}

/// The timer thread of one process. A forked child inherits this memory without the thread, so it
/// appends a link of its own and leaves its parent's alone.
struct Process {
    id: u32,
    timers: OnceLock<Arc<Timers<Instant>>>,
    child: OnceLock<Box<Process>>,
}

impl Process {
    const fn new(id: u32) -> Self {
        Self { id, timers: OnceLock::new(), child: OnceLock::new() }
    }

    fn find(&self, id: u32) -> &Self {
        let mut process = self;
        while process.id != id {
            process = process.child.get_or_init(|| Box::new(Self::new(id)));
        }
        process
    }
}

fn system_timers() -> &'static Arc<Timers<Instant>> {
    // No process has this number, so the first one to ask is the first link.
    static PROCESSES: Process = Process::new(0);
    PROCESSES.find(std::process::id()).timers.get_or_init(start_timers)
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts the timer thread")]
fn start_timers() -> Arc<Timers<Instant>> {
    let timers = Arc::<Timers<Instant>>::default();
    let driven = Arc::clone(&timers);
    let thread = std::thread::Builder::new().name("semel-timer".into());
    #[expect(clippy::expect_used, reason = "a process that cannot start a thread is lost")]
    thread.spawn(move || drive(&driven)).expect("the timer thread starts");
    timers
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn drive(timers: &Timers<Instant>) {
    loop {
        for waker in timers.take_due(Instant::now()) {
            waker.wake();
        }
        let mut state = lock(&timers.state);
        let now = Instant::now();
        let next = state.wakers.first_key_value().map(|((deadline, _), _)| *deadline);
        let next = next.unwrap_or(now + Duration::from_secs(3600));
        state.next_look = Some(next);
        drop(timers.earlier.wait_timeout(state, next.saturating_duration_since(now)));
    }
}

/// No code panics while it holds one of these locks, and the data is valid after every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::block_on;

    #[test]
    fn the_timer_thread_wakes_a_sleeper_not_before_its_time() {
        let clock = SystemClock;
        let before = clock.now();
        block_on(clock.sleep(Duration::from_millis(15)));
        assert!(clock.now().since(before) >= Duration::from_millis(14));
    }

    #[test]
    fn a_forked_child_gets_timers_of_its_own() {
        let parent = Process::new(1);
        let timers = parent.find(1).timers.get_or_init(start_timers);
        let child = parent.find(2);
        assert!(child.timers.get().is_none());
        assert!(std::ptr::eq(child, parent.find(2)), "found again");
        assert!(Arc::ptr_eq(timers, parent.find(1).timers.get_or_init(start_timers)));
    }

    #[test]
    fn a_dropped_sleep_leaves_no_timer_behind() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        assert_eq!(lock(&clock.timers.state).wakers.len(), 1);
        drop(sleep);
        assert_eq!(lock(&clock.timers.state).wakers.len(), 0);
    }

    #[test]
    fn an_earlier_sleeper_is_woken_while_the_timer_thread_waits_for_a_later_one() {
        let clock = SystemClock;
        let mut late = clock.sleep(Duration::from_secs(600));
        let mut context = Context::from_waker(Waker::noop());
        assert!(late.as_mut().poll(&mut context).is_pending());
        for _ in 0..3 {
            block_on(clock.sleep(Duration::from_millis(5)));
        }
        assert!(late.as_mut().poll(&mut context).is_pending());
    }

    #[test]
    fn a_manual_clock_wakes_exactly_the_sleepers_whose_time_has_come() {
        let clock = ManualClock::new();
        let mut early = clock.sleep(Duration::from_secs(1));
        let mut late = clock.sleep(Duration::from_secs(3));
        let mut context = Context::from_waker(Waker::noop());
        assert!(early.as_mut().poll(&mut context).is_pending());
        assert!(late.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(2));
        assert!(early.as_mut().poll(&mut context).is_ready());
        assert!(late.as_mut().poll(&mut context).is_pending());
    }
}
