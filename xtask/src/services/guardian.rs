//! A service in a process of its own that outlives nobody.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::process;

/// A running `xtask services NAME`. It stops its server when our end of its standard input
/// closes, which also happens when we are killed.
pub(crate) struct Guardian {
    child: Child,
    stdin: Option<ChildStdin>,
    url: String,
}

impl Guardian {
    /// Starts the service and returns once the server answers.
    pub(crate) fn start(service: &str) -> Result<Self, String> {
        let mut child = Command::new(process::own_program())
            .args(["services", service])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the {service} service cannot be started: {error}"))?;
        let stdin = child.stdin.take();
        let mut guardian = Self { child, stdin, url: String::new() };
        // The child bounds its own start, so this read ends: with a URL, or with the child.
        if let Some(stdout) = guardian.child.stdout.take() {
            let first = BufReader::new(stdout).lines().next();
            guardian.url = first.and_then(Result::ok).unwrap_or_default();
        }
        if guardian.url.is_empty() {
            return Err(format!("the {service} service did not come up; it says why above"));
        }
        Ok(guardian)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.wait());
    }
}
