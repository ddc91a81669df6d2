//! The thread that takes connections and orders.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, mpsc as blocking};
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, LocalSet};

use super::Shared;
use super::connection::{State, carry};
use crate::Error;
use crate::servers::free_port;

/// How many clients may wait to be taken.
const BACKLOG: u32 = 1024;

/// What the proxy's thread does beside carrying bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Resets those that lost bytes, and takes connections again.
    Heal,
    ResetAll,
    /// Refuses connections.
    Shut,
}

/// An order and where to say that it has been carried out.
pub(super) type Told = (Order, blocking::Sender<()>);

/// Starts the thread. It ends when nobody can give orders any more.
pub(super) fn start(
    server: SocketAddr,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedReceiver<Told>,
) -> Result<(SocketAddr, JoinHandle<()>), Error> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::of("no runtime for the proxy"))?;
    let door = {
        let _inside = runtime.enter();
        bind(addr).and_then(|socket| socket.listen(BACKLOG))
    };
    let door = door.map_err(Error::of(format!("{addr} cannot be listened on")))?;
    let run = move || {
        let keeper = Keeper { addr, server, shared, door: Door::Open(door), open: Vec::new() };
        let carried = LocalSet::new().block_on(&runtime, keeper.run(orders));
        // Whoever gives the next order sees that nobody is there.
        drop(carried);
    };
    Ok((addr, std::thread::spawn(run)))
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Open connections have the same local port.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Whether clients are let in. Shut, it still holds the port, and the system refuses them.
enum Door {
    Open(TcpListener),
    Shut(TcpSocket),
    /// For the moment between the two.
    Gone,
}

struct Keeper {
    addr: SocketAddr,
    server: SocketAddr,
    shared: Arc<Shared>,
    door: Door,
    open: Vec<Carried>,
}

/// A connection that is being carried.
struct Carried {
    state: Rc<State>,
    reset: oneshot::Sender<()>,
    task: task::JoinHandle<()>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Told>) -> io::Result<()> {
        loop {
            tokio::select! {
                client = self.door.accept() => self.take(client?),
                told = orders.recv() => match told {
                    Some((order, done)) => {
                        self.carry_out(order).await?;
                        // Whoever gave the order may have been killed by its test.
                        done.send(()).ok();
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    fn take(&mut self, client: TcpStream) {
        self.shared.counters.connected();
        self.open.retain(|carried| !carried.task.is_finished());
        let (reset, told) = oneshot::channel();
        let state = Rc::new(State::default());
        let shared = Arc::clone(&self.shared);
        let task = task::spawn_local(carry(client, self.server, shared, Rc::clone(&state), told));
        self.open.push(Carried { state, reset, task });
    }

    async fn carry_out(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Heal => {
                self.reset(State::has_gap).await;
                self.door.open()
            }
            Order::ResetAll => {
                self.reset(|_| true).await;
                Ok(())
            }
            Order::Shut => self.door.shut(self.addr),
        }
    }

    /// Returns when the chosen connections are gone.
    async fn reset(&mut self, is_chosen: impl Fn(&State) -> bool) {
        let mut gone = Vec::new();
        for carried in std::mem::take(&mut self.open) {
            if is_chosen(&carried.state) {
                // It fails when the connection has just ended by itself.
                carried.reset.send(()).ok();
                gone.push(carried.task);
            } else {
                self.open.push(carried);
            }
        }
        for task in gone {
            task.await.ok();
        }
    }
}

impl Door {
    async fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Open(listener) => loop {
                match listener.accept().await {
                    Ok((client, _)) => return Ok(client),
                    // The client has already gone.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error),
                }
            },
            Self::Shut(_) | Self::Gone => pending().await,
        }
    }

    fn shut(&mut self, addr: SocketAddr) -> io::Result<()> {
        if matches!(self, Self::Open(_)) {
            // The listener goes first: a port is not given twice.
            *self = Self::Gone;
            *self = Self::Shut(bind(addr)?);
        }
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Self::Gone) {
            Self::Shut(socket) => *self = Self::Open(socket.listen(BACKLOG)?),
            other => *self = other,
        }
        Ok(())
    }
}
