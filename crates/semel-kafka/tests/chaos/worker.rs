//! The worker's side: this test program as a consumer.

use std::io::BufRead;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};

use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use super::classes;
use super::job::Job;

/// Makes a worker of this program.
pub(crate) const WORK: &str = "SEMEL_TEST_WORK";

/// Where to halt, and how many passes are left until then.
static HALT: OnceLock<(String, AtomicU32)> = OnceLock::new();

/// What the test has ordered since.
static MAY_GO: Mutex<bool> = Mutex::new(false);
static ORDERED: Condvar = Condvar::new();

#[test]
fn works() {
    let Ok(job) = std::env::var(WORK) else { return };
    // A worker that is stopped when its test is killed would stay for ever.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    log.with_env_filter(filter).init();
    let job = Job::parse(&job);
    if let Some((point, pass)) = job.halt.clone() {
        HALT.set((point, AtomicU32::new(pass))).unwrap();
    }
    semel::failpoint::install(halt);
    let switch = watch::Sender::new(false);
    let mut off = switch.subscribe();
    std::thread::spawn(move || listen(&switch));
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(4).enable_all().build().unwrap();
    let until = async move {
        drop(off.wait_for(|off| *off).await);
    };
    // The test harness has begun a line of its own.
    match runtime.block_on(classes::run(&job, until)) {
        Ok(()) => println!("\nended well"),
        Err(error) => println!("\nended by {:?}: {error}", error.kind()),
    }
}

/// Hears what the test orders; the end of its orders is the end of work.
fn listen(switch: &watch::Sender<bool>) {
    for line in std::io::stdin().lock().lines() {
        if line.is_ok_and(|line| line == "go") {
            *MAY_GO.lock().unwrap() = true;
            ORDERED.notify_all();
        }
    }
    *MAY_GO.lock().unwrap() = true;
    ORDERED.notify_all();
    switch.send_replace(true);
}

/// Halts at the point of the job, until it is told to go on.
fn halt(point: &str) {
    let Some((at, passes)) = HALT.get() else { return };
    if point != at || passes.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    println!("\nhalted");
    let may_go = MAY_GO.lock().unwrap();
    drop(ORDERED.wait_while(may_go, |may_go| !*may_go).unwrap());
}
