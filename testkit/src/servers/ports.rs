//! Free ports on loopback that stay free.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use super::Error;

/// The system takes the source ports of connections from here on, unless it was told otherwise.
const EPHEMERAL_FROM: u16 = 32_768;

const LOWEST: u16 = 15_000;

const TRIES_MAX: usize = 200;

/// A port on which nobody listens.
///
/// It lies below the range for source ports, so that it stays free while a server is down: no
/// connection takes it by chance, and a client that keeps trying cannot connect to itself. It is
/// picked by lot, so that test programs that run at once rarely look at the same one.
pub(crate) fn free() -> Result<u16, Error> {
    let range = range();
    for attempt in 0..TRIES_MAX {
        let lot = RandomState::new().hash_one(attempt);
        let offset = u16::try_from(lot % u64::from(range.end - range.start)).unwrap_or_default();
        let port = range.start + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::new(format!("no port of {range:?} on 127.0.0.1 is free")))
}

fn range() -> Range<u16> {
    let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let told = told.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
    match told {
        Some(from) if from > LOWEST + 1_000 => LOWEST..from,
        // Nothing is left below it: any port is better than none.
        Some(_) => LOWEST..u16::MAX,
        None => LOWEST..EPHEMERAL_FROM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on_and_is_then_taken() {
        let port = free().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(range().contains(&port));
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err());
        drop(listener);
    }
}
