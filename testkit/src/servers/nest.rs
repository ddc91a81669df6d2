//! The temporary folder of a server, and the watchdog that clears it away.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Pid;

use super::Error;

const WATCHDOG: &str = include_str!("watchdog.sh");

/// A folder and the processes that live in it. Dropping it kills them and removes it.
///
/// The work is done by a shell that waits for the end of its standard input. The system closes
/// our end when we die, so what happens on `SIGKILL` is what happens on every drop.
#[derive(Debug)]
pub(super) struct Nest {
    folder: PathBuf,
    watchdog: Child,
    orders: Orders,
}

/// Tells the watchdog of processes. Only the nest itself keeps it waiting, and only while it
/// lives.
#[derive(Clone, Debug)]
pub(super) struct Orders(Arc<Mutex<Option<ChildStdin>>>);

impl Nest {
    /// Makes the folder. Others can pass through it but not look around.
    pub(super) fn new(name: &str) -> Result<Self, Error> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("semel-{name}-"))
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .tempdir()
            .map_err(Error::of("no temporary folder can be made"))?
            .keep();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "semel-watchdog"])
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches the whole group of a terminal; the watchdog still has work to do.
            .process_group(0)
            .spawn();
        let mut watchdog = match watchdog {
            Ok(watchdog) => watchdog,
            Err(error) => {
                drop(std::fs::remove_dir_all(&folder));
                return Err(Error::new(format!("`sh` cannot be started: {error}")));
            }
        };
        let orders = Orders(Arc::new(Mutex::new(watchdog.stdin.take())));
        Ok(Self { folder, watchdog, orders })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// A new folder inside.
    pub(super) fn subfolder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        std::fs::create_dir(&path)
            .map_err(Error::of(format!("{}: the folder cannot be made", path.display())))?;
        Ok(path)
    }

    /// A new file inside.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)
            .map_err(Error::of(format!("{}: cannot be written", path.display())))?;
        Ok(path)
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        self.orders.close();
        drop(self.watchdog.wait());
    }
}

impl Orders {
    pub(super) fn watch(&self, pid: Pid) -> Result<(), Error> {
        self.give("watch", pid).map_err(Error::of("the watchdog of this server is gone"))
    }

    /// Must come before the process is reaped: after that, its id may be anybody's.
    pub(super) fn forget(&self, pid: Pid) {
        // A watchdog that is gone has forgotten everything.
        drop(self.give("forget", pid));
    }

    fn give(&self, order: &str, pid: Pid) -> std::io::Result<()> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(stdin) => stdin.write_all(format!("{order} {pid}\n").as_bytes()),
            None => Ok(()),
        }
    }

    fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_the_nest() {
        let nest = Nest::new("nest").unwrap();
        let folder = nest.folder().to_owned();
        nest.file("a", "text").unwrap();
        assert!(folder.is_dir());
        drop(nest);
        assert!(!folder.exists());
    }

    #[test]
    fn what_is_watched_dies_with_the_nest_and_what_is_forgotten_does_not() {
        let nest = Nest::new("nest").unwrap();
        let sleeper = || Command::new("sleep").arg("600").spawn().unwrap();
        let id = |child: &Child| Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (mut watched, mut forgotten) = (sleeper(), sleeper());
        for child in [&watched, &forgotten] {
            nest.orders().watch(id(child)).unwrap();
        }
        nest.orders().forget(id(&forgotten));
        drop(nest);
        assert!(!watched.wait().unwrap().success());
        assert!(forgotten.try_wait().unwrap().is_none());
        forgotten.kill().unwrap();
        forgotten.wait().unwrap();
    }
}
