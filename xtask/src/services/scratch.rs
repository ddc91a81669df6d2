//! A folder that lasts as long as the command.

use std::path::{Path, PathBuf};

/// A new folder among the temporary ones; dropping it removes it with all it holds.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(prefix: &str) -> Result<Self, String> {
        // The process id makes the name unique among the living; a dead one's folder is stale.
        let path = std::env::temp_dir().join(format!("{prefix}-{}", std::process::id()));
        if path.exists() {
            drop(std::fs::remove_dir_all(&path));
        }
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("{}: the folder cannot be made: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} is left behind: {error}", self.0.display());
        }
    }
}
