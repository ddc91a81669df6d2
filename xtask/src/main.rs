//! The project's own commands: `cargo xtask test`, `services`, `tidy` and `bench`.
//!
//! Exit codes: 0 all is well, 1 something failed, 2 the command line was wrong.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "talking to a person is the job")]
#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]

mod bench;
mod process;
mod services;
mod suggest;
mod suites;
mod test;
mod tidy;

use std::process::ExitCode;

/// Why a command did not succeed.
#[derive(Debug)]
enum Failure {
    /// The command did its work and the answer is no; what to say has been said.
    Failed,
    /// The command could not do its work.
    Broken(String),
    /// The command line was wrong.
    Usage(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Broken(message)
    }
}

/// One command: its name, its arguments, what it is for, and what it does.
struct Command {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<(), Failure>,
}

const COMMANDS: [Command; 4] = [
    Command {
        name: "bench",
        arguments: "[NAME…]",
        about: "build for release and run the benchmarks (all, or the named ones)",
        run: bench::run,
    },
    Command {
        name: "services",
        arguments: "[postgres] [pgbouncer] [redis] [redis-cluster] [redis-sentinel] [kafka] \
                    [kafka-cluster] [kafka-3.9]",
        about: "start real servers for tests by hand; they stop with Ctrl-C",
        run: services::run,
    },
    Command {
        name: "test",
        arguments: "[--require all|NAME,…] [--only NAME,…]",
        about: "run every suite that can run here and name those that cannot",
        run: test::run,
    },
    Command {
        name: "tidy",
        arguments: "",
        about: "check the rules that no compiler checks",
        run: tidy::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed) => ExitCode::from(1),
        Err(Failure::Broken(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}\n\n{}", usage());
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<(), Failure> {
    let Some((name, rest)) = arguments.split_first() else {
        return Err(Failure::Usage("a command is missing".to_owned()));
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        println!("{}", usage());
        return Ok(());
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(rest),
        None => {
            let names = COMMANDS.map(|command| command.name);
            Err(Failure::Usage(suggest::unknown("command", name, &names)))
        }
    }
}

fn usage() -> String {
    let mut text = "usage: cargo xtask COMMAND\n".to_owned();
    for Command { name, arguments, about, .. } in &COMMANDS {
        let line = format!("{name} {arguments}");
        // A long line has its explanation below, in the same column.
        let gap = if line.len() > 50 { format!("\n  {:52}", "") } else { String::new() };
        text += &format!("\n  {line:<52}{gap}{about}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_unknown_command_is_wrong_usage_and_names_the_one_that_was_meant() {
        let Err(Failure::Usage(message)) = dispatch(&words("tset")) else {
            panic!("must be refused as wrong usage");
        };
        assert!(message.contains("did you mean `test`?"), "{message}");
    }

    #[test]
    fn every_command_refuses_an_argument_that_it_does_not_know() {
        for command in &COMMANDS {
            let refused = dispatch(&words(&format!("{} --no-such-flag", command.name)));
            assert!(matches!(refused, Err(Failure::Usage(_))), "{}", command.name);
        }
    }

    #[test]
    fn the_usage_names_every_command() {
        for command in &COMMANDS {
            assert!(usage().contains(command.name));
        }
    }
}
