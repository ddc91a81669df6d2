use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};

use super::problem;
use super::rivals::RIVALS;
use crate::failure::Failure;
use crate::text;

/// A configuration file: the names of the flags without their dashes, and their values.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    text: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The flag's name.
    name: String,
    name_span: std::ops::Range<usize>,
    values: Vec<String>,
    value_span: std::ops::Range<usize>,
}

/// Flags that make no sense in a file.
const NOT_IN_FILE: [&str; 3] = ["config", "help", "version"];

impl File {
    /// Reads the file and checks its form.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("the configuration file {} cannot be read", path.display());
            Failure::usage(message).caused_by(&error)
        })?;
        let mut file = Self { path: path.to_owned(), text, entries: Vec::new() };
        file.entries = file.parse()?;
        file.refuse_doubles()?;
        Ok(file)
    }

    /// The flags that the file sets.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Checks every name and value against the flags of the proxy, and makes them defaults.
    pub(crate) fn as_defaults(&self, command: Command) -> Result<Command, Failure> {
        let mut failure = None;
        let command = command.mut_subcommand("proxy", |proxy| {
            self.fill(proxy.clone()).unwrap_or_else(|told| {
                failure = Some(told);
                proxy
            })
        });
        failure.map_or(Ok(command), Err)
    }

    /// Refuses a setting in both spellings, and two settings that say the same thing.
    fn refuse_doubles(&self) -> Result<(), Failure> {
        let says = |entry: &&Entry| entry.values != ["false"];
        for (at, entry) in self.entries.iter().enumerate() {
            let is_rival = |other: &&Entry| {
                let pair = [entry.name.as_str(), other.name.as_str()];
                RIVALS.iter().any(|[one, two]| pair == [*one, *two] || pair == [*two, *one])
            };
            let others = || self.entries[..at].iter();
            let message = if others().any(|other| other.name == entry.name) {
                format!("the setting `{}` is there twice; `-` and `_` are the same", entry.name)
            } else if let Some(other) =
                others().filter(says).find(is_rival).filter(|_| says(&entry))
            {
                format!("`{}` cannot be used with `{}`; give one", entry.name, other.name)
            } else {
                continue;
            };
            return Err(problem::at(&self.path, &self.text, entry.name_span.clone(), &message));
        }
        Ok(())
    }

    fn fill(&self, mut proxy: Command) -> Result<Command, Failure> {
        for entry in &self.entries {
            let flag = self.flag(&proxy, entry)?;
            self.check(entry, &flag)?;
            let values = entry.values.clone();
            proxy =
                proxy.mut_arg(flag.get_id(), |flag| flag.required(false).default_values(values));
        }
        Ok(proxy)
    }

    /// The flag of an entry, or a complaint with the nearest name.
    fn flag(&self, proxy: &Command, entry: &Entry) -> Result<Arg, Failure> {
        let known = || {
            let longs = proxy.get_arguments().filter_map(Arg::get_long);
            longs.filter(|name| !NOT_IN_FILE.contains(name))
        };
        if known().any(|name| name == entry.name) {
            let mut flags = proxy.get_arguments();
            if let Some(flag) = flags.find(|flag| flag.get_long() == Some(&entry.name)) {
                return Ok(flag.clone());
            }
        }
        let message = format!("the setting `{}` is unknown", entry.name);
        let failure = problem::at(&self.path, &self.text, entry.name_span.clone(), &message);
        Err(match text::nearest(&entry.name, known()) {
            Some(name) => failure.help(format!("did you mean `{name}`?")),
            None => failure.help("settings have the names of the flags: `semel proxy --help`"),
        })
    }

    /// Lets the flag's own parser judge the value.
    fn check(&self, entry: &Entry, flag: &Arg) -> Result<(), Failure> {
        let refuse = |message: &str| {
            Err(problem::at(&self.path, &self.text, entry.value_span.clone(), message))
        };
        if matches!(flag.get_action(), ArgAction::SetTrue)
            && !matches!(entry.values[..], [ref only] if only == "true" || only == "false")
        {
            return refuse(&format!("the setting `{}` is true or false", entry.name));
        }
        if matches!(flag.get_action(), ArgAction::Set) && entry.values.len() != 1 {
            return refuse(&format!("the setting `{}` takes one value", entry.name));
        }
        let alone = Command::new("check").no_binary_name(true).disable_help_flag(true);
        let lone = flag.clone().required(false).action(ArgAction::Append).num_args(1);
        let words = entry.values.iter().map(|value| format!("--{}={value}", entry.name));
        match alone.arg(lone).try_get_matches_from(words) {
            Ok(_) => Ok(()),
            Err(error) => {
                let said = error.to_string();
                let first = said.lines().next().unwrap_or_default();
                refuse(first.trim_start_matches("error: "))
            }
        }
    }

    fn parse(&self) -> Result<Vec<Entry>, Failure> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            problem::at(&self.path, &self.text, span, error.message())
        })?;
        let mut entries = Vec::new();
        for (name, value) in table.get_ref() {
            let values = values_of(value.get_ref()).ok_or_else(|| {
                let message = format!(
                    "the setting `{}` must be a text, a number, true, false, or a list of texts",
                    name.get_ref()
                );
                problem::at(&self.path, &self.text, value.span(), &message)
            })?;
            entries.push(Entry {
                // Both spellings are common in such files.
                name: name.get_ref().replace('_', "-"),
                name_span: name.span(),
                values,
                value_span: value.span(),
            });
        }
        // In the order of the file, so that the second of two is the one that is complained about.
        entries.sort_by_key(|entry| entry.name_span.start);
        Ok(entries)
    }
}

fn values_of(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| scalar_of(value.get_ref())).collect(),
        scalar => scalar_of(scalar).map(|value| vec![value]),
    }
}

fn scalar_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Integer(value) => Some(value.as_str().replace('_', "")),
        DeValue::String(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// A value that the flag takes: its default, or one for its kind.
    fn sample(flag: &Arg) -> String {
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            return "true".to_owned();
        }
        if let Some(default) = flag.get_default_values().first() {
            return format!("{:?}", default.to_string_lossy());
        }
        let kind = flag.get_value_names().and_then(|names| names.first());
        match kind.map(clap::builder::Str::as_str) {
            Some("DUR") => "\"5s\"".to_owned(),
            _ => "\"x\"".to_owned(),
        }
    }

    #[test]
    fn every_flag_of_the_proxy_can_stand_in_a_file() {
        let command = Cli::command();
        let proxy = command.find_subcommand("proxy").unwrap();
        let flags = proxy.get_arguments();
        let flags = flags.filter(|flag| flag.get_long().is_some_and(|it| it != "config"));
        let mut count = 0;
        for flag in flags {
            let text = format!("{} = {}\n", flag.get_long().unwrap(), sample(flag));
            let folder = std::env::temp_dir();
            let file = File { path: folder, text, entries: Vec::new() };
            let file = File { entries: file.parse().unwrap(), ..file };
            let filled = file.as_defaults(Cli::command());
            assert!(filled.is_ok(), "{}: {:?}", file.text, filled.err());
            count += 1;
        }
        assert!(count > 40, "only {count} flags were tried");
    }
}
