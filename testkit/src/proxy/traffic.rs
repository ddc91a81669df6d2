//! What has passed a proxy.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

/// One of the two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the server to the client.
    ToClient,
    /// From the client to the server.
    ToServer,
}

/// What has passed. Subtract an earlier one to see what one piece of work took:
/// `proxy.traffic() - before`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that clients opened.
    pub connections: u64,
    /// Bytes that servers sent, whether or not a fault swallowed them.
    pub bytes_to_client: u64,
    /// Bytes that clients sent, whether or not a fault swallowed them.
    pub bytes_to_server: u64,
    /// How often a client spoke after the server had, or as the first on a connection. A client
    /// that sends two requests at once makes one round trip.
    pub round_trips: u64,
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            bytes_to_client: self.bytes_to_client - earlier.bytes_to_client,
            bytes_to_server: self.bytes_to_server - earlier.bytes_to_server,
            round_trips: self.round_trips - earlier.round_trips,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    bytes_to_client: AtomicU64,
    bytes_to_server: AtomicU64,
    round_trips: AtomicU64,
}

impl Counters {
    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read_from(&self, direction: Direction, bytes: u64, starts_burst: bool) {
        match direction {
            Direction::ToClient => self.bytes_to_client.fetch_add(bytes, Ordering::Relaxed),
            Direction::ToServer => {
                self.round_trips.fetch_add(u64::from(starts_burst), Ordering::Relaxed);
                self.bytes_to_server.fetch_add(bytes, Ordering::Relaxed)
            }
        };
    }

    /// Counted before it is passed on: what a client has an answer to is in here.
    pub(super) fn read(&self) -> Traffic {
        Traffic {
            connections: self.connections.load(Ordering::Relaxed),
            bytes_to_client: self.bytes_to_client.load(Ordering::Relaxed),
            bytes_to_server: self.bytes_to_server.load(Ordering::Relaxed),
            round_trips: self.round_trips.load(Ordering::Relaxed),
        }
    }
}
