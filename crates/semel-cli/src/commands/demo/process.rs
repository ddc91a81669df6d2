//! Children of the demo: the same binary again, ended with the demo.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use crate::failure::Failure;

/// A child that has not started by then will not.
const START_MAX: Duration = Duration::from_secs(20);

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Process {
    /// Starts this binary with the arguments and waits until it says where it listens.
    pub(super) fn start(log: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let name = arguments.first().copied().unwrap_or_default();
        let refuse = |error: &std::io::Error| {
            Failure::runtime(format!("the demo could not start `semel {name}`")).caused_by(error)
        };
        let log = File::options().create(true).append(true).open(log).map_err(|it| refuse(&it))?;
        let mut child = command()
            .map_err(|error| refuse(&error))?
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| refuse(&error))?;
        let (told, line) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut line = String::new();
                drop(BufReader::new(stdout).read_line(&mut line));
                // The demo may have given up waiting.
                drop(told.send(line));
            });
        }
        let line = line.recv_timeout(START_MAX).unwrap_or_default();
        let address = line.trim().strip_prefix("listening on http://");
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            drop((child.kill(), child.wait()));
            return Err(Failure::runtime(format!("`semel {name}` did not start to listen")));
        };
        Ok(Self { child, address })
    }

    /// Waits for a child that dies by itself.
    pub(super) fn wait(&mut self) {
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

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
    if found.any(|path| path.canonicalize().is_ok_and(|path| path == program)) {
        return "semel".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    match program.strip_prefix(&here) {
        Ok(below) => format!("./{}", below.display()),
        Err(_) => program.display().to_string(),
    }
}
