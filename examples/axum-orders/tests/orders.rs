//! The service as a real process on a real file: duplicates, a kill before the commit, a restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(db: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_axum-orders"))
            .args(["--listen", "127.0.0.1:0", "--db"])
            .arg(db)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address }
    }

    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        let mut answer = String::new();
        self.send(request).read_to_string(&mut answer).unwrap();
        answer
    }

    fn orders(&self) -> usize {
        let list = "GET /orders HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        self.ask(list).matches("\"id\"").count()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn post(key: &str, body: &str) -> String {
    format!(
        "POST /orders HTTP/1.1\r\nHost: h\r\nConnection: close\r\nIdempotency-Key: \"{key}\"\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const STUCK: &str = "CREATE TRIGGER stuck BEFORE INSERT ON orders WHEN NEW.item = 'stuck' BEGIN
    SELECT (WITH RECURSIVE endless(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM endless)
            SELECT count(*) FROM endless);
END";

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn concurrent_duplicates_make_one_order_and_all_get_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&folder.path().join("orders.db"));
    let request = post("storm", "{\"item\":\"book\"}");
    let answers: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(|| service.ask(&request))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for answer in &answers {
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        assert!(answer.contains("location: /orders/1\r\n"), "{answer}");
        assert_eq!(body_of(answer), "{\"id\":1,\"item\":\"book\"}");
    }
    let fresh = answers.iter().filter(|answer| !answer.contains("idempotent-replayed")).count();
    assert_eq!((fresh, service.orders()), (1, 1));
    let reused = service.ask(&post("storm", "{\"item\":\"pen\"}"));
    assert!(reused.starts_with("HTTP/1.1 422"), "{reused}");
    let refused = service.ask(&post("bad", "{\"no\":1}"));
    assert!(refused.starts_with("HTTP/1.1 422"), "the handler's own refusal: {refused}");
    assert!(service.ask(&post("bad", "{\"no\":1}")).contains("idempotent-replayed: true"));
    assert_eq!(service.orders(), 1);
}

#[test]
fn a_process_killed_before_its_commit_leaves_nothing_and_the_retry_makes_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("orders.db");
    let service = Service::start(&db);
    let done = service.ask(&post("before", "{\"item\":\"pen\"}"));
    assert!(done.starts_with("HTTP/1.1 201"), "{done}");

    // A trigger that never ends holds the handler inside its open transaction.
    let other = rusqlite::Connection::open(&db).unwrap();
    other.execute_batch(STUCK).unwrap();
    let request = post("killed", "{\"item\":\"stuck\"}");
    let client = service.send(&request);
    other.busy_timeout(Duration::from_millis(500)).unwrap();
    while other.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {}
    service.kill();
    drop(client);
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("DROP TRIGGER stuck").unwrap();
    drop(other);

    let service = Service::start(&db);
    assert_eq!(service.orders(), 1, "nothing of the killed request remains");
    let replay = service.ask(&post("before", "{\"item\":\"pen\"}"));
    assert!(replay.contains("idempotent-replayed: true"), "finished keys replay: {replay}");
    // Waits for the dead owner's lease, then runs.
    let retry = service.ask(&request);
    assert!(retry.starts_with("HTTP/1.1 201"), "{retry}");
    assert!(!retry.contains("idempotent-replayed"), "{retry}");
    assert_eq!(service.orders(), 2);
    assert_eq!(body_of(&service.ask(&request)), body_of(&retry));
    assert_eq!(service.orders(), 2);
}
