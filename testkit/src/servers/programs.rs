//! Where the servers' programs lie.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A program that is not on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub program: &'static str,
    /// How to get it: a command to type.
    pub way: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not on PATH; {}", self.program, self.way)
    }
}

/// Whether a test has to skip, which it then says.
///
/// # Panics
///
/// When something is missing although nothing may be: `SEMEL_TEST_REQUIRE_ALL` is set.
#[must_use]
pub fn skips(missing: Option<Missing>) -> bool {
    let Some(missing) = missing else {
        return false;
    };
    assert!(std::env::var_os("SEMEL_TEST_REQUIRE_ALL").is_none(), "{missing}");
    // Not `eprintln`, which the test harness would keep to itself.
    std::io::stderr().write_all(format!("SKIPPED: {missing}\n").as_bytes()).ok();
    true
}

/// A program on `PATH`, if it is there.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A program on `PATH`, or where Debian keeps those that only root has there.
pub(super) fn find_of_root(program: &str) -> Option<PathBuf> {
    find(program).or_else(|| Some(Path::new("/usr/sbin").join(program)).filter(|it| it.is_file()))
}

/// The folder with PostgreSQL's programs.
///
/// What is on `PATH` comes first. Debian puts them elsewhere, one folder a version; the newest
/// one is taken there.
pub(super) fn postgres_folder() -> Option<PathBuf> {
    let has_all = |folder: &PathBuf| {
        ["initdb", "pg_basebackup", "postgres", "psql"]
            .iter()
            .all(|program| folder.join(program).is_file())
    };
    // Through links: the neighbours are where the program really lies.
    let on_path = find("postgres").and_then(|path| path.canonicalize().ok());
    let on_path = on_path.and_then(|path| path.parent().map(Path::to_path_buf));
    on_path.filter(has_all).or_else(|| newest_below(Path::new("/usr/lib/postgresql"), has_all))
}

fn newest_below(root: &Path, has_all: impl Fn(&PathBuf) -> bool) -> Option<PathBuf> {
    let version = |folder: PathBuf| {
        let number: u32 = folder.file_name()?.to_str()?.parse().ok()?;
        Some((number, folder.join("bin")))
    };
    let versions = std::fs::read_dir(root).ok()?;
    let versions = versions.filter_map(|entry| version(entry.ok()?.path()));
    versions.filter(|(_, folder)| has_all(folder)).max().map(|(_, folder)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_or_not_at_all() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }

    #[test]
    fn the_newest_complete_version_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16", "common"] {
            std::fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let is_complete = |folder: &PathBuf| !folder.ends_with("16/bin");
        let found = newest_below(root.path(), is_complete).unwrap();
        assert_eq!(found, root.path().join("15/bin"));
    }
}
