//! One connection through the proxy.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::faults::{Chunk, Verdict};
use super::{Direction, Shared};

const CHUNK_BYTES: usize = 16 * 1024;

/// How many chunks may be on their way, each direction. More would only matter to a test that
/// sends a megabyte within one latency.
const CHUNKS_MAX: usize = 64;

/// What both directions know of their connection.
#[derive(Debug, Default)]
pub(super) struct State {
    gap_to_client: Cell<bool>,
    gap_to_server: Cell<bool>,
    last: Cell<Option<Direction>>,
    replies_lost: Cell<u64>,
}

impl State {
    /// Bytes have been swallowed, so that what follows makes no sense any more.
    pub(super) fn has_gap(&self) -> bool {
        self.gap_to_client.get() || self.gap_to_server.get()
    }

    fn gap(&self, direction: Direction) -> &Cell<bool> {
        match direction {
            Direction::ToClient => &self.gap_to_client,
            Direction::ToServer => &self.gap_to_server,
        }
    }
}

/// What goes from the reading to the writing half of a direction.
enum Step {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// The connection has to be reset.
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Carries bytes until both ends have ended or the connection is to be reset.
pub(super) async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    shared: Arc<Shared>,
    state: Rc<State>,
    reset: oneshot::Receiver<()>,
) {
    let mut upstream = None;
    let carried = async {
        if shared.faults.borrow().half_open {
            state.gap_to_server.set(true);
            // Nobody is there; only the reset that follows a `heal` ends it.
            return swallow(&mut client).await;
        }
        let upstream = upstream.insert(TcpStream::connect(server).await?);
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = upstream.split();
        let requests = Pump { direction: Direction::ToServer, shared: &shared, state: &state };
        let replies = Pump { direction: Direction::ToClient, ..requests };
        let requests = requests.run(from_client, to_server);
        let replies = replies.run(from_server, to_client);
        tokio::try_join!(requests, replies).map(drop)
    };
    let carried = tokio::select! {
        carried = carried => carried,
        // The other end of the channel is only dropped together with us.
        _ = reset => Err(Broken),
    };
    if carried.is_err() {
        for stream in [Some(client), upstream].into_iter().flatten() {
            // It fails when the peer was faster.
            stream.set_zero_linger().ok();
        }
    }
}

async fn swallow(client: &mut TcpStream) -> Result<(), Broken> {
    let mut chunk = [0; 1024];
    while client.read(&mut chunk).await? > 0 {}
    Ok(())
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct Pump<'a> {
    direction: Direction,
    shared: &'a Shared,
    state: &'a State,
}

impl Pump<'_> {
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Broken> {
        let (steps, next) = mpsc::channel(CHUNKS_MAX);
        tokio::try_join!(self.read(from, steps), self.write(next, to)).map(drop)
    }

    async fn read(
        self,
        mut from: ReadHalf<'_>,
        steps: mpsc::Sender<(Instant, Step)>,
    ) -> Result<(), Broken> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            self.connected_again().await;
            let due = Instant::now() + self.shared.faults.borrow().latency;
            let bytes = |count| Step::Bytes(buffer[..count].to_vec());
            // The other half is only gone when the connection is.
            let send = async |step| steps.send((due, step)).await.map_err(|_| Broken);
            if count == 0 {
                return send(Step::End).await;
            }
            match self.judge(u64::try_from(count).unwrap_or(u64::MAX)) {
                Verdict::Pass => send(bytes(count)).await?,
                Verdict::Swallow => self.state.gap(self.direction).set(true),
                Verdict::Reset { passing } => {
                    let passing = usize::try_from(passing).unwrap_or(count).min(count);
                    send(bytes(passing)).await?;
                    return send(Step::Reset).await;
                }
            }
        }
    }

    async fn write(
        self,
        mut next: mpsc::Receiver<(Instant, Step)>,
        mut to: WriteHalf<'_>,
    ) -> Result<(), Broken> {
        while let Some((due, step)) = next.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            self.connected_again().await;
            match step {
                Step::Bytes(bytes) => to.write_all(&bytes).await?,
                Step::End => to.shutdown().await?,
                Step::Reset => return Err(Broken),
            }
        }
        Ok(())
    }

    fn judge(self, bytes: u64) -> Verdict {
        let starts_burst = self.state.last.replace(Some(self.direction)) != Some(self.direction);
        self.shared.counters.read_from(self.direction, bytes, starts_burst);
        let chunk = Chunk { direction: self.direction, bytes, starts_burst };
        let mut lost = self.state.replies_lost.get();
        let mut verdict = Verdict::Pass;
        self.shared.faults.send_if_modified(|faults| {
            verdict = faults.judge(chunk, &mut lost);
            // Nobody waits for what judging changes.
            false
        });
        self.state.replies_lost.set(lost);
        match verdict {
            // What was lost before would be missing before this.
            Verdict::Pass if self.state.gap(self.direction).get() => Verdict::Swallow,
            verdict => verdict,
        }
    }

    async fn connected_again(self) {
        if !self.shared.faults.borrow().partitioned {
            return;
        }
        let mut faults = self.shared.faults.subscribe();
        // The sender lives as long as we borrow it.
        faults.wait_for(|faults| !faults.partitioned).await.ok();
    }
}
