//! Children of the demo: the same binary again, ended with the demo.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::program;
use crate::failure::Failure;

/// A child that has not started by then will not.
const START_MAX: Duration = Duration::from_secs(20);

/// The children that run now.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends all children when the demo is asked to stop; a signal drops nothing. Signals are handled,
/// not blocked: children inherit what is blocked, and one that outlives a killed demo would be
/// deaf to them.
pub(super) fn end_with_the_demo() -> Result<(), Failure> {
    let refuse = |error: &std::io::Error| {
        Failure::runtime("the demo cannot watch for signals").caused_by(error)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|error| refuse(&error))?;
    let watch = |kind| {
        let _context = runtime.enter();
        signal(kind).map_err(|error| refuse(&error))
    };
    let mut hangup = watch(SignalKind::hangup())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    std::thread::spawn(move || {
        let signal = runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => Signal::SIGHUP,
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
            }
        });
        // Held to the end, so that no child starts any more.
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let pids = running.iter().filter_map(|pid| i32::try_from(*pid).ok().map(Pid::from_raw));
        for pid in pids {
            // It may have died by itself, or somebody may wait for it already.
            kill(pid, Signal::SIGKILL).ok();
            waitpid(pid, None).ok();
        }
        end(signal);
    });
    Ok(())
}

/// The exit code by which shells know a signal.
#[expect(clippy::exit, reason = "asked to stop; the main thread waits for the storm")]
fn end(signal: Signal) -> ! {
    std::process::exit(128 + signal as i32)
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Process {
    /// Starts this binary with the arguments and waits until it says where it listens.
    pub(super) fn start(log: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let name = arguments.first().copied().unwrap_or_default();
        let refuse = |error: &std::io::Error| {
            Failure::runtime(format!("the demo could not start `semel {name}`")).caused_by(error)
        };
        let log = File::options().create(true).append(true).open(log).map_err(|it| refuse(&it))?;
        let mut command = program::command().map_err(|error| refuse(&error))?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = command.spawn().map_err(|error| refuse(&error))?;
        running.push(child.id());
        drop(running);
        let (told, line) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut line = String::new();
                drop(BufReader::new(stdout).read_line(&mut line));
                // The demo may have given up waiting.
                drop(told.send(line));
            });
        }
        let line = line.recv_timeout(START_MAX).unwrap_or_default();
        let address = line.trim().strip_prefix("listening on http://");
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            end_child(&mut child);
            return Err(Failure::runtime(format!("`semel {name}` did not start to listen")));
        };
        Ok(Self { child, address })
    }

    /// Makes sure that it is gone.
    pub(super) fn end(&mut self) {
        end_child(&mut self.child);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn end_child(child: &mut Child) {
    drop(child.kill());
    // Its number is free after the wait, and somebody else's soon.
    let pid = child.id();
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != pid);
    drop(child.wait());
}
