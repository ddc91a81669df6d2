//! What is measured: the upstream, nginx and `semel proxy`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use super::child::Running;
use crate::Error;

/// Both proxies get as many workers as the smallest machine has cores.
const WORKERS: &str = "2";

/// A running server.
pub(super) struct Target {
    pub(super) id: u32,
    pub(super) port: u16,
    _running: Running,
}

/// The upstream, in a process of its own.
pub(super) fn upstream() -> Result<Target, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    announced(command.arg("upstream"))
}

/// `semel proxy` beside this program, so built for release as it is, with this store and these
/// flags on top.
pub(super) fn semel(
    folder: &Path,
    upstream: u16,
    store: &str,
    flags: &[&str],
) -> Result<Target, Error> {
    let program = std::env::current_exe()?.with_file_name("semel");
    if !program.is_file() {
        let program = program.display();
        return Err(format!("{program} is not built; `cargo xtask bench` builds it").into());
    }
    let mut command = Command::new(program);
    command
        .args(["proxy", "--upstream", &format!("http://127.0.0.1:{upstream}")])
        .args(["--listen", "127.0.0.1:0", "--store", store])
        .args(flags)
        .env("TOKIO_WORKER_THREADS", WORKERS)
        .current_dir(folder);
    announced(&mut command)
}

fn announced(command: &mut Command) -> Result<Target, Error> {
    let (running, port) = Running::announced(command)?;
    Ok(Target { id: running.id(), port, _running: running })
}

/// nginx with kept-alive connections on both sides and no logging.
pub(super) fn nginx(folder: &Path, upstream: u16) -> Result<Target, Error> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let config = folder.join("nginx.conf");
    std::fs::write(&config, nginx_config(port, upstream))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-e", "nginx-error.log"]);
    let running = Running::on_port(&mut command, port)?;
    Ok(Target { id: running.id(), port, _running: running })
}

fn nginx_config(port: u16, upstream: u16) -> String {
    format!(
        "daemon off;
worker_processes {WORKERS};
pid nginx.pid;
error_log nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream orders {{
        server 127.0.0.1:{upstream};
        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://orders;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
        }}
    }}
}}
"
    )
}
