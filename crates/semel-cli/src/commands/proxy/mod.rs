//! `semel proxy`: the HTTP door in front of a service.

mod admin;
mod arguments;
mod build;
mod logs;
mod metrics;
mod notify;
mod sources;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel::Inspect;
use semel_stores::{Opened, Purpose, ReplayCache};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use arguments::Arguments;
pub(crate) use sources::remember as remember_sources;

use self::admin::Admin;
use crate::failure::Failure;
use crate::output;

/// How many expired records one step of a sweep deletes, so that it never blocks the writer long.
const SWEEP_STEP: usize = 1000;

/// Everything that can be checked without starting.
pub(crate) fn check(arguments: &Arguments) -> Result<(), Failure> {
    address("listen", &arguments.listen)?;
    arguments.admin.as_deref().map_or(Ok(()), |admin| address("admin", admin))?;
    logs::check(&arguments.operations.log)?;
    upstream(&arguments.upstream)?;
    let store = Arc::new(semel::MemoryStore::new());
    let secret = match build::secret(arguments)? {
        Some(secret) => secret,
        None => semel::FingerprintKey::from_secret(&[0; 32])?,
    };
    // The store is another one, but all rules between settings are the same.
    build::proxy(arguments, store, secret)?;
    Ok(semel_stores::check(&arguments.store.url()?)?)
}

fn address(flag: &str, address: &str) -> Result<(), Failure> {
    let is_address = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if is_address { Ok(()) } else { Err(no_address(flag, address)) }
}

fn no_address(flag: &str, address: &str) -> Failure {
    Failure::usage(format!("--{flag} `{address}` is no address"))
        .help("write HOST:PORT, for example 127.0.0.1:8080")
}

/// What must not reach the layer's own check of the address: a password, because that check shows
/// the address, and a port out of range, because `http` takes it for none and requests would go to
/// port 80.
fn upstream(url: &str) -> Result<(), Failure> {
    if url.contains('@') {
        return Err(Failure::usage("--upstream contains a user or a password, which is not sent")
            .help("write http://HOST:PORT, and let the client send its own Authorization"));
    }
    let uri = url.parse::<http::Uri>().unwrap_or_default();
    let port = uri.authority().and_then(|it| it.as_str().rsplit_once(':')).map(|(_, port)| port);
    if port.is_some_and(|port| !port.ends_with(']') && port.parse::<u16>().is_err()) {
        return Err(Failure::usage(format!("--upstream `{url}` has no usable port"))
            .help("write http://HOST:PORT with a port from 1 to 65535"));
    }
    Ok(())
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Failure::runtime("the system gave no threads to start").caused_by(&error)
    })?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<(), Failure> {
    check(&arguments)?;
    let levels = logs::start(&arguments.operations.log, arguments.operations.log_json)?;
    let metrics = metrics::install()?;
    // Before the store, so that a wrong address does not leave an empty one behind.
    let listener = bind("listen", &arguments.listen).await?;
    let admin_listener = match &arguments.admin {
        Some(address) => Some(bind("admin", address).await?),
        None => None,
    };
    let patience = build::guard_settings(&arguments)?.store_patience;
    let Opened { store, fingerprint_key, .. } =
        semel_stores::open_with(&arguments.store.url()?, Purpose::Serve, patience).await?;
    let secret = build::secret(&arguments)?.unwrap_or(fingerprint_key);
    let store = remembering(store, &arguments);
    let proxy = build::proxy(&arguments, Arc::clone(&store), secret)?;
    let mut stop = Stop::new()?;
    let draining = Arc::new(AtomicBool::new(false));
    if let Some(admin_listener) = admin_listener {
        if let Ok(address) = admin_listener.local_addr() {
            // Port 0 was asked for, perhaps: somebody has to be told, however quiet the log is.
            if tracing::enabled!(tracing::Level::INFO) {
                tracing::info!("admin on http://{address}");
            } else {
                output::error_line(&format!("admin on http://{address}"));
            }
        }
        let admin = Admin {
            store: Arc::clone(&store),
            metrics,
            levels,
            config: sources::shown(),
            draining: Arc::clone(&draining),
        };
        tokio::spawn(admin::serve(Arc::new(admin), admin_listener));
    }
    warn_if_unreachable(&arguments.upstream).await;
    let sweeper = tokio::spawn(sweep(store, arguments.operations.sweep));
    let address = listener
        .local_addr()
        .map_err(|error| Failure::runtime("the listener has no address").caused_by(&error))?;
    output::line(&format!("listening on http://{address}"));
    notify::send("READY=1");
    let drain_min = arguments.operations.drain_min;
    let shutdown = async move {
        stop.asked().await;
        notify::send("STOPPING=1");
        draining.store(true, Ordering::Release);
        tracing::info!("stopping: no new requests, those in flight may end");
        tokio::spawn(async move {
            stop.asked().await;
            output::error_line("stopped at once: asked a second time");
            exit_now();
        });
        tokio::time::sleep(drain_min).await;
    };
    let drained = proxy.serve(listener, shutdown).await;
    sweeper.abort();
    if drained.connections_cut + drained.executions_left > 0 {
        return Err(Failure::runtime(format!(
            "stopping took longer than drain-max: {} connections were cut, {} executions still \
             ran; their leases decide about their keys",
            drained.connections_cut, drained.executions_left
        )));
    }
    Ok(())
}

/// Deletes expired records now and then, in small steps. Only space depends on it.
fn remembering(store: Arc<dyn Inspect>, arguments: &Arguments) -> Arc<dyn Inspect> {
    let limits = &arguments.limits;
    match limits.replay_cache {
        0 => store,
        bytes => Arc::new(ReplayCache::new(store, bytes, limits.replay_cache_age)),
    }
}

async fn sweep(store: Arc<dyn Inspect>, pause: Duration) {
    loop {
        match store.sweep(SWEEP_STEP).await {
            Ok(swept) => {
                metrics::swept(swept);
                if swept == SWEEP_STEP {
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, "expired records could not be deleted"),
        }
        tokio::time::sleep(pause.max(Duration::from_secs(1))).await;
    }
}

async fn bind(flag: &str, address: &str) -> Result<TcpListener, Failure> {
    let addresses: Vec<SocketAddr> = match lookup_host(address).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            return Err(no_address(flag, address).caused_by(&error));
        }
    };
    TcpListener::bind(&addresses[..]).await.map_err(|error| {
        let failure = Failure::runtime(format!("--{flag} {address} cannot be listened on"));
        failure.caused_by(&error).help(match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program uses the port; choose another one",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
            _ => "choose an address of this machine",
        })
    })
}

/// An upstream may come up later, so this is a word and no failure.
async fn warn_if_unreachable(upstream: &str) {
    let Ok(uri) = upstream.parse::<http::Uri>() else { return };
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(80)) else { return };
    let attempt = TcpStream::connect((host.trim_matches(['[', ']']), port));
    let why = match tokio::time::timeout(Duration::from_secs(1), attempt).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer within a second".to_owned(),
    };
    tracing::warn!(
        "the upstream {upstream} cannot be reached now ({why}); until it can, requests are \
         answered with 502"
    );
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::runtime("the system does not tell about signals").caused_by(&error)
            })
        };
        let terminate = listen(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Claims in flight are left to their leases, as after a crash.
#[expect(clippy::exit, reason = "asked twice to stop; unwinding would wait for what is in flight")]
fn exit_now() -> ! {
    std::process::exit(1)
}
