//! What can be called, and how a call is read: flags, then environment, then the TOML file, then
//! defaults. Every setting is defined once, as a flag; its environment variable and its name in
//! the file follow from it.

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{check_config, completions, demo, doctor, man, proxy, records};
use crate::config;
use crate::failure::Failure;

/// Makes retried work take effect once.
#[derive(Debug, Parser)]
#[command(name = "semel", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed (or the answer is no), 2 called wrongly.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show duplicates vanish: an order service without semel and behind it
    Demo(demo::Arguments),
    /// Stand in front of an HTTP service and let every key through once
    Proxy(Box<proxy::Arguments>),
    /// Look at records and decide about those that wait for it
    Records(Box<records::Arguments>),
    /// Say whether a store keeps its promises, and what waits in it
    Doctor(doctor::Arguments),
    /// Check a configuration file of the proxy without starting anything
    CheckConfig(check_config::Arguments),
    /// Print the completions of a shell
    Completions(completions::Arguments),
    /// Print the manual page
    Man(man::Arguments),
    #[command(hide = true)]
    DemoOrders(demo::orders::Arguments),
}

/// Which store; the same for every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreArguments {
    /// Where the records are: sqlite:PATH (or memory: for a proxy that may forget)
    #[arg(long, value_name = "URL", env = "SEMEL_STORE", default_value = "sqlite:semel.db")]
    #[arg(hide_env_values = true)]
    pub(crate) store: String,
    /// File whose first line is the store's URL, for URLs with passwords
    #[arg(long, value_name = "FILE", env = "SEMEL_STORE_FILE")]
    pub(crate) store_file: Option<std::path::PathBuf>,
}

impl StoreArguments {
    /// The URL, from its file if there is one.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        self.store_file.as_deref().map_or_else(|| Ok(self.store.clone()), config::first_line)
    }
}

/// Reads the command line. Help and version are printed and end the program here.
pub(crate) fn parse() -> Result<Command, Failure> {
    let command = with_file(Cli::command())?;
    let matches = command.try_get_matches().unwrap_or_else(|error| error.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    proxy::remember_sources(proxy_matches(&matches));
    Ok(cli.command)
}

fn proxy_matches(matches: &ArgMatches) -> Option<&ArgMatches> {
    matches.subcommand_matches("proxy")
}

/// Makes the values of the file that `proxy --config` names the defaults of the flags.
fn with_file(command: clap::Command) -> Result<clap::Command, Failure> {
    // A first reading finds the file; what it complains about is for the second to say.
    let peek = command.clone().ignore_errors(true).try_get_matches();
    let file = peek.ok().and_then(|matches| {
        proxy_matches(&matches)?.get_one::<std::path::PathBuf>("config").cloned()
    });
    match file {
        None => Ok(command),
        Some(path) => config::File::read(&path)?.as_defaults(command),
    }
}
