//! Each fault of the proxy does what its page says, between a client and a server that echoes
//! lines.

#![allow(clippy::disallowed_methods, reason = "a real network takes real time")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use semel_testkit::{Direction, FaultProxy, Traffic};

type Story = Result<(), Box<dyn std::error::Error>>;

/// Longer than loopback takes, short enough to wait for in a test.
const SILENCE: Duration = Duration::from_millis(100);

const BOUND: Duration = Duration::from_secs(10);

/// A server that returns what it gets, and counts it.
struct Echo {
    addr: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Echo {
    fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&bytes);
        // It ends with the test program.
        std::thread::spawn(move || {
            while let Ok((peer, _)) = listener.accept() {
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || echo(peer, &counted));
            }
        });
        Ok(Self { addr, bytes })
    }

    /// Waits until the server has got so many bytes.
    fn has_got(&self, bytes: u64) {
        let started = Instant::now();
        while self.bytes.load(Ordering::SeqCst) != bytes {
            assert!(started.elapsed() < BOUND, "the server got {:?} bytes", self.bytes);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn echo(mut peer: TcpStream, counted: &AtomicU64) {
    let mut chunk = [0; 4096];
    while let Ok(count) = peer.read(&mut chunk) {
        counted.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::SeqCst);
        if count == 0 || peer.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

fn connect(proxy: &FaultProxy) -> std::io::Result<TcpStream> {
    let client = TcpStream::connect(proxy.addr())?;
    client.set_read_timeout(Some(BOUND))?;
    client.set_nodelay(true)?;
    Ok(client)
}

fn ask(client: &mut TcpStream, words: &str) -> std::io::Result<String> {
    client.write_all(words.as_bytes())?;
    let mut answer = vec![0; words.len()];
    client.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn is_silent(client: &mut TcpStream) -> std::io::Result<bool> {
    client.set_read_timeout(Some(SILENCE))?;
    let silent = client.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    client.set_read_timeout(Some(BOUND))?;
    Ok(silent)
}

fn is_reset(client: &mut TcpStream) -> bool {
    client.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn without_faults_everything_passes_and_is_counted() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    assert_eq!(ask(&mut client, "hello")?, "hello");
    let before = proxy.traffic();
    assert_eq!(
        before,
        Traffic { connections: 1, bytes_to_client: 5, bytes_to_server: 5, round_trips: 1 }
    );
    // Two requests at once are one trip, two after one another are two.
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "one;two")?, "one;two");
    }
    let took = proxy.traffic() - before;
    assert_eq!(
        took,
        Traffic { connections: 0, bytes_to_client: 14, bytes_to_server: 14, round_trips: 2 }
    );
    Ok(())
}

#[test]
fn a_megabyte_passes_unchanged_and_the_end_of_one_side_is_passed_on() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    let sent: Vec<u8> = (0..1_000_000_u32).flat_map(|n| u8::try_from(n % 251)).collect();
    let mut sender = client.try_clone()?;
    let bytes = sent.clone();
    let sender = std::thread::spawn(move || {
        sender.write_all(&bytes)?;
        sender.shutdown(std::net::Shutdown::Write)
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got)?;
    assert!(got == sent);
    sender.join().map_err(|_| "the sender panicked")??;
    Ok(())
}

#[test]
fn latency_is_added_both_ways_and_does_not_narrow() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    let latency = Duration::from_millis(50);
    proxy.latency(latency);
    let started = Instant::now();
    ask(&mut client, "hello")?;
    assert!(started.elapsed() >= latency * 2);
    let started = Instant::now();
    let mut sender = client.try_clone()?;
    let many = std::thread::spawn(move || {
        (0..20).try_for_each(|_| {
            std::thread::sleep(Duration::from_millis(1));
            sender.write_all(&[b'x'; 100])
        })
    });
    client.read_exact(&mut [0; 2_000])?;
    assert!(started.elapsed() < latency * 10, "{:?}", started.elapsed());
    many.join().map_err(|_| "the sender panicked")??;
    proxy.heal();
    ask(&mut client, "hello")?;
    Ok(())
}

