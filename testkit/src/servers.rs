//! Real servers: started from `PATH`, on loopback, and gone when the test is.
//!
//! 1. `start` returns once the server answers; it fails within a bounded time otherwise.
//! 2. A server listens on 127.0.0.1 only, on a port below the range from which the system takes
//!    the source ports of connections. So nothing takes its port while it is down, and a client
//!    that keeps trying cannot connect to itself.
//! 3. Dropping a server kills it and removes its folder; nothing else is ever stopped.
//! 4. A server that is never dropped (it lies in a `static`, or the test was killed with
//!    `SIGKILL`) goes the same way: a watchdog process ends with it once we are gone.
//! 5. `kill` is a crash: `SIGKILL` for the server and all its children. `start_again` then uses
//!    the same folder and the same port. `freeze` stops every process of a server without
//!    closing a connection, `thaw` lets them go on.
//! 6. For Apache Kafka only Java and Maven come from `PATH`. Its jars are fetched once, by the
//!    first start or by [`KafkaVersion::fetch`].
//!
//! ```
//! use semel_testkit::servers::{Redis, skips};
//!
//! if !skips(Redis::missing()) {
//!     let mut redis = Redis::start()?;
//!     assert!(redis.url().starts_with("redis://127.0.0.1:"));
//!     redis.kill();
//!     assert!(redis.ask(&["PING"]).is_err());
//!     redis.start_again()?;
//!     redis.ask(&["PING"])?;
//! }
//! # Ok::<(), semel_testkit::servers::Error>(())
//! ```

mod kafka;
mod nest;
mod ports;
mod postgres;
mod process;
mod programs;
mod redis;
mod tls;

use std::time::{Duration, Instant};

pub use crate::Error;
pub use kafka::{Kafka, KafkaCluster, KafkaVersion};
pub(crate) use ports::free as free_port;
pub use postgres::{PgBouncer, Postgres};
pub use programs::{Missing, skips};
pub use redis::{Redis, RedisCluster, RedisSentinel, Reply};

/// How long a server may take until it answers. Generous: it costs nothing when all is well.
const START_MAX: Duration = Duration::from_secs(60);

/// Another program may take the port between our look and the server's start.
const PORTS_TRIED_MAX: usize = 5;

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer; the last refusal when the time is up.
fn wait_for<T>(bound: Duration, mut look: impl FnMut() -> Result<T, Waiting>) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(Waiting::NotYet(error)) if started.elapsed() > bound => {
                return Err(Error::new(format!("{error}, even after {bound:?}")));
            }
            Err(Waiting::NotYet(_)) => std::thread::sleep(PAUSE),
            Err(Waiting::Never(error)) => return Err(error),
        }
    }
}

/// Why what is waited for is not there.
enum Waiting {
    NotYet(Error),
    Never(Error),
}
