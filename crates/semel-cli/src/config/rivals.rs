//! Settings that say the same thing in two ways: the one from the stronger source counts, and two
//! from the same source are a question to the caller, never a silent choice. A forgotten variable
//! must not turn `records purge --store …` to another store.

use std::ops::Deref;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// Flags that are rivals.
pub(super) const RIVALS: [[&str; 2]; 2] =
    [["store", "store-file"], ["tenant-header", "single-tenant"]];

/// Arguments of which two are rivals.
pub(crate) trait Rivals: Args {
    /// Their fields. Of two that come from a file or are defaults, the second one counts: only the
    /// first may have a default.
    const FIELDS: [&'static str; 2];

    /// Takes back what the field of this name says.
    fn forget(&mut self, field: &str);

    /// The source of a field that says something.
    fn source(matches: &ArgMatches, field: &str) -> Option<Source> {
        Source::of(matches, field)
    }
}

/// The arguments after the weaker rival has been forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Settled<T>(T);

/// Where a value comes from, the weakest first. Clap knows the values of the file as defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    FileOrDefault,
    Environment,
    Flag,
}

impl Source {
    /// A switch that is off says nothing.
    pub(crate) fn of(matches: &ArgMatches, field: &str) -> Option<Self> {
        if matches!(matches.try_get_one::<bool>(field), Ok(Some(false))) {
            return None;
        }
        match matches.value_source(field)? {
            ValueSource::CommandLine => Some(Self::Flag),
            ValueSource::EnvVariable => Some(Self::Environment),
            _ => Some(Self::FileOrDefault),
        }
    }
}

impl<T: Rivals> FromArgMatches for Settled<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut settled = T::from_arg_matches(matches)?;
        let [one, other] = T::FIELDS;
        match (T::source(matches, one), T::source(matches, other)) {
            (Some(same), Some(also)) if same == also && same > Source::FileOrDefault => {
                return Err(conflict(same, one, other));
            }
            (Some(source), Some(weaker)) if source > weaker => settled.forget(other),
            (Some(_), Some(_)) => settled.forget(one),
            _ => {}
        }
        Ok(Self(settled))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T: Rivals> Args for Settled<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T> Deref for Settled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The flags that do not count, because their rival comes from a stronger source.
pub(crate) fn losers(matches: &ArgMatches) -> impl Iterator<Item = &'static str> {
    RIVALS.iter().filter_map(|[one, other]| {
        let source = |flag: &str| Source::of(matches, &flag.replace('-', "_"));
        let (source, rival) = (source(one)?, source(other)?);
        Some(if source > rival { *other } else { *one })
    })
}

/// The complaint about two settings from one source, in the words of clap.
fn conflict(source: Source, one: &str, other: &str) -> Error {
    let name = |field: &str| match source {
        Source::Environment => format!("SEMEL_{}", field.to_uppercase()),
        _ => format!("--{}", field.replace('_', "-")),
    };
    let message = format!("'{}' cannot be used with '{}'; give one\n", name(one), name(other));
    Error::raw(ErrorKind::ArgumentConflict, message)
}