#[test]
fn a_half_open_connection_takes_requests_and_says_nothing() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let (mut old, mut idle) = (connect(&proxy)?, connect(&proxy)?);
    ask(&mut old, "before")?;
    ask(&mut idle, "before")?;
    proxy.half_open();
    let mut new = connect(&proxy)?;
    for client in [&mut old, &mut new] {
        client.write_all(b"into the void")?;
        assert!(is_silent(client)?);
    }
    assert_eq!(echo.bytes.load(Ordering::SeqCst), 12);
    proxy.heal();
    assert!(is_reset(&mut old) && is_reset(&mut new));
    // It has lost nothing.
    assert_eq!(ask(&mut idle, "after")?, "after");
    Ok(())
}

#[test]
fn a_reset_ends_what_is_open_and_nothing_else() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut clients = [connect(&proxy)?, connect(&proxy)?];
    for client in &mut clients {
        ask(client, "before")?;
    }
    proxy.reset();
    assert!(clients.iter_mut().all(is_reset));
    assert_eq!(ask(&mut connect(&proxy)?, "after")?, "after");
    Ok(())
}

#[test]
fn exactly_so_many_bytes_pass_before_the_line_breaks() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    proxy.drop_after(8, Direction::ToServer);
    assert_eq!(ask(&mut client, "hello")?, "hello");
    assert!(ask(&mut client, "hello").is_err());
    echo.has_got(8);
    proxy.drop_after(3, Direction::ToClient);
    let mut client = connect(&proxy)?;
    client.write_all(b"hello")?;
    let mut got = [0; 3];
    client.read_exact(&mut got)?;
    assert_eq!(&got, b"hel");
    assert!(is_reset(&mut client));
    // Once only.
    assert_eq!(ask(&mut connect(&proxy)?, "after")?, "after");
    Ok(())
}

#[test]
fn lost_replies_let_the_requests_pass_until_the_line_is_reset() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    ask(&mut client, "before")?;
    proxy.lose_replies();
    for sent in [6 + 3, 6 + 6] {
        client.write_all(b"pay")?;
        echo.has_got(sent);
        assert!(is_silent(&mut client)?);
    }
    proxy.reset();
    assert!(is_reset(&mut client));
    proxy.lose_replies_then_reset(NonZeroU64::MIN);
    for sent in [12 + 3, 12 + 6] {
        let mut client = connect(&proxy)?;
        client.write_all(b"pay")?;
        echo.has_got(sent);
        assert!(is_reset(&mut client));
    }
    Ok(())
}

#[test]
fn the_chosen_reply_is_lost_and_no_other() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    proxy.lose_reply(2);
    let mut client = connect(&proxy)?;
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "pay")?, "pay");
    }
    client.write_all(b"pay")?;
    assert!(is_reset(&mut client));
    echo.has_got(9);
    assert_eq!(ask(&mut connect(&proxy)?, "pay")?, "pay");
    Ok(())
}

#[test]
fn a_partition_refuses_new_connections_and_holds_up_open_ones() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    ask(&mut client, "before")?;
    // The second call changes nothing.
    proxy.partition();
    proxy.partition();
    let refused = connect(&proxy).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    client.write_all(b"held up")?;
    assert!(is_silent(&mut client)?);
    assert_eq!(echo.bytes.load(Ordering::SeqCst), 6);
    proxy.heal();
    proxy.heal();
    let mut answer = [0; 7];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"held up");
    assert_eq!(ask(&mut connect(&proxy)?, "after")?, "after");
    Ok(())
}

#[test]
fn a_server_that_is_down_resets_the_client() -> Story {
    let down = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let proxy = FaultProxy::start(down)?;
    assert!(is_reset(&mut connect(&proxy)?));
    Ok(())
}

#[test]
fn a_dropped_proxy_closes_its_connections_and_its_port() -> Story {
    let echo = Echo::start()?;
    let proxy = FaultProxy::start(echo.addr)?;
    let mut client = connect(&proxy)?;
    ask(&mut client, "before")?;
    let addr = proxy.addr();
    assert_eq!(proxy.url(&format!("redis://{}/0", echo.addr)), format!("redis://{addr}/0"));
    drop(proxy);
    assert!(client.read(&mut [0]).is_ok_and(|count| count == 0));
    assert!(TcpStream::connect(addr).is_err());
    Ok(())
}
