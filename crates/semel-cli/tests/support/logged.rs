//! A proxy whose log is a file, as under a supervisor, so that a test can read all of it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::NamedTempFile;

/// Dropping it kills the proxy.
pub(crate) struct Logged {
    child: Child,
    log: NamedTempFile,
    pub(crate) address: SocketAddr,
}

impl Logged {
    /// Starts it and waits for its one line.
    pub(crate) fn start(mut command: Command) -> Self {
        let log = NamedTempFile::new().unwrap();
        command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let Some(address) = address.and_then(|it| it.parse().ok()) else {
            drop(child.kill().and_then(|()| child.wait()));
            panic!("it said {line:?}: {}", std::fs::read_to_string(log.path()).unwrap());
        };
        Self { child, log, address }
    }

    /// Everything it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
