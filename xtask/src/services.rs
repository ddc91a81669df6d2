//! Real servers for tests, started from `PATH` on loopback and stopped again.
//!
//! `cargo xtask services redis` prints the server's URL and keeps it running until Ctrl-C,
//! SIGTERM, or the end of its standard input. The last is what other commands use: they start
//! this one as a child and hold its standard input, so the server stops and its folder
//! disappears even when they are killed.

mod guardian;
mod redis;
mod scratch;

use std::io::Read;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

pub(crate) use guardian::Guardian;

use crate::{Failure, suggest};

/// How long a server may take until it answers. Generous: it costs nothing when all is well.
const START_MAX: Duration = Duration::from_secs(30);

/// A server that was started and answers; dropping it stops it.
trait Server {
    /// How to reach it.
    fn url(&self) -> String;
}

/// A server that can be started. One row a server: its file beside this one has the rest.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// The program that must be on `PATH`.
    pub(crate) program: &'static str,
    /// How to get the program.
    pub(crate) way: &'static str,
    start: fn(&Path) -> Result<Box<dyn Server>, String>,
}

pub(crate) const SERVICES: [Service; 1] = [Service {
    name: "redis",
    program: "redis-server",
    way: "apt-get install redis-server",
    start: redis::start,
}];

/// `cargo xtask services [NAME…]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let names = SERVICES.map(|service| service.name);
    let mut wanted = Vec::new();
    for argument in arguments {
        match SERVICES.iter().find(|service| service.name == argument) {
            Some(service) => wanted.push(service),
            None => {
                return Err(Failure::Usage(suggest::unknown("service", argument, &names)));
            }
        }
    }
    if wanted.is_empty() {
        wanted.extend(&SERVICES);
    }
    // Before anything is started, so that no signal can end us between a start and its stop. A
    // server inherits the blocked signals; each is therefore stopped by its own protocol.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|error| format!("signals cannot be waited for: {error}"))?;

    let scratch = scratch::Scratch::new("semel-services")?;
    let mut running = Vec::new();
    for service in wanted {
        let folder = scratch.path().join(service.name);
        std::fs::create_dir(&folder)
            .map_err(|error| format!("{}: the folder cannot be made: {error}", folder.display()))?;
        let server = (service.start)(&folder)?;
        println!("{}", server.url());
        running.push(server);
    }
    wait_for_end(signals);
    drop(running);
    Ok(())
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
