//! The proxy's configuration file, and which source of a setting counts.

mod file;
mod problem;
mod rivals;

use std::path::Path;

pub(crate) use file::File;
pub(crate) use rivals::{Rivals, Settled, Source, losers};

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
