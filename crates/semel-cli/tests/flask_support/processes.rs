//! gunicorn with the Flask example, and proxies in front of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::program::Program;
use super::{Redis, variable};

/// How gunicorn serves requests: what decides how many duplicates can run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// Green threads in four processes.
    Gevent,
    /// Four processes of sixteen threads.
    Gthread,
    /// Four processes, one request each.
    Sync,
}

impl Model {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Gevent => &["-k", "gevent", "-w", "4"],
            Self::Gthread => &["-k", "gthread", "-w", "4", "--threads", "16"],
            Self::Sync => &["-k", "sync", "-w", "4"],
        }
    }
}

/// gunicorn serving the example.
pub(crate) struct Gunicorn {
    address: SocketAddr,
    _program: Program,
}

impl Gunicorn {
    pub(crate) fn start(model: Model, work_ms: u64, redis: &Redis) -> Self {
        let venv = PathBuf::from(variable("SEMEL_TEST_VENV"));
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flask-redis");
        let mut command = Command::new(venv.join("bin/gunicorn"));
        command
            .args(model.arguments())
            .args(["-b", "127.0.0.1:0", "--no-control-socket", "app:app", "--chdir"])
            .arg(example)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("REDIS_HOST", &redis.host)
            .env("REDIS_PORT", &redis.port)
            .env("WORK_MS", work_ms.to_string());
        let (program, address) = Program::start("gunicorn", &mut command, "Listening at:");
        Self { address, _program: program }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// `semel proxy` processes that share one SQLite file.
pub(crate) struct Proxies {
    running: Vec<(Program, SocketAddr)>,
    folder: PathBuf,
}

impl Proxies {
    pub(crate) fn start(count: usize, upstream: SocketAddr, arguments: &[&str]) -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("flask-storm-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the store");
        let start = |_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
            command
                .args(["proxy", "--upstream", &format!("http://{upstream}")])
                .args(["--listen", "127.0.0.1:0", "--store"])
                .arg(format!("sqlite:{}", folder.join("semel.db").display()))
                .args(arguments)
                .current_dir(&folder);
            Program::start("semel proxy", &mut command, "listening on")
        };
        let running = (0..count).map(start).collect();
        Self { running, folder }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.running.iter().map(|(_, address)| *address).collect()
    }

    /// The most memory that one of them ever had resident.
    pub(crate) fn memory_peak_mib(&self) -> u64 {
        self.running.iter().map(|(program, _)| peak_kib(program.id()) / 1024).max().unwrap_or(0)
    }

    /// The processor time that all of them took so far.
    pub(crate) fn cpu_ms(&self) -> u64 {
        self.running.iter().map(|(program, _)| cpu_ms(program.id())).sum()
    }

    /// Ends them in the orderly way, which must succeed.
    pub(crate) fn stop(mut self) {
        for (program, _) in self.running.drain(..) {
            let status = program.stop();
            assert!(status.success(), "after SIGTERM a proxy drains and exits 0, not {status}");
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.running.clear();
        // A folder that stays behind lies among the build products and harms nobody.
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn peak_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a running proxy");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

/// User and system time: the 14th and 15th field, counted after the name in brackets. A clock tick
/// is 10 ms on every Linux that Debian ships.
fn cpu_ms(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a running proxy");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<u64>().ok());
    ticks.sum::<u64>() * 10
}
