//! The tiny upstream that both proxies stand before: one thread, one fixed answer.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{Error, Verdict};

const ANSWER: &[u8] = br#"{"order_id":"10422","status":"created"}"#;

/// Serves until standard input ends, which it does when the benchmark ends in any way.
pub(crate) fn run() -> Result<Verdict, Error> {
    std::thread::spawn(|| {
        let mut chunk = [0; 64];
        while matches!(std::io::stdin().lock().read(&mut chunk), Ok(count) if count > 0) {}
        end();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(serve())
}

#[expect(clippy::exit, reason = "a helper process has nothing to clean up")]
fn end() {
    std::process::exit(0)
}

async fn serve() -> Result<Verdict, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A client that closes its connection is no news.
            connection.await.ok();
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // The body is read whole, as any handler would.
    request.into_body().collect().await.ok();
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
