//! What can be called, and how a call is read: flags, then environment, then the TOML file, then
//! defaults. Every setting is defined once, as a flag; its environment variable and its name in
//! the file follow from it.

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    check_config, completions, demo, doctor, kafka, man, migrate, proxy, records,
};
use crate::config::{self, Rivals, Settled};
use crate::failure::Failure;
use crate::output;

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
    /// Look at Apache Kafka
    Kafka(kafka::Arguments),
    /// Make or upgrade the tables of a PostgreSQL store
    Migrate(migrate::Arguments),
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
pub(crate) type StoreArguments = Settled<StoreFlags>;

/// Global, so that `--store` may stand before or behind a subcommand of `records`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreFlags {
    /// Where the records are: sqlite:PATH, postgres://…, redis://… (or memory: for a proxy that
    /// may forget)
    #[arg(long, value_name = "URL", env = "SEMEL_STORE", default_value = "sqlite:semel.db")]
    #[arg(hide_env_values = true, global = true)]
    store: String,
    /// File whose first line is the store's URL, for URLs with passwords
    #[arg(long, value_name = "FILE", env = "SEMEL_STORE_FILE", global = true)]
    store_file: Option<std::path::PathBuf>,
}

impl Rivals for StoreFlags {
    const FIELDS: [&'static str; 2] = ["store", "store_file"];

    fn forget(&mut self, field: &str) {
        // The URL has a default and is looked at only without a file.
        if field == "store_file" {
            self.store_file = None;
        }
    }
}

impl StoreFlags {
    /// The URL, from its file if there is one.
    pub(crate) fn url(&self) -> Result<String, Failure> {
        self.store_file.as_deref().map_or_else(|| Ok(self.store.clone()), config::first_line)
    }
}

/// Reads the command line. Help and version are printed and end the program here.
pub(crate) fn parse() -> Result<Command, Failure> {
    let file = file()?;
    let command = Cli::command();
    let command = match &file {
        Some(file) => file.as_defaults(command)?,
        None => command,
    };
    let matches = command.try_get_matches().or_else(|error| complain(&error))?;
    let cli = Cli::from_arg_matches(&matches).or_else(|error| complain(&error))?;
    if let Some(matches) = proxy_matches(&matches) {
        let in_file = file.iter().flat_map(config::File::names).collect::<Vec<_>>();
        proxy::remember_sources(matches, &in_file);
    }
    Ok(cli.command)
}

/// Says what clap says, and where a wrong value comes from when nobody typed it.
fn complain<T>(error: &clap::Error) -> Result<T, Failure> {
    if error.exit_code() == 0 {
        error.exit();
    }
    // A terminal that went away is no second failure.
    drop(error.print());
    if let Some(variable) = variable_of(error) {
        output::error_line(&format!("help: the value comes from the variable {variable}"));
    }
    Err(Failure::told_usage())
}

/// The variable that holds the wrong value, unless its flag was typed.
fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) else {
        return None;
    };
    let flag = flag.split(' ').next()?;
    let is_flag = |word: String| word == flag || word.starts_with(&format!("{flag}="));
    let variable = format!("SEMEL_{}", flag.trim_start_matches('-').replace('-', "_"));
    let variable = variable.to_uppercase();
    let is_typed = std::env::args_os().any(|word| is_flag(word.to_string_lossy().into_owned()));
    (!is_typed && std::env::var(&variable).is_ok_and(|held| held.contains(value.as_str())))
        .then_some(variable)
}

fn proxy_matches(matches: &ArgMatches) -> Option<&ArgMatches> {
    matches.subcommand_matches("proxy")
}

/// The file that `proxy --config` names; its values are the defaults of the flags.
fn file() -> Result<Option<config::File>, Failure> {
    // A first reading finds the file; what it complains about is for the second to say.
    let peek = Cli::command().ignore_errors(true).try_get_matches();
    let path = peek.ok().and_then(|matches| {
        proxy_matches(&matches)?.get_one::<std::path::PathBuf>("config").cloned()
    });
    path.map(|path| config::File::read(&path)).transpose()
}
