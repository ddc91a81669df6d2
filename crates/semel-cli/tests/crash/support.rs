//! An upstream that counts, proxies as child processes, and a client that sees every byte.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service with an effect: it counts the executions of each key, and may be told to wait
/// between effect and answer.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    effects: HashMap<String, usize>,
    /// The number of the execution that has to wait, until it is let go.
    gated: Option<usize>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, state }
    }

    /// The nth execution of a key will have its effect and then wait.
    pub(crate) fn gate(&self, execution: usize) {
        self.state.0.lock().unwrap().gated = Some(execution);
    }

    pub(crate) fn let_go(&self) {
        self.state.0.lock().unwrap().gated = None;
        self.state.1.notify_all();
    }

    pub(crate) fn effects(&self, key: &str) -> usize {
        self.state.0.lock().unwrap().effects.get(key).copied().unwrap_or(0)
    }

    /// Every key that was executed, with how often.
    pub(crate) fn all_effects(&self) -> HashMap<String, usize> {
        self.state.0.lock().unwrap().effects.clone()
    }

    pub(crate) fn wait_for_effects(&self, key: &str, count: usize) {
        let state = self.state.0.lock().unwrap();
        let reached = self.state.1.wait_timeout_while(state, PATIENCE, |state| {
            state.effects.get(key).copied().unwrap_or(0) < count
        });
        assert!(!reached.unwrap().1.timed_out(), "the upstream did not see execution {count}");
    }
}

fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let mut reader = BufReader::new(stream);
    while let Some((head, _)) = read_message(&mut reader) {
        let key = header(&head, "idempotency-key").unwrap_or_default();
        let mut state = shared.0.lock().unwrap();
        let effects = state.effects.entry(key.clone()).or_default();
        *effects += 1;
        let mine = *effects;
        shared.1.notify_all();
        drop(shared.1.wait_while(state, |state| state.gated == Some(mine)).unwrap());
        let path = head.split(' ').nth(1).unwrap_or_default();
        let body = match path {
            "/named" => format!("{{\"key\":\"{key}\",\"execution\":{mine}}}"),
            _ => format!("{{\"execution\":{mine}}}"),
        };
        let (status, more) = match path {
            "/fail" => ("500 Internal Server Error", ""),
            "/rolled-back" => ("500 Internal Server Error", "Semel-Outcome: not-applied\r\n"),
            "/cookie" => ("201 Created", "Set-Cookie: session=1\r\nX-Many: a\r\nX-Many: b\r\n"),
            _ => ("201 Created", ""),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nLocation: /orders/{mine}\r\n\
             {more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Head and body of a message, or nothing when the connection ended.
fn read_message(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = header(&head, "content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// A store and proxies on it.
pub(crate) struct Site {
    pub(crate) upstream: Upstream,
    folder: TempDir,
    url: String,
}

impl Site {
    /// On a file of its own.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = url(&folder.path().join("semel.db"));
        Self { upstream: Upstream::start(), folder, url }
    }

    /// On a store that is there already.
    pub(crate) fn on(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::new() }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("semel.db")
    }

    /// A proxy with a lease of 300 ms, halting at `point` if one is named.
    pub(crate) fn proxy(&self, mode: &str, point: Option<&str>) -> Proxy {
        match point {
            Some(point) => self.proxy_trapped(mode, &format!("{point}=halt")),
            None => Proxy::start(self.command(&["--lease", "300ms", "--on-unknown", mode])),
        }
    }

    /// The same, with something else than a halt at the point.
    pub(crate) fn proxy_trapped(&self, mode: &str, trap: &str) -> Proxy {
        let mut command = self.command(&["--lease", "300ms", "--on-unknown", mode]);
        command.env("SEMEL_FAILPOINT", trap);
        Proxy::start(command)
    }

    /// A proxy with these flags besides listener, upstream and store.
    pub(crate) fn proxy_with(&self, flags: &[&str]) -> Proxy {
        Proxy::start(self.command(flags))
    }

    fn command(&self, flags: &[&str]) -> Command {
        let mut command = semel();
        command
            .args(["proxy", "--listen", "127.0.0.1:0"])
            .args(["--upstream", &format!("http://{}", self.upstream.address)])
            .args(["--store", &self.url])
            .args(flags);
        command
    }

    /// `semel records …` on this store.
    pub(crate) fn records(&self, arguments: &[&str]) -> Output {
        let mut command = semel();
        command.args(["records", "--store", &self.url]).args(arguments);
        command.output().unwrap()
    }

    pub(crate) fn records_ok(&self, arguments: &[&str]) -> String {
        let output = self.records(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(crate) fn semel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.env_remove("SEMEL_FAILPOINT").env("SEMEL_LOG", "info");
    command
}

pub(crate) fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// A proxy process; dropping it kills it.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) address: SocketAddr,
    stderr: Receiver<String>,
}

impl Proxy {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("semel starts");
        let (told, stderr) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test may have ended already.
                drop(told.send(line));
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let said: Vec<_> = stderr.iter().collect();
            panic!("the proxy did not start: {line:?} {said:?}");
        };
        Self { address: address.parse().unwrap(), child, stderr }
    }

    /// Waits until the process halts at its failpoint.
    pub(crate) fn wait_for_point(&self, point: &str) {
        let wanted = format!("failpoint {point}");
        loop {
            let line = self.stderr.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("the point {point} was never passed"));
            if line == wanted {
                return;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Asks it to stop and gives its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Where operators connect, from its log.
    pub(crate) fn admin(&self) -> SocketAddr {
        loop {
            let line = self.stderr.recv_timeout(PATIENCE).expect("a line about the admin listener");
            if let Some((_, address)) = line.split_once("admin on http://") {
                return address.trim().parse().unwrap();
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a request from another thread and gives what comes of it.
    pub(crate) fn send(&self, key: &str) -> Sent {
        let (address, key) = (self.address, key.to_owned());
        let (told, answer) = channel();
        let request = Ask::order(&key);
        std::thread::spawn(move || drop(told.send(post(address, &request))));
        Sent(answer)
    }

    /// Sends any request.
    pub(crate) fn ask_for(&self, request: &Ask) -> Answer {
        post(self.address, request).expect("an answer")
    }

    pub(crate) fn ask(&self, key: &str) -> Answer {
        self.send(key).answer()
    }

    /// Asks until the answer is another than "in flight".
    pub(crate) fn ask_until_told(&self, key: &str) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(key);
            if !answer.is("in-flight") {
                return answer;
            }
            assert!(answer.header("retry-after").is_some(), "in flight without Retry-After");
            assert!(Instant::now() < deadline, "in flight for ever");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            for line in self.stderr.try_iter() {
                println!("proxy: {line}");
            }
        }
    }
}

/// A request on its way.
pub(crate) struct Sent(Receiver<Option<Answer>>);

impl Sent {
    pub(crate) fn answer(self) -> Answer {
        self.0.recv_timeout(PATIENCE).expect("an end in time").expect("an answer")
    }

    /// The connection ended without an answer.
    pub(crate) fn was_cut(self) -> bool {
        self.0.recv_timeout(PATIENCE).expect("an end in time").is_none()
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// Whether it is the problem of this slug.
    pub(crate) fn is(&self, slug: &str) -> bool {
        self.body.contains(&format!("/problems/{slug}\""))
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let named = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim().to_owned()).collect()
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.header("idempotent-replayed").as_deref() == Some("true")
    }
}

/// A request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) fields: Vec<String>,
}

impl Ask {
    /// The order that most tests want.
    pub(crate) fn order(key: &str) -> Self {
        let body = "{\"item\":\"book\"}".to_owned();
        let fields =
            vec![format!("Idempotency-Key: {key}"), "Content-Type: application/json".to_owned()];
        Self { method: "POST", path: "/orders".to_owned(), body, fields }
    }

    pub(crate) fn get(path: &str) -> Self {
        let (path, body) = (path.to_owned(), String::new());
        Self { method: "GET", path, body, fields: Vec::new() }
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        self.path = path.to_owned();
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        self.body = body.to_owned();
        self
    }

    pub(crate) fn field(mut self, field: &str) -> Self {
        self.fields.push(field.to_owned());
        self
    }
}

/// One request on a connection of its own.
pub(crate) fn post(address: SocketAddr, ask: &Ask) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let fields: String = ask.fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!(
        "{} {} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n{}",
        ask.method,
        ask.path,
        ask.body.len(),
        ask.body
    );
    stream.write_all(request.as_bytes()).ok()?;
    let (head, body) = read_message(&mut BufReader::new(stream))?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: String::from_utf8(body).ok()? })
}
