//! The proxy's configuration file.

mod file;
mod problem;

use std::path::Path;

pub(crate) use file::File;

use crate::failure::Failure;

/// The first line of a file that holds a secret, without its end.
pub(crate) fn first_line(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("the file {} cannot be read", path.display())).caused_by(&error)
    })?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Failure::usage(format!("the file {} is empty", path.display()))
            .help("its first line must hold the value")),
    }
}
