//! `semel records`: what happened to a key, and decisions about those that wait for one.

mod decide;
mod find;
mod get;
mod ls;
mod trace;

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{Uid, User};
use semel::operator;
use semel_http::parse_duration;
use semel_stores::{Opened, Purpose};

use crate::cli::StoreArguments;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List records, held ones with their reason
    Ls(ls::Arguments),
    /// Show everything about a key
    Get(get::Arguments),
    /// Show what was started under a key, and what that started
    Trace(trace::Arguments),
    /// Decide that nothing happened: the key is free again
    Release(Decision),
    /// Decide that it happened: retries get this answer from now on
    Complete(Completion),
    /// Forget a finished answer (a retry will run again), or delete all expired records
    Purge(Purge),
}

/// Which record.
#[derive(Clone, Debug, clap::Args)]
struct Target {
    /// The key, as the client sent it (without quotes)
    key: String,
    /// Only in this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only in this operation
    #[arg(long)]
    operation: Option<String>,
}

/// Who decides, and why; kept with the record's history.
#[derive(Clone, Debug, clap::Args)]
struct Because {
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who decides; kept in the audit trail. Default: USER, LOGNAME, or the name of this user
    #[arg(long, value_name = "NAME", default_value_t = actor(), hide_default_value = true)]
    actor: String,
}

/// Who sits here, as far as anybody can tell.
fn actor() -> String {
    let said = ["USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    let known = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    said.chain(std::iter::once_with(known).flatten())
        .find(|name| !name.trim().is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

impl Because {
    fn by(&self) -> operator::By<'_> {
        operator::By { actor: &self.actor, reason: &self.reason }
    }
}

#[derive(Debug, clap::Args)]
struct Decision {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    because: Because,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Completion {
    #[command(flatten)]
    decision: Decision,
    /// Status of the answer
    #[arg(long, value_name = "CODE", default_value = "200")]
    status: u16,
    /// Field of the answer; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Body of the answer
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    body: Option<String>,
    /// File with the body of the answer
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// How long the answer is kept
    #[arg(long, value_name = "DUR", default_value = "24h", value_parser = parse_duration)]
    retention: Duration,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["key", "expired"])))]
struct Purge {
    /// The key, as the client sent it (without quotes)
    #[arg(requires = "reason")]
    key: Option<String>,
    /// Only in this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only in this operation
    #[arg(long)]
    operation: Option<String>,
    /// Delete all records whose retention is over instead
    #[arg(long, conflicts_with = "reason")]
    expired: bool,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who decides; kept in the audit trail. Default: USER, LOGNAME, or the name of this user
    #[arg(long, value_name = "NAME", default_value_t = actor(), hide_default_value = true)]
    actor: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let url = arguments.store.url()?;
    let Opened { store, .. } = semel_stores::open(&url, Purpose::Operate).await?;
    match arguments.command {
        Command::Complete(completion) => decide::complete(&*store, completion).await,
        Command::Get(arguments) => get::run(&*store, arguments).await,
        Command::Ls(arguments) => ls::run(&*store, arguments).await,
        Command::Purge(purge) => decide::purge(&*store, purge).await,
        Command::Trace(arguments) => trace::run(&*store, arguments).await,
        Command::Release(decision) => decide::release(&*store, decision).await,
    }
}
