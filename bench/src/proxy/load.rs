//! The load: `wrk` with 64 connections that are kept alive.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::Error;

/// What every request carries.
pub(super) const BODY: &str = r#"{"item":"book","qty":12}"#;

/// How many keys a load has whose requests come again. Far more than connections, so that none
/// comes again while it is in flight, and few enough that a short run asks for each of them.
pub(super) const REPLAYED_KEYS: u64 = 1_000;

/// Which requests are sent; each is a POST with the same body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    /// The same one again and again.
    Plain,
    /// Those of [`Self::Fresh`] with as long a name of the field, which means nothing.
    Unkeyed,
    /// Every request has a key of its own.
    Fresh,
    /// The same keys again and again, in every run.
    Replayed,
}

impl Requests {
    /// Writes the script that makes `wrk` send them. For one run: a second one with the same
    /// script would send the same keys.
    pub(super) fn script(self, folder: &Path) -> Result<PathBuf, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let run = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = match self {
            Self::Plain => plain(),
            Self::Unkeyed => keyed("Disregarded-Key", &format!("{run}-"), u64::MAX),
            Self::Fresh => keyed("Idempotency-Key", &format!("{run}-"), u64::MAX),
            Self::Replayed => keyed("Idempotency-Key", "again-", REPLAYED_KEYS),
        };
        let path = folder.join(format!("{run}.lua"));
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

fn plain() -> String {
    format!(
        r#"wrk.method = "POST"
wrk.body = '{BODY}'
wrk.headers["Content-Type"] = "application/json"
"#
    )
}

/// The request is put together once, around the place of the key, because `wrk.format` would take
/// longer than everything that is measured.
fn keyed(field: &str, prefix: &str, keys: u64) -> String {
    format!(
        r#"local threads = 0
function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

local before, after
local count = 0
function init()
  local fields = {{ ["Content-Type"] = "application/json", ["{field}"] = "\"<key>\"" }}
  local text = wrk.format("POST", nil, fields, '{BODY}')
  before, after = text:match("^(.*)<key>(.*)$")
  before = before .. "{prefix}" .. number .. "-"
end

function request()
  count = count % {keys} + 1
  return before .. count .. after
end
"#
    )
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
