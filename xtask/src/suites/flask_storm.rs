//! The Flask example under gunicorn, with a real Redis, behind the real proxy.

use std::path::{Path, PathBuf};
use std::process::Command;

use semel_testkit::servers::{Missing, Redis};

use super::Verdict;
use super::rust::FEATURES;
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
    let venv = match venv() {
        Ok(venv) => venv,
        Err(why) => {
            let way = "apt-get install python3-venv, and let pip reach its package index";
            return Verdict::Skipped { why, way: way.to_owned() };
        }
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

/// The virtual environment with the example's requirements, made when it is not there or made
/// from other requirements. An error says why it cannot be had.
fn venv() -> Result<PathBuf, String> {
    let requirements = process::root().join(REQUIREMENTS);
    let wanted = std::fs::read_to_string(&requirements)
        .map_err(|error| format!("{REQUIREMENTS} cannot be read: {error}"))?;
    let venv = process::target().join("xtask/venv");
    let stamp = venv.join("installed-requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(venv);
    }
    if process::find("python3").is_none() {
        return Err("`python3` is not on PATH".to_owned());
    }
    println!("    making a virtual environment from {REQUIREMENTS}");
    process::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    process::output(pip.arg(&requirements))?;
    // Written last, so that an interrupted installation is not taken for a finished one.
    std::fs::write(&stamp, wanted)
        .map_err(|error| format!("{} cannot be written: {error}", stamp.display()))?;
    Ok(venv)
}
