//! The project's own text files.

use std::path::Path;

/// Folders that hold products, not sources.
const SKIPPED: [&str; 6] = [".git", "target", "__pycache__", ".venv", "node_modules", "corpus"];

/// Text that people write here, by the end of the name.
const KINDS: [&str; 11] =
    ["js", "json", "lua", "md", "proto", "py", "rs", "sh", "sql", "toml", "yml"];

/// Scripts whose name has no end.
const SCRIPTS: [&str; 1] = [".ci/run"];

/// One text file.
pub(super) struct File {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// The end of the name: `rs`, `md`, …; empty for scripts without one.
    pub(super) fn kind(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(_, kind)| kind)
    }

    /// Lines with their numbers, from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Whether the whole file is a test, an example or a benchmark target.
    pub(super) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.contains("/benches/")
    }
}

/// All text files below `root`, in the order of their paths.
pub(super) fn read(root: &Path) -> Result<Vec<File>, String> {
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(files)
}

fn walk(root: &Path, folder: &str, files: &mut Vec<File>) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{folder}/: cannot be read: {error}");
    for entry in std::fs::read_dir(root.join(folder)).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let kind = entry.file_type().map_err(at)?;
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            walk(root, &path, files)?;
        } else if kind.is_file() && is_text(&path) {
            let text = std::fs::read_to_string(root.join(&path));
            let text = text.map_err(|error| format!("{path}: cannot be read: {error}"))?;
            files.push(File { path, text });
        }
    }
    Ok(())
}

fn is_text(path: &str) -> bool {
    SCRIPTS.contains(&path) || KINDS.iter().any(|kind| path.ends_with(&format!(".{kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_file_is_found_and_products_are_not() {
        let files = read(&crate::process::root()).unwrap();
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy/files.rs"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/")));
    }

    #[test]
    fn the_kind_is_the_end_of_the_name() {
        let file = |path: &str| File { path: path.to_owned(), text: String::new() };
        assert_eq!(file("a.b/c.rs").kind(), "rs");
        assert_eq!(file(".ci/run").kind(), "");
        assert!(file("crates/semel/tests/a.rs").is_test());
    }
}
