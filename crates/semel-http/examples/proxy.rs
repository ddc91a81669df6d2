//! A whole proxy in a few lines: `cargo run -p semel-http --features proxy --example proxy -- \
//! 127.0.0.1:8080 http://127.0.0.1:8000`. Records are in memory, so they end with the process.

use std::error::Error;
use std::sync::Arc;

use semel::{Guard, MemoryStore};
use semel_http::{IdempotencyLayer, Proxy, Settings, UnknownPolicy, proxy};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it says where it listens")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let upstream = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());

    let guard = Guard::builder(Arc::new(MemoryStore::new()))
        .operation("proxy")?
        .effect(UnknownPolicy::Hold.effect())
        .build()?;
    let layer = IdempotencyLayer::builder(guard)
        .settings(Settings::proxy())
        .tenant_from_authorization()
        .build()?;
    let proxy = Proxy::new(proxy::Settings::new(&upstream), layer)?;

    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    println!("{:?}", proxy.serve(listener, stop).await);
    Ok(())
}
