//! The Flask example under gunicorn, with a real Redis, behind the real proxy.

use std::path::Path;

use semel_testkit::servers::{Missing, Redis};

use super::rust::FEATURES;
use super::{Verdict, venv};
use crate::process;

/// A thousand connections in the test and twice as many in the proxy, with room.
const OPEN_FILES: u64 = 4_096;

const REQUIREMENTS: &str = "examples/flask-redis/requirements.txt";

pub(super) fn run() -> Verdict {
    if let Some(missing) = Redis::missing() {
        let Missing { program, way } = missing;
        let why = format!("`{program}` is not on PATH");
        return Verdict::Skipped { why, way: way.to_owned() };
    }
    let venv = match venv::make("venv", REQUIREMENTS) {
        Ok(venv) => venv,
        Err(verdict) => return verdict,
    };
    if let Err(why) = process::allow_open_files(OPEN_FILES) {
        return Verdict::Skipped { why, way: format!("ulimit -n {OPEN_FILES}") };
    }
    Verdict::of(storm(&venv))
}

fn storm(venv: &Path) -> Result<(), String> {
    let redis = Redis::start().map_err(|error| error.to_string())?;
    let features = format!("{FEATURES},semel-cli/test-services");
    // The whole workspace, so that the crates built for the other tests are used again.
    let test = ["test", "--workspace", "--test", "flask_storm", "--features", &features];
    // One test at a time: each loads the machine on purpose.
    let alone = ["--", "--test-threads=1", "--nocapture"];
    let mut command = process::cargo(&[&test[..], &alone].concat());
    command.env("SEMEL_TEST_REDIS_URL", redis.url()).env("SEMEL_TEST_VENV", venv);
    process::run(&mut command)
}
