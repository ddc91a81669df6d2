//! This program: how the demo starts it again, and how people call it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::{AccessFlags, access};

/// This program, without the settings of its caller's environment.
pub(super) fn command() -> std::io::Result<Command> {
    // Asked once: a program that is replaced while it runs no longer has a path.
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = match PROGRAM.get() {
        Some(program) => program,
        None => {
            let program = std::env::current_exe()?;
            PROGRAM.get_or_init(|| program)
        }
    };
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SEMEL_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// How a person calls this program from the current folder.
pub(super) fn as_typed() -> String {
    let Ok(program) = std::env::current_exe() else { return "semel".to_owned() };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&paths).map(|folder| folder.join("semel"));
    // The first that can be run is what a shell takes; another version may stand before this one.
    let found = found.find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok());
    if found.and_then(|path| path.canonicalize().ok()).is_some_and(|path| path == program) {
        return "semel".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    match program.strip_prefix(&here) {
        Ok(below) => format!("./{}", below.display()),
        Err(_) => program.display().to_string(),
    }
}
