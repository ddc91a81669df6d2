//! `semel migrate`: the tables of a PostgreSQL store.

use clap::Subcommand;
use semel_stores::postgres::PostgresOptions;
use semel_stores::postgres::migrate::{self, Migration};
use serde_json::json;

use crate::cli::StoreArguments;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make or upgrade the tables, all in one transaction
    Up {
        /// Print the SQL, as psql takes it, instead of running it
        #[arg(long)]
        dry_run: bool,
    },
    /// Say which steps are applied; exit code 1 when one is missing
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let url = arguments.store.url()?;
    semel_stores::check(&url)?;
    if !url.starts_with("postgres") {
        return Err(Failure::usage("only a PostgreSQL store has tables to migrate")
            .help("SQLite and Redis stores make what they need when they are opened"));
    }
    match arguments.command {
        Command::Up { dry_run: true } => dry_run(&url).await,
        Command::Up { dry_run: false } => up(&url).await,
        Command::Status { json } => status(&url, json).await,
    }
}

async fn steps(url: &str) -> Result<Vec<Migration>, Failure> {
    Ok(migrate::status(url, PostgresOptions::default()).await?)
}

async fn dry_run(url: &str) -> Result<(), Failure> {
    let script = migrate::script(url, PostgresOptions::default()).await?;
    output::line(script.as_deref().map_or("-- nothing to do", str::trim_end));
    Ok(())
}

async fn up(url: &str) -> Result<(), Failure> {
    let done = migrate::up(url, PostgresOptions::default()).await?;
    for step in &done {
        output::line(&format!("applied step {}: {}", step.version, step.name));
    }
    if done.is_empty() {
        output::line("nothing to do: the tables are up to date");
    }
    Ok(())
}

async fn status(url: &str, is_json: bool) -> Result<(), Failure> {
    let steps = steps(url).await?;
    let is_complete = steps.iter().all(|step| step.applied.is_some());
    if is_json {
        let steps: Vec<_> = steps
            .iter()
            .map(|it| json!({ "version": it.version, "name": it.name, "applied": it.applied }))
            .collect();
        output::json(&json!({ "up_to_date": is_complete, "steps": steps }));
    } else {
        for step in &steps {
            let applied = step.applied.as_deref().unwrap_or("missing");
            output::line(&format!("{:>4}  {:<20} {applied}", step.version, step.name));
        }
        output::line(if is_complete {
            "the tables are up to date"
        } else {
            "steps are missing; run `semel migrate up`"
        });
    }
    if is_complete { Ok(()) } else { Err(Failure::told()) }
}
