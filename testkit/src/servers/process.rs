//! One server process with its children.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::nest::{Nest, Orders};
use super::{Error, Waiting, wait_for};

/// How long the system may take to end a killed process.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: Pid,
    log: PathBuf,
    orders: Orders,
}

impl Process {
    /// Starts the program in the background, under the nest's watchdog. What it says goes to the
    /// end of the log file.
    pub(super) fn spawn(command: &mut Command, nest: &Nest, log: &Path) -> Result<Self, Error> {
        let name = command.get_program().to_string_lossy().into_owned();
        let at = Error::of::<std::io::Error>;
        let sink = std::fs::File::options().create(true).append(true).open(log);
        let sink = sink.map_err(at(format!("{}", log.display())))?;
        let errors = sink.try_clone().map_err(at(format!("{}", log.display())))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(sink)
            .stderr(errors)
            // Ctrl-C is for the test alone; the watchdog ends the server.
            .process_group(0)
            .spawn()
            .map_err(at(format!("`{name}` cannot be started")))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let process = Self { child, pid, log: log.to_owned(), orders: nest.orders() };
        process.orders.watch(pid)?;
        Ok(process)
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        // Not reaped by this look: forget comes first, and it is ours while it is a zombie.
        if state(self.pid) != Some('Z') {
            return None;
        }
        self.orders.forget(self.pid);
        self.child.wait().ok()
    }

    /// Asks until the server answers; gives up when it ends, with the end of its log.
    pub(super) fn wait_until_ready(
        &mut self,
        bound: Duration,
        mut ask: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let ready = wait_for(bound, || {
            // First, so that a stranger on our port is not taken for a child that failed to bind.
            if let Some(status) = self.ended() {
                return Err(Waiting::Never(Error::new(format!("it ended at once ({status})"))));
            }
            ask().map_err(Waiting::NotYet)
        });
        ready.map_err(|error| Error::new(format!("{error}; {}", self.last_words())))
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        match lines.as_slice() {
            [] => "its log is empty".to_owned(),
            [.., last] => format!("its log ends with: {last}"),
        }
    }

    /// Asks it to end (`SIGTERM`), which it may do in its own time.
    pub(super) fn ask_to_end(&self) {
        send(self.pid, Signal::SIGTERM);
    }

    /// Waits until it ends by itself. Whoever gives up can still drop it.
    pub(super) fn wait_until_ended(&mut self, bound: Duration) -> Result<ExitStatus, Error> {
        wait_for(bound, || {
            self.ended().ok_or_else(|| Waiting::NotYet(Error::new("it has not ended")))
        })
    }

    /// Stops it and its children where they are; connections stay open.
    pub(super) fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets it and its children go on.
    pub(super) fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Kills it and its children, and returns when none is left.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Stopped first: a stopped parent has no new children, so none is missed.
        self.freeze();
        let children = children(self.pid);
        for pid in children.iter().chain([&self.pid]) {
            send(*pid, Signal::SIGKILL);
        }
        self.orders.forget(self.pid);
        drop(self.child.kill());
        drop(self.child.wait());
        // They are not ours to reap; a zombie has let go of everything that matters.
        let gone = |pid: &Pid| matches!(state(*pid), None | Some('Z' | 'X'));
        drop(wait_for(DEATH_MAX, || match children.iter().all(gone) {
            true => Ok(()),
            false => Err(Waiting::NotYet(Error::new("a killed process is still there"))),
        }));
    }

    /// The server itself comes first, then its children as they are at that moment.
    fn signal_all(&self, signal: Signal) {
        send(self.pid, signal);
        if signal == Signal::SIGSTOP {
            drop(wait_for(DEATH_MAX, || match state(self.pid) {
                Some('T' | 'Z') | None => Ok(()),
                Some(_) => Err(Waiting::NotYet(Error::new("it has not stopped yet"))),
            }));
        }
        for pid in children(self.pid) {
            send(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.end();
        }
    }
}

fn send(pid: Pid, signal: Signal) {
    // An error means that it has ended, which is what a signal could do at most.
    kill(pid, signal).ok();
}

/// The processes whose parent this is.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pids = pids.map(Pid::from_raw);
    pids.filter(|pid| status(*pid).is_some_and(|(_, its)| its == parent)).collect()
}

/// `R`, `S`, `D`, `T`, `Z`, …; none when there is no such process.
fn state(pid: Pid) -> Option<char> {
    status(pid).map(|(state, _)| state)
}

/// The state and the parent.
fn status(pid: Pid) -> Option<(char, Pid)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may hold anything, even parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, Pid::from_raw(words.next()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_child(nest: &Nest) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let process = Process::spawn(&mut command, nest, &nest.folder().join("log")).unwrap();
        let has_child = || match children(process.pid).is_empty() {
            false => Ok(()),
            true => Err(Waiting::NotYet(Error::new("no child yet"))),
        };
        wait_for(DEATH_MAX, has_child).unwrap();
        process
    }

    #[test]
    fn killing_takes_the_children_along() {
        let nest = Nest::new("process").unwrap();
        let process = with_child(&nest);
        let family: Vec<Pid> = children(process.pid).into_iter().chain([process.pid]).collect();
        process.kill();
        assert!(family.iter().all(|pid| matches!(state(*pid), None | Some('Z'))));
    }

    #[test]
    fn a_frozen_family_is_stopped_and_a_thawed_one_is_not() {
        let nest = Nest::new("process").unwrap();
        let process = with_child(&nest);
        let child = children(process.pid)[0];
        let wait_for_state = |is_wanted: fn(char) -> bool| {
            wait_for(DEATH_MAX, || match state(child) {
                Some(state) if is_wanted(state) => Ok(()),
                _ => Err(Waiting::NotYet(Error::new("the child is in another state"))),
            })
        };
        process.freeze();
        wait_for_state(|state| state == 'T').unwrap();
        process.thaw();
        wait_for_state(|state| state != 'T').unwrap();
    }

    #[test]
    fn a_server_that_ends_at_once_is_not_waited_for_and_its_log_is_told() {
        let nest = Nest::new("process").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the disk is full; exit 3"]);
        let log = nest.folder().join("log");
        let mut process = Process::spawn(&mut command, &nest, &log).unwrap();
        let never = || Err(Error::new("no answer"));
        let error = process.wait_until_ready(DEATH_MAX, never).unwrap_err().to_string();
        assert!(error.contains("ended at once"), "{error}");
        assert!(error.ends_with("the disk is full"), "{error}");
    }
}
