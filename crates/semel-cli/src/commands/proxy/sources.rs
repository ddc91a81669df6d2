//! Where each setting came from, for `/config`.

use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use serde_json::{Map, Value, json};

use crate::cli::Cli;

static SOURCES: OnceLock<Value> = OnceLock::new();

/// Settings that may hold a password.
const SECRET: [&str; 1] = ["store"];

/// Keeps what the command line, the environment and the file said.
pub(crate) fn remember(matches: Option<&ArgMatches>) {
    let Some(matches) = matches else { return };
    let mut settings = Map::new();
    let is_file = matches.contains_id("config") && matches.get_raw("config").is_some();
    let called = Cli::command();
    let flags = called.find_subcommand("proxy").into_iter().flat_map(clap::Command::get_arguments);
    // The flags and not the ids of the matches, which name the groups of flags as well.
    for id in flags.map(|flag| flag.get_id().as_str()) {
        let Ok(Some(raw)) = matches.try_get_raw(id) else { continue };
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            Some(ValueSource::DefaultValue) if is_file => "file or default",
            _ => "default",
        };
        let values: Vec<_> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        let value = if SECRET.contains(&id) { mask(&values.concat()) } else { values.join(",") };
        settings.insert(id.replace('_', "-"), json!({ "value": value, "source": source }));
    }
    // The first call wins; there is only one.
    SOURCES.get_or_init(|| Value::Object(settings));
}

/// The settings as JSON.
pub(super) fn shown() -> String {
    let settings = SOURCES.get().cloned().unwrap_or(Value::Null);
    format!("{settings:#}\n")
}

/// A URL without its password.
fn mask(url: &str) -> String {
    match url.split_once("://").zip(url.rsplit_once('@')) {
        Some(((scheme, _), (_, host))) => format!("{scheme}://…@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(mask("postgres://semel:hunter2@db/x"), "postgres://…@db/x");
        assert_eq!(mask("sqlite:semel.db"), "sqlite:semel.db");
    }
}
