//! A faulty network between a client and a server.

mod connection;
mod faults;
mod keeper;
mod traffic;

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU64;
use std::sync::{Arc, mpsc as blocking};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::Error;
use faults::{Faults, Replies};
use keeper::{Order, Told};
use traffic::Counters;

pub use traffic::{Direction, Traffic};

/// A TCP proxy in this process whose faults are switched while it runs.
///
/// 1. A fault holds from the return of the call that switches it on: for all connections, open
///    and new ones, until [`heal`](Self::heal). Different faults add up.
/// 2. Bytes are never changed, reordered or invented. A connection that has lost bytes never
///    carries others after the gap: `heal` resets it.
/// 3. To reset a connection is to send `RST` to both ends, so that each sees an error and none
///    sees a clean end. A server that cannot be reached resets the client in the same way.
/// 4. It runs on a thread with a runtime of its own: a test may block, pause its clock or use
///    any runtime. Dropping the proxy closes all its connections.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
///
/// use semel_testkit::FaultProxy;
///
/// let server = TcpListener::bind("127.0.0.1:0")?;
/// let proxy = FaultProxy::start(server.local_addr()?)?;
/// let mut client = TcpStream::connect(proxy.addr())?;
/// let mut peer = server.accept()?.0;
///
/// // The request arrives, the answer does not, and the client cannot know which it was.
/// proxy.lose_reply(0);
/// client.write_all(b"pay")?;
/// peer.read_exact(&mut [0; 3])?;
/// peer.write_all(b"paid")?;
/// assert!(client.read(&mut [0; 4]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    server: SocketAddr,
    shared: Arc<Shared>,
    /// None once the proxy is being dropped.
    orders: Option<mpsc::UnboundedSender<Told>>,
    thread: Option<JoinHandle<()>>,
}

/// What the connections look at.
#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    counters: Counters,
}

impl FaultProxy {
    /// A proxy without faults on a free port of 127.0.0.1 before this server, which need not run
    /// yet.
    ///
    /// # Errors
    ///
    /// When the server's address is none, or no port is free.
    pub fn start(server: impl ToSocketAddrs) -> Result<Self, Error> {
        let server = server.to_socket_addrs().map_err(Error::of("the server has no address"))?;
        let server = { server }.next().ok_or_else(|| Error::new("the server has no address"))?;
        let faults = watch::Sender::new(Faults::default());
        let shared = Arc::new(Shared { faults, counters: Counters::default() });
        let (orders, told) = mpsc::unbounded_channel();
        let (addr, thread) = keeper::start(server, Arc::clone(&shared), told)?;
        Ok(Self { addr, server, shared, orders: Some(orders), thread: Some(thread) })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server's URL with the proxy's address in it.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        direct.replace(&self.server.to_string(), &self.addr.to_string())
    }

    /// What has passed since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.read()
    }

    /// Everything takes this much longer, each way. It delays and does not narrow: many bytes
    /// can be on their way.
    pub fn latency(&self, latency: Duration) {
        self.set(|faults| faults.latency = latency);
    }

    /// Connections are taken and read from, but nothing is passed on either way: the peer that
    /// lost its power.
    pub fn half_open(&self) {
        self.set(|faults| faults.half_open = true);
    }

    /// Requests pass and every reply is swallowed, so the client waits.
    pub fn lose_replies(&self) {
        self.set(|faults| faults.replies = Replies::Lose { reset_at: None });
    }

    /// Requests pass and replies are swallowed. Each connection is reset with the `count`th
    /// reply that it loses.
    ///
    /// A reply is all that comes from the server until the client speaks again.
    pub fn lose_replies_then_reset(&self, count: NonZeroU64) {
        self.set(|faults| faults.replies = Replies::Lose { reset_at: Some(count) });
    }

    /// Lets this many replies pass, over all connections. Then it swallows one reply, resets its
    /// connection, and is over.
    pub fn lose_reply(&self, passing: u64) {
        self.set(|faults| faults.replies = Replies::LoseOne { passing });
    }

    /// Lets this many bytes pass in one direction, over all connections. Then it resets the
    /// connection with the byte that is too much, and is over.
    pub fn drop_after(&self, bytes: u64, direction: Direction) {
        self.set(|faults| faults.limit = Some((direction, bytes)));
    }

    /// Resets every open connection, once. New ones are as good as the other faults let them be.
    pub fn reset(&self) {
        self.tell(Order::ResetAll);
    }

    /// New connections are refused; open ones stay open and carry nothing until `heal`.
    pub fn partition(&self) {
        self.set(|faults| faults.partitioned = true);
        self.tell(Order::Shut);
    }

    /// Ends all faults. Connections that were held up go on; those that lost bytes are reset.
    pub fn heal(&self) {
        self.set(|faults| *faults = Faults::default());
        self.tell(Order::Heal);
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }

    /// Returns when the order has been carried out.
    fn tell(&self, order: Order) {
        let (done, wait) = blocking::channel();
        let told = self.orders.as_ref().is_some_and(|orders| orders.send((order, done)).is_ok());
        assert!(told && wait.recv().is_ok(), "the proxy's thread has died");
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.orders.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}
