//! The Python package: its wheel as pip makes it, its types, and its tests.

use std::path::Path;
use std::process::Command;

use super::{Verdict, venv};
use crate::process;

const PACKAGE: &str = "bindings/python";

const SOURCES: &str = "bindings/python/python/semel";

const REQUIREMENTS: &str = "bindings/python/tests/requirements.txt";

pub(super) fn run() -> Verdict {
    match venv::make("venv-python", REQUIREMENTS) {
        Ok(venv) => Verdict::of(test(&venv)),
        Err(verdict) => verdict,
    }
}

fn test(venv: &Path) -> Result<(), String> {
    let wheels = process::target().join("xtask/wheels");
    if wheels.exists() {
        std::fs::remove_dir_all(&wheels).map_err(|error| error.to_string())?;
    }
    let mut wheel = python(venv, &["-m", "pip", "wheel", "--quiet", "--no-deps"]);
    // With the tools of the environment and the crates that are built already.
    wheel.args(["--no-build-isolation", "--wheel-dir"]).arg(&wheels).arg(PACKAGE);
    wheel.env("CARGO_TARGET_DIR", process::target()).env("MATURIN_PEP517_ARGS", "--profile dev");
    process::run(&mut wheel)?;
    let mut install = python(venv, &["-m", "pip", "install", "--quiet", "--no-deps"]);
    install.args(["--force-reinstall", "--no-index", "--find-links"]).arg(&wheels).arg("semel");
    process::run(&mut install)?;
    let settings = "bindings/python/pyproject.toml";
    process::run(&mut python(venv, &["-m", "mypy", "--config-file", settings, SOURCES]))?;
    process::run(&mut python(venv, &["-m", "pytest", "-q", "bindings/python/tests"]))
}

fn python(venv: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(venv.join("bin/python"));
    command.args(arguments).current_dir(process::root());
    let mut path = vec![venv.join("bin")];
    path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    // One that cannot be joined leaves the tools where they are found by their own paths.
    if let Ok(path) = std::env::join_paths(path) {
        command.env("PATH", path);
    }
    command
}
