//! `semel kafka`: what is said about Apache Kafka. Only there in a build with the feature `kafka`,
//! because librdkafka takes minutes to build.

#[cfg(not(feature = "kafka"))]
mod absent;
#[cfg(feature = "kafka")]
mod doctor;

#[cfg(not(feature = "kafka"))]
pub(crate) use self::absent::{Arguments, run};

#[cfg(feature = "kafka")]
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[cfg(feature = "kafka")]
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether a group's work can take effect once, and what stands in its way
    Doctor(doctor::Arguments),
}

#[cfg(feature = "kafka")]
pub(crate) fn run(arguments: Arguments) -> Result<(), crate::failure::Failure> {
    match arguments.command {
        Command::Doctor(arguments) => super::block_on(doctor::run(arguments)),
    }
}
