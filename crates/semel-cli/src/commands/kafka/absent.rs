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
