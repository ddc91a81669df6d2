use std::ffi::OsString;

use crate::failure::Failure;

/// Apache Kafka; not in this build: cargo install --path crates/semel-cli --features kafka
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<OsString>,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    drop(arguments.words);
    Err(Failure::usage("`semel kafka` is not in this build: librdkafka takes minutes to build")
        .help("cargo install --path crates/semel-cli --features kafka"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn whatever_is_asked_of_kafka_the_way_to_get_it_is_told() {
        for words in [&[][..], &["doctor", "--help"], &["doctor", "--brokers", "kafka:9092"]] {
            let called = Cli::try_parse_from([&["semel", "kafka"], words].concat()).unwrap();
            let Command::Kafka(arguments) = called.command else { panic!("{called:?}") };
            let told = format!("{:?}", super::run(arguments).unwrap_err());
            assert!(told.contains("exit: 2") && told.contains("--features kafka"), "{told}");
        }
    }
}
