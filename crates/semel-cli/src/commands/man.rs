use clap::CommandFactory;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Of which command, for example `records complete`; of semel itself when left out
    command: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut page = Cli::command();
    page.build();
    for name in &arguments.command {
        page = page.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::usage(format!("there is no command `{}`", arguments.command.join(" ")))
                .help("`semel --help` lists the commands")
        })?;
    }
    let mut rendered = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut rendered)
        .map_err(|error| Failure::runtime("the manual page was not made").caused_by(&error))?;
    output::bytes(&rendered);
    Ok(())
}
