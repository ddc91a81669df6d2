//! How often a request makes `semel proxy` ask its Redis: counted on the wire, one request after
//! the other.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use semel_testkit::FaultProxy;
use semel_testkit::servers::Redis;
use tokio::net::TcpStream;

use super::load::BODY;
use super::targets;
use crate::Error;

/// Round trips to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) fresh: u64,
    /// The first replay of each key.
    pub(super) replayed: u64,
    /// The second replay.
    pub(super) replayed_again: u64,
}

/// The counts of so many keys through a proxy with these flags.
pub(super) fn count(
    folder: &Path,
    upstream: u16,
    redis: &Redis,
    flags: &[&str],
    requests: u64,
) -> Result<Counts, Error> {
    let counter = FaultProxy::start(("127.0.0.1", redis.port()))?;
    let semel = targets::semel(folder, upstream, &counter.url(&redis.url()), flags)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = connect(semel.port).await?;
        // The scripts are loaded with their first use.
        ask_all(&mut client, &format!("{}-warm", semel.id), 1, false).await?;
        let keys = format!("{}-counted", semel.id);
        let mut counts = [0; 3];
        for (turn, count) in counts.iter_mut().enumerate() {
            let before = counter.traffic();
            ask_all(&mut client, &keys, requests, turn > 0).await?;
            *count = (counter.traffic() - before).round_trips;
        }
        let [fresh, replayed, replayed_again] = counts;
        Ok(Counts { fresh, replayed, replayed_again })
    })
}

async fn connect(port: u16) -> Result<SendRequest<Full<Bytes>>, Error> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (client, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Asks once with each key, and expects replays or none.
async fn ask_all(
    client: &mut SendRequest<Full<Bytes>>,
    keys: &str,
    requests: u64,
    is_replay: bool,
) -> Result<(), Error> {
    for number in 0..requests {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/orders")
            .header("host", "127.0.0.1")
            .header("content-type", "application/json")
            .header("idempotency-key", format!("\"{keys}-{number}\""))
            .body(Full::new(Bytes::from_static(BODY.as_bytes())))?;
        client.ready().await?;
        let response = client.send_request(request).await?;
        let is_replayed = response.headers().contains_key("idempotent-replayed");
        if !response.status().is_success() || is_replayed != is_replay {
            let status = response.status();
            return Err(format!("{status}, replayed: {is_replayed}, not {is_replay}").into());
        }
        response.into_body().collect().await?;
    }
    Ok(())
}
