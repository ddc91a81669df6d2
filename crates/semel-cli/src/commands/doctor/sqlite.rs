//! What only a SQLite file can tell.

use std::os::unix::fs::PermissionsExt;

use semel_stores::sqlite::SqliteStore;

use super::Finding;
use crate::failure::Failure;
use crate::text;

/// Less free space than this is a finding.
const FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// What everybody may do with a file.
const OTHERS: u32 = 0o007;

pub(super) async fn look(store: &SqliteStore) -> Result<Vec<Finding>, Failure> {
    let schema = store.schema_version().to_string();
    let mut findings = vec![Finding::new("schema", schema, None)];
    let journal = store.pragma("journal_mode").await?;
    let problem =
        (journal != "wal").then_some("the file is not in WAL mode; is it on a local disk?");
    findings.push(Finding::new("journal mode", &journal, problem));
    let synchronous = store.pragma("synchronous").await?;
    let problem = (synchronous != "2").then_some("commits are not on the disk when answered");
    findings.push(Finding::new("synchronous", format!("{synchronous} (2 is FULL)"), problem));
    let path = store.path();
    if let Ok(file) = std::fs::metadata(path) {
        let seen = format!("{}, {} bytes", path.display(), file.len());
        findings.push(Finding::new("file", seen, None));
        let mode = file.permissions().mode() & 0o777;
        let path = text::shell_word(&path.display().to_string());
        let advice =
            format!("it holds answers and the secret; shut others out: chmod o-rwx {path}");
        let problem = (mode & OTHERS != 0).then_some(advice);
        findings.push(Finding::new("permissions", format!("{mode:04o}"), problem.as_deref()));
    }
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    if let Ok(disk) = nix::sys::statvfs::statvfs(folder.unwrap_or(std::path::Path::new("."))) {
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let problem = (free < FREE_BYTES_MIN)
            .then_some("the disk is nearly full; a full one refuses keyed requests with 503");
        findings.push(Finding::new("free disk space", format!("{} MiB", free >> 20), problem));
    }
    Ok(findings)
}
