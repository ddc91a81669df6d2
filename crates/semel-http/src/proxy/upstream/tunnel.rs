//! Connections that change their protocol (WebSocket) and are then only copied.

use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pool::Pool;
use crate::answer::{Problem, Refusal};
use crate::body::Body;
use crate::hop;
use crate::proxy::client::Serving;
use crate::proxy::timer::Timer;

/// The protocol that a request asks for. Only `GET` may: a request that is guarded cannot become
/// something else.
pub(crate) fn wanted<B>(request: &Request<B>) -> Option<HeaderValue> {
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return None;
    }
    let protocol = request.headers().get(UPGRADE)?;
    let lists = request.headers().get_all(CONNECTION).iter().filter_map(|list| list.to_str().ok());
    let mut options = lists.flat_map(|list| list.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("upgrade")).then(|| protocol.clone())
}

/// Who waits for tunnels, and who cuts them.
#[derive(Clone, Debug)]
pub(crate) struct Tunnels {
    pub(crate) tasks: TaskTracker,
    pub(crate) cut: CancellationToken,
}

/// Asks the upstream for another protocol over a connection of its own, and connects both sides if
/// it agrees.
pub(crate) async fn open(
    pool: Arc<Pool>,
    tunnels: &Tunnels,
    mut request: Request<Incoming>,
    protocol: HeaderValue,
    serving: Serving,
) -> Result<Response<Body>, Problem> {
    let client = hyper::upgrade::on(&mut request);
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    let mut response = ask(&pool, tunnels, request).await?;
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let agreed = response.headers().get(UPGRADE).cloned();
    let upstream = hyper::upgrade::on(&mut response);
    hop::strip(response.headers_mut());
    if switches {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(agreed) = agreed {
            headers.insert(UPGRADE, agreed);
        }
        let cut = tunnels.cut.clone();
        tunnels.tasks.spawn(async move {
            tokio::select! {
                () = join(client, upstream, &pool) => {}
                () = cut.cancelled() => {}
            }
            drop(serving);
        });
    }
    Ok(response.map(Body::new))
}

async fn ask(
    pool: &Pool,
    tunnels: &Tunnels,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Problem> {
    let mut timer = Timer::new(pool.settings.connect);
    let unreachable =
        || Problem::new(Refusal::UpstreamUnreachable, "nothing was sent to the upstream");
    let stream = tokio::select! {
        biased;
        stream = TcpStream::connect((pool.target.host.as_str(), pool.target.port)) => stream,
        () = timer.over() => Err(std::io::ErrorKind::TimedOut.into()),
    };
    let stream = stream.map_err(|_| unreachable())?;
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| unreachable())?;
    // A connection that may be handed over has to be driven from outside of its request.
    tunnels.tasks.spawn(connection.with_upgrades());
    timer.restart(pool.settings.response_head);
    tokio::select! {
        biased;
        response = sender.send_request(request) => response.map_err(|_| {
            Problem::new(Refusal::UpstreamLost, "the upstream closed the connection")
        }),
        () = timer.over() => {
            Err(Problem::new(Refusal::UpstreamTimeout, "the upstream did not answer"))
        }
    }
}

async fn join(client: OnUpgrade, upstream: OnUpgrade, pool: &Pool) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_upstream, to_upstream) = tokio::io::split(TokioIo::new(upstream));
    let idle = pool.settings.tunnel_idle;
    // One direction may be silent for ever while the other is busy, so both share one timer.
    let moved = tokio::sync::Notify::new();
    let copying = async {
        let inwards = copy(from_client, to_upstream, &moved);
        let outwards = copy(from_upstream, to_client, &moved);
        tokio::join!(inwards, outwards)
    };
    let silence = async {
        let mut timer = Timer::new(idle);
        loop {
            tokio::select! {
                () = moved.notified() => timer.restart(idle),
                () = timer.over() => return,
            }
        }
    };
    tokio::select! {
        _ = copying => {}
        () = silence => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &tokio::sync::Notify,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..bytes]).await?;
        moved.notify_one();
    }
}
