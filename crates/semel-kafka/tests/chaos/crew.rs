//! The test's side of a worker.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::job::Job;
use super::place::until;
use super::worker::WORK;

/// A worker process. Dropping it kills it.
pub(crate) struct Worker {
    pub(crate) job: Job,
    child: Child,
    orders: Option<ChildStdin>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    pub(crate) fn spawn(job: Job) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
        std::fs::create_dir_all(&folder).unwrap();
        let log = File::create(folder.join(format!("{}.log", job.name))).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::works", "--nocapture", "--test-threads=1"])
            .env(WORK, job.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&told));
        // It ends with the worker.
        std::thread::spawn(move || {
            lines.lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line));
        });
        Self { job, orders: child.stdin.take(), child, told }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it where it is, and returns when every thread of it has stopped.
    pub(crate) fn freeze(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    fn has_told(&self, start: &str) -> Option<String> {
        let told = self.told.lock().unwrap();
        told.iter().find(|line| line.starts_with(start)).cloned()
    }

    /// Waits until it halts at its point.
    pub(crate) async fn halts(&mut self) {
        let what = format!("{} halts at {:?}", self.job.name, self.job.halt);
        until(&what, async || {
            assert!(self.child.try_wait().unwrap().is_none(), "{what}: it ended: {:?}", self.told);
            self.has_told("halted").is_some()
        })
        .await;
    }

    /// Lets it go on from its point; heard when it is not frozen.
    pub(crate) fn go(&mut self) {
        self.orders.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Whether it is gone, and all that it told is here.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some() && self.has_told("test result").is_some()
    }

    /// Lets it finish what it does and leave; says how it ended.
    pub(crate) async fn leave(mut self) -> String {
        drop(self.orders.take());
        let what = format!("{} leaves", self.job.name);
        until(&what, async || self.has_ended()).await;
        self.has_told("ended ").unwrap_or_else(|| panic!("{what}: {:?}", self.told))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
