use clap::CommandFactory;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Of which command; of semel itself when left out
    command: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let page = match &arguments.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::usage(format!("there is no command `{name}`"))
                .help("`semel --help` lists the commands")
        })?,
    };
    let mut rendered = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut rendered)
        .map_err(|error| Failure::runtime("the manual page was not made").caused_by(&error))?;
    output::bytes(&rendered);
    Ok(())
}
