//! A process that ends with this one.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Error;

const READY_MAX: Duration = Duration::from_secs(20);

/// A running process; dropping it sends SIGTERM and waits.
pub(super) struct Running {
    child: Child,
    /// Kept open, so that the program does not write into a broken pipe.
    stdout_kept: Option<ChildStdout>,
}

/// Whether a program of this name is on `PATH`.
pub(super) fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

impl Running {
    /// Starts the program and waits until the port takes connections.
    pub(super) fn on_port(command: &mut Command, port: u16) -> Result<Self, Error> {
        let mut running = Self { child: command.stdin(Stdio::null()).spawn()?, stdout_kept: None };
        let started = Instant::now();
        while TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = running.child.try_wait()? {
                return Err(format!("{command:?} ended at once ({status})").into());
            }
            if started.elapsed() > READY_MAX {
                return Err(format!("{command:?} does not listen on port {port}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    /// Starts the program and waits for its line `listening on http://HOST:PORT`.
    pub(super) fn announced(command: &mut Command) -> Result<(Self, u16), Error> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("no pipe to the program")?);
        let mut running = Self { child, stdout_kept: None };
        let mut line = String::new();
        while stdout.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once("listening on http://") {
                let address: SocketAddr = address.trim().trim_end_matches('/').parse()?;
                running.stdout_kept = Some(stdout.into_inner());
                return Ok((running, address.port()));
            }
            line.clear();
        }
        Err(format!("{command:?} ended before it said where it listens").into())
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let id = i32::try_from(self.child.id()).ok().map(Pid::from_raw);
        let told = id.is_some_and(|id| kill(id, Signal::SIGTERM).is_ok());
        if !told {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}
