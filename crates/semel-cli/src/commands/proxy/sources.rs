//! Where each setting came from, for `/config`.

use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use serde_json::{Map, Value, json};

use crate::cli::Cli;
use crate::config::losers;

static SOURCES: OnceLock<Value> = OnceLock::new();

/// Settings that may hold a password.
const SECRET: [&str; 1] = ["store"];

/// Keeps what the command line, the environment and the file said; `in_file` names the flags that
/// the file sets. A setting that lost against its rival is left out.
pub(crate) fn remember(matches: &ArgMatches, in_file: &[&str]) {
    let mut settings = Map::new();
    let called = Cli::command();
    let flags = called.find_subcommand("proxy").into_iter().flat_map(clap::Command::get_arguments);
    // The flags and not the ids of the matches, which name the groups of flags as well.
    for id in flags.map(|flag| flag.get_id().as_str()) {
        let Ok(Some(raw)) = matches.try_get_raw(id) else { continue };
        let name = id.replace('_', "-");
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ if in_file.contains(&name.as_str()) => "file",
            _ => "default",
        };
        let values: Vec<_> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        let value = if SECRET.contains(&id) { mask(&values.concat()) } else { values.join(",") };
        settings.insert(name, json!({ "value": value, "source": source }));
    }
    for loser in losers(matches) {
        settings.remove(loser);
    }
    // The first call wins; there is only one.
    SOURCES.get_or_init(|| Value::Object(settings));
}

/// The settings as JSON.
pub(super) fn shown() -> String {
    let settings = SOURCES.get().cloned().unwrap_or(Value::Null);
    format!("{settings:#}\n")
}

/// A URL without its login, and without the values of parameters that may hold one.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match place.rsplit_once('@') {
        Some((_, place)) => format!("…@{place}"),
        None => place.to_owned(),
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let is_login = name.contains("user") || name.contains("password");
        if is_login { format!("{name}=…") } else { pair.to_owned() }
    });
    let pairs: Vec<_> = pairs.collect();
    let mark = if pairs.is_empty() { "" } else { "?" };
    format!("{scheme}://{place}{mark}{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(mask("postgres://semel:hunter2@db/x"), "postgres://…@db/x");
        assert_eq!(mask("sqlite:semel.db"), "sqlite:semel.db");
        assert_eq!(mask("postgres://u:hunter2@a,b/x?pool=9"), "postgres://…@a,b/x?pool=9");
        let (url, shown) = ("postgres://h/d?user=u&password=hunter2", "user=…&password=…");
        assert_eq!(mask(url), format!("postgres://h/d?{shown}"));
        let url = "redis-sentinel://:a@hunter2@h/main?sentinel_password=hunter2&ca=/ca.pem";
        assert_eq!(mask(url), "redis-sentinel://…@h/main?sentinel_password=…&ca=/ca.pem");
    }
}
