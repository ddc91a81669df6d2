//! What the tests of wrong calls, records, health and the wire add to the support of the crash
//! tests: runs that must fail and leave nothing behind, and conditions to wait for.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) mod late;
pub(crate) mod logged;
#[path = "../crash/support.rs"]
mod site;

pub(crate) use site::*;

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is yes. Each question takes a while by itself: a process or a request.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
    }
}

/// A proxy of this site that is not started yet, for what is no flag: its environment.
pub(crate) fn proxy_command(site: &Site, flags: &[&str]) -> Command {
    let mut command = semel();
    command
        .args(["proxy", "--listen", "127.0.0.1:0", "--store", site.url()])
        .args(["--upstream", &format!("http://{}", site.upstream.address)])
        .args(flags);
    command
}

/// Runs `semel` in this folder and gives the exit code and everything that it said.
pub(crate) fn run_in(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = semel().args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    (output.status.code(), said)
}

/// Names, sizes and a checksum of everything in a folder, to see that nothing was made or changed.
pub(crate) fn contents(folder: &Path) -> Vec<(String, usize, u64)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = entries
        .map(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            (entry.file_name().into_string().unwrap(), bytes.len(), hasher.finish())
        })
        .collect();
    all.sort();
    all
}

/// A text of the repository, by its path from the root.
pub(crate) fn document(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
