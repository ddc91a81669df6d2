//! Virtual environments of Python under the target folder.

use std::path::PathBuf;
use std::process::Command;

use super::Verdict;
use crate::process;

/// The virtual environment of this name with these requirements, made when it is not there or was
/// made from others. Where it cannot be had, the suite is skipped.
pub(super) fn make(name: &str, requirements: &str) -> Result<PathBuf, Verdict> {
    try_to_make(name, requirements).map_err(|why| {
        let way = "apt-get install python3-venv, and let pip reach its package index";
        Verdict::Skipped { why, way: way.to_owned() }
    })
}

fn try_to_make(name: &str, requirements: &str) -> Result<PathBuf, String> {
    let file = process::root().join(requirements);
    let wanted = std::fs::read_to_string(&file)
        .map_err(|error| format!("{requirements} cannot be read: {error}"))?;
    let venv = process::target().join("xtask").join(name);
    let stamp = venv.join("installed-requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(venv);
    }
    if process::find("python3").is_none() {
        return Err("`python3` is not on PATH".to_owned());
    }
    println!("    making a virtual environment from {requirements}");
    process::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    process::output(pip.arg(&file))?;
    // Written last, so that an interrupted installation is not taken for a finished one.
    std::fs::write(&stamp, wanted)
        .map_err(|error| format!("{} cannot be written: {error}", stamp.display()))?;
    Ok(venv)
}
