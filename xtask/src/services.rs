//! Real servers for tests by hand, started from `PATH` on loopback and stopped again.
//!
//! `cargo xtask services redis` prints the server's name and URL and keeps it running until Ctrl-C,
//! SIGTERM, or the end of its standard input. Its folder disappears with it, even when this
//! command is killed: see `testkit`, which does the work and which the tests use directly.

use std::io::Read;
use std::sync::mpsc;

use nix::sys::signal::{SigSet, Signal};
use semel_testkit::servers::{
    Error, Kafka, KafkaCluster, KafkaVersion, Missing, PgBouncer, Postgres, Redis, RedisCluster,
    RedisSentinel,
};

use crate::{Failure, suggest};

/// A server that can be started.
struct Service {
    name: &'static str,
    missing: fn() -> Option<Missing>,
    start: fn() -> Result<Running, Error>,
}

/// A server that runs, and how to reach it. Dropping it stops it.
struct Running {
    /// For Kafka, which has no URLs, the addresses of its brokers.
    url: String,
    _servers: Box<dyn std::any::Any>,
}

static SERVICES: [Service; 8] = [
    Service {
        name: "postgres",
        missing: Postgres::missing,
        start: || Postgres::start().map(|it| Running::new(it.url(), it)),
    },
    Service { name: "pgbouncer", missing: PgBouncer::missing, start: pgbouncer },
    Service {
        name: "redis",
        missing: Redis::missing,
        start: || Redis::start().map(|it| Running::new(it.url(), it)),
    },
    Service {
        name: "redis-cluster",
        missing: RedisCluster::missing,
        start: || RedisCluster::start().map(|it| Running::new(it.url(), it)),
    },
    Service {
        name: "redis-sentinel",
        missing: RedisSentinel::missing,
        start: || RedisSentinel::start().map(|it| Running::new(it.url(), it)),
    },
    Service {
        name: "kafka",
        missing: Kafka::missing,
        // By hand nobody wants to create topics first; it comes without a tool for that.
        start: || {
            let by_hand = [("auto.create.topics.enable", "true"), ("num.partitions", "3")];
            Kafka::with(&by_hand).map(|it| Running::new(it.bootstrap(), it))
        },
    },
    Service {
        name: "kafka-cluster",
        missing: KafkaCluster::missing,
        start: || KafkaCluster::start().map(|it| Running::new(it.bootstrap(), it)),
    },
    Service {
        name: "kafka-3.9",
        missing: || KafkaVersion::V3_9.missing(),
        start: || {
            let kafka = Kafka::start_version(KafkaVersion::V3_9)?;
            Ok(Running::new(kafka.bootstrap(), kafka))
        },
    },
];

/// A pooler with a server of its own behind it.
fn pgbouncer() -> Result<Running, Error> {
    let postgres = Postgres::start()?;
    let pooler = PgBouncer::start(&postgres)?;
    // A store needs the word: prepared statements do not survive this pooler.
    let url = format!("{}?pooler=transaction", pooler.url());
    Ok(Running::new(url, (pooler, postgres)))
}

impl Running {
    fn new(url: String, servers: impl std::any::Any) -> Self {
        Self { url, _servers: Box::new(servers) }
    }
}

/// `cargo xtask services [NAME…]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let wanted = parse(arguments)?;
    for service in &wanted {
        if let Some(missing) = (service.missing)() {
            return Err(Failure::Broken(format!("{}: {missing}", service.name)));
        }
    }
    // Before anything is started, so that no signal can end us between a start and its stop.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|error| format!("signals cannot be waited for: {error}"))?;

    let width = wanted.iter().map(|service| service.name.len()).max().unwrap_or_default();
    let mut running = Vec::new();
    for service in wanted {
        let server = (service.start)().map_err(|error| error.to_string())?;
        println!("{:<width$}  {}", service.name, server.url);
        running.push(server);
    }
    wait_for_end(signals);
    drop(running);
    Ok(())
}

/// The named services in that order, each once; all of them when none is named.
fn parse(arguments: &[String]) -> Result<Vec<&'static Service>, Failure> {
    let names = SERVICES.each_ref().map(|service| service.name);
    let mut wanted: Vec<&Service> = Vec::new();
    for argument in arguments {
        let Some(service) = SERVICES.iter().find(|service| service.name == argument) else {
            return Err(Failure::Usage(suggest::unknown("service", argument, &names)));
        };
        if !wanted.iter().any(|known| known.name == service.name) {
            wanted.push(service);
        }
    }
    if wanted.is_empty() {
        wanted.extend(&SERVICES);
    }
    Ok(wanted)
}

/// Returns when one of the signals arrives or standard input ends.
fn wait_for_end(signals: SigSet) {
    let (ended, end) = mpsc::channel();
    let by_signal = ended.clone();
    // Neither thread is joined: both end with the process, which is about to stop.
    std::thread::spawn(move || by_signal.send(signals.wait().is_ok()));
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut chunk = [0; 256];
        while matches!(stdin.read(&mut chunk), Ok(count) if count > 0) {}
        ended.send(true)
    });
    // An error would mean that both threads are gone; ending is right then, too.
    end.recv().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Vec<&'static str> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments).unwrap().iter().map(|service| service.name).collect()
    }

    #[test]
    fn no_name_means_every_service() {
        assert_eq!(parsed("").len(), SERVICES.len());
    }

    #[test]
    fn a_service_that_is_named_twice_starts_once() {
        assert_eq!(parsed("redis postgres redis"), ["redis", "postgres"]);
    }
}
