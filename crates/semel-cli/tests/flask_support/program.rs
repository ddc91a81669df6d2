//! A child process that says when it is ready.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const READY_MAX: Duration = Duration::from_secs(60);

/// Kept for the message when something fails.
const LINES_MAX: usize = 200;

type Log = Arc<Mutex<Vec<String>>>;

/// A running program; dropping it ends it.
pub(crate) struct Program {
    name: String,
    child: Option<Child>,
    log: Log,
}

impl Program {
    /// Starts the program and waits until it prints where it listens: the first
    /// `http://HOST:PORT` after `marker`, on either output.
    pub(crate) fn start(name: &str, command: &mut Command, marker: &str) -> (Self, SocketAddr) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let log = Log::default();
        let (found, address) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        follow(stdout, marker, Arc::clone(&log), found.clone());
        follow(stderr, marker, Arc::clone(&log), found);
        let program = Self { name: name.to_owned(), child: Some(child), log };
        match address.recv_timeout(READY_MAX) {
            Ok(address) => (program, address),
            Err(error) => panic!("{name} did not say `{marker} http://…`: {error}"),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends SIGTERM and returns how the program ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.terminate().expect("a running program")
    }

    fn terminate(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", child.id())).status();
        if !kill.is_ok_and(|status| status.success()) {
            // It is gone already, or there is no shell: then at least nothing is left behind.
            child.kill().ok();
        }
        child.wait().ok()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.terminate();
        if thread::panicking() {
            let log = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            println!("--- the last lines of {}:\n{}\n---", self.name, log.join("\n"));
        }
    }
}

/// Reads an output to its end, so that the program never blocks on a full pipe.
fn follow(output: impl Read + Send + 'static, marker: &str, log: Log, found: Sender<SocketAddr>) {
    let marker = marker.to_owned();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(address) = address_in(&line, &marker) {
                // Only the first address is waited for.
                found.send(address).ok();
            }
            let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if log.len() == LINES_MAX {
                log.remove(0);
            }
            log.push(line);
        }
    });
}

fn address_in(line: &str, marker: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(marker)?;
    let (_, rest) = rest.split_once("http://")?;
    rest.split([' ', '/']).next()?.trim().parse().ok()
}
