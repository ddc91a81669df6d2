use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches};

use super::proxy;
use crate::cli::{Cli, Command};
use crate::config::File;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The TOML file that `semel proxy --config` would read
    file: PathBuf,
}

/// Reads the file as the proxy would, and checks every rule that can be checked without starting.
/// The environment counts, as it would for the proxy.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let command = File::read(&arguments.file)?.as_defaults(Cli::command())?;
    let called = command.try_get_matches_from(["semel", "proxy"]);
    let parsed = called.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = parsed.map_err(|error| {
        let said = error.to_string();
        let complaint = said.split("\n\nUsage").next().unwrap_or_default();
        Failure::usage(complaint.trim_start_matches("error: ").trim_end())
            .help(format!("set it in {} or in the environment", arguments.file.display()))
    })?;
    let Command::Proxy(settings) = cli.command else {
        return Err(Failure::runtime("the file was read as something else than a proxy's"));
    };
    proxy::check(&settings)?;
    output::line(&format!("{} is fine", arguments.file.display()));
    Ok(())
}
