pub(crate) mod check_config;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod kafka;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod proxy;
pub(crate) mod records;

use std::future::Future;

use crate::cli::Command;
use crate::failure::Failure;

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::CheckConfig(arguments) => check_config::run(&arguments),
        Command::Completions(arguments) => {
            completions::run(&arguments);
            Ok(())
        }
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoOrders(arguments) => demo::serve_orders(arguments),
        Command::Doctor(arguments) => block_on(doctor::run(arguments)),
        Command::Kafka(arguments) => kafka::run(arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::Migrate(arguments) => block_on(migrate::run(arguments)),
        Command::Proxy(arguments) => proxy::run(*arguments),
        Command::Records(arguments) => block_on(records::run(*arguments)),
    }
}

/// Runs a short command to its end.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::runtime("the system gave no resources to start").caused_by(&error)
    })?;
    runtime.block_on(work)
}
