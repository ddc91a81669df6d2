//! Finding and running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The workspace's root folder: where the `xtask` crate lies, one up.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the compile-time value serves a copied binary.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
    let manifest = manifest.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The folder for build products.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    // What cargo tells us about this crate must not leak into the build of others.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    if EVERYTHING_IS_REQUIRED.load(Ordering::Relaxed) {
        command.env("SEMEL_TEST_REQUIRE_ALL", "1");
    }
    command
}

static EVERYTHING_IS_REQUIRED: AtomicBool = AtomicBool::new(false);

/// From now on, a test that cannot run a part of itself (mounting needs root, say) has to fail
/// instead of saying `SKIPPED`.
pub(crate) fn require_everything() {
    EVERYTHING_IS_REQUIRED.store(true, Ordering::Relaxed);
}

/// Lets this process and those it starts open at least `count` files.
pub(crate) fn allow_open_files(count: u64) -> Result<(), String> {
    let at = |error: Errno| format!("the limit on open files cannot be changed: {error}");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(at)?;
    if hard < count {
        return Err(format!("only {hard} files may be open at once (`ulimit -Hn`), not {count}"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(count), hard).map_err(at)
}

/// A program on `PATH`, if it is there.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Runs a command whose output goes to our own; an error says how it ended.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let name = name_of(command);
    let status =
        command.status().map_err(|error| format!("`{name}` could not be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{name}` failed ({status})")) }
}

/// Runs a command and returns what it printed; an error carries the end of its error output.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let name = name_of(command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`{name}` could not be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let said = String::from_utf8_lossy(said);
    let last = said.trim().lines().last().unwrap_or("it said nothing").trim().to_owned();
    Err(format!("`{name}` failed ({}): {last}", output.status))
}

fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy());
    let program = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    words.enumerate().fold(String::new(), |line, (index, word)| {
        if index == 0 { program(&word) } else { format!("{line} {word}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_last_words() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo first >&2; echo 'disk is full' >&2; exit 3"]);
        let error = output(&mut command).unwrap_err();
        assert!(error.starts_with("`sh -c"), "{error}");
        assert!(error.ends_with("disk is full"), "{error}");
    }

    #[test]
    fn an_impossible_number_of_open_files_is_refused_with_the_limit() {
        allow_open_files(16).unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if let Some(more) = hard.checked_add(1) {
            let error = allow_open_files(more).unwrap_err();
            assert!(error.contains(&hard.to_string()), "{error}");
        }
    }

    #[test]
    fn a_program_is_found_on_the_path_or_not_at_all() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
