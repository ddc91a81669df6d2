//! One Redis server without persistence.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{START_MAX, Server};

/// Another program may take the port between our look and the server's start.
const PORTS_TRIED_MAX: usize = 5;

const PAUSE: Duration = Duration::from_millis(10);

struct Redis {
    child: Child,
    port: u16,
}

pub(super) fn start(folder: &Path) -> Result<Box<dyn Server>, String> {
    let mut last = String::new();
    for _ in 0..PORTS_TRIED_MAX {
        let mut redis = spawn(folder)?;
        match redis.wait_until_ready() {
            Ok(()) => return Ok(Box::new(redis)),
            Err(error) => last = error,
        }
    }
    let log = std::fs::read_to_string(folder.join("redis.log")).unwrap_or_default();
    let log = log.lines().last().unwrap_or("its log is empty");
    Err(format!("redis-server does not start: {last}; its log ends with: {log}"))
}

fn spawn(folder: &Path) -> Result<Redis, String> {
    let port = free_port().map_err(|error| format!("no port is free on 127.0.0.1: {error}"))?;
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"])
        .args(["--daemonize", "no", "--logfile", "redis.log", "--dir"])
        .arg(folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("redis-server cannot be started: {error}"))?;
    Ok(Redis { child, port })
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Redis {
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended at once ({status})"));
            }
            // A stranger on our port would not be our child answering; the check above sees the
            // child fail to bind.
            match self.ask("PING") {
                Ok(answer) if answer.starts_with("+PONG") => return Ok(()),
                _ if started.elapsed() > START_MAX => {
                    return Err(format!("no answer to PING within {START_MAX:?}"));
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    fn ask(&self, line: &str) -> std::io::Result<String> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port);
        let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = [0; 64];
        let count = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
    }

    fn has_ended_within(&mut self, bound: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < bound {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }
}

impl Server for Redis {
    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It answers by closing the connection, so there is nothing to read.
        drop(self.ask("SHUTDOWN NOSAVE"));
        if !self.has_ended_within(Duration::from_secs(5)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
