//! The load: `wrk` with 64 connections that are kept alive.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Error;

const SCRIPT: &str = r#"wrk.method = "POST"
wrk.body = '{"item":"book","qty":12}'
wrk.headers["Content-Type"] = "application/json"
"#;

/// Writes the script that makes `wrk` send the request.
pub(super) fn script(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("post.lua");
    std::fs::write(&path, SCRIPT)?;
    Ok(path)
}

/// Loads the port and returns how many requests were answered with success. Any other answer or a
/// broken connection is an error: it would make the figure meaningless.
pub(super) fn run(port: u16, script: &Path, time: Duration) -> Result<u64, Error> {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", "64"])
        .args(["--duration", &format!("{}s", time.as_secs()), "--script"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}/orders"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let trouble = ["Socket errors", "Non-2xx"].iter().any(|words| said.contains(words));
    if trouble || !output.status.success() {
        return Err(format!("the load did not run cleanly: {said}").into());
    }
    requests(&said).ok_or_else(|| format!("wrk did not say what it did: {said}").into())
}

fn requests(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_requests_is_read_from_what_wrk_says() {
        let said = "Running 3s test\n  226311 requests in 3.00s, 32.1MB read\nRequests/sec: 1\n";
        assert_eq!(requests(said), Some(226_311));
        assert_eq!(requests("unable to connect"), None);
    }
}
