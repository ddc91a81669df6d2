use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// For which shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "semel", &mut script);
    output::bytes(&script);
}
