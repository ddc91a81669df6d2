//! A network between clients and a broker that knows which request ends a transaction.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const INIT_PRODUCER_ID: u16 = 22;
const END_TXN: u16 = 26;

/// Where a request's words begin: behind its kind, its version and a number.
const HEAD_BYTES: usize = 8;

/// Kafka's own limit.
const FRAME_BYTES_MAX: usize = 100 << 20;

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// It arrives. The answer does not, nor anything else on that connection.
    LoseAnswer,
    /// It arrives. The answer is lost together with its connection.
    BreakOff,
    /// It does not arrive, nor anything else on that connection.
    LoseRequest,
}

/// What has happened to a transactional id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    trap: Option<(u32, Trick)>,
    /// The commit for which a trap was set.
    pub(crate) caught: Option<Vec<u8>>,
    /// The broker has answered that commit.
    pub(crate) is_answered: bool,
    /// How many producers have taken the id over.
    pub(crate) producers: u32,
}

/// A proxy before a broker whose clients are told to come here.
pub(crate) struct Wire {
    door: TcpListener,
    lines: Lines,
}

type Lines = Arc<Mutex<BTreeMap<String, Line>>>;

impl Wire {
    /// Takes a port. Whoever connects waits until it [serves](Self::serve).
    pub(crate) fn lay() -> Self {
        Self { door: TcpListener::bind("127.0.0.1:0").unwrap(), lines: Lines::default() }
    }

    pub(crate) fn address(&self) -> String {
        self.door.local_addr().unwrap().to_string()
    }

    /// Carries everybody to this broker from now on, until the test's process ends.
    pub(crate) fn serve(&self, broker: &str) {
        let (door, broker): (_, SocketAddr) =
            (self.door.try_clone().unwrap(), broker.parse().unwrap());
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for client in door.incoming() {
                let (client, lines) = (client.unwrap(), Arc::clone(&lines));
                // A broker that is not there is a client that is sent away.
                if let Ok(server) = TcpStream::connect(broker) {
                    Connection::new(client, server, lines).carry();
                }
            }
        });
    }

    /// Lets so many commits of a transactional id pass, and plays the trick on the next one.
    pub(crate) fn trap(&self, id: &str, passing: u32, trick: Trick) {
        let line = Line { trap: Some((passing, trick)), ..Line::default() };
        self.lines.lock().unwrap().insert(id.to_owned(), line);
    }

    pub(crate) fn line(&self, id: &str) -> Line {
        self.lines.lock().unwrap()[id].clone()
    }
}

/// Sends a request late, and returns the error with which the broker answers.
pub(crate) fn send_late(broker: &str, request: &[u8]) -> i16 {
    let mut broker = TcpStream::connect(broker).unwrap();
    broker.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    broker.write_all(request).unwrap();
    let answer = frame(&mut broker).unwrap();
    // Behind its length, the number of the request and how long to hold back.
    i16::from_be_bytes(answer[12..14].try_into().unwrap())
}

/// A request or an answer with its length, or nothing more.
pub(crate) fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).ok()?;
    let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap();
    assert!(bytes <= FRAME_BYTES_MAX, "this is not Kafka's protocol");
    let mut frame = [&length[..], &vec![0; bytes]].concat();
    from.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// One of a client with the broker. Both directions see the same.
#[derive(Clone)]
struct Connection {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
    lines: Lines,
    /// The id whose commit is not to be answered, and whether the connection ends with that.
    muted: Arc<Mutex<Option<(String, bool)>>>,
    is_cut: Arc<AtomicBool>,
    /// The ids that it wants to take over, by the numbers of the requests.
    asked: Arc<Mutex<BTreeMap<Vec<u8>, String>>>,
}

impl Connection {
    fn new(client: TcpStream, server: TcpStream, lines: Lines) -> Self {
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (client, server) = (Arc::new(client), Arc::new(server));
        Self {
            client,
            server,
            lines,
            muted: Arc::default(),
            is_cut: Arc::default(),
            asked: Arc::default(),
        }
    }

    fn carry(self) {
        let answers = self.clone();
        std::thread::spawn(move || {
            answers.carry_answers();
            answers.end();
        });
        std::thread::spawn(move || {
            self.carry_requests();
            self.end();
        });
    }

    /// One side has ended, or neither is to hear of the other any more.
    fn end(&self) {
        // They fail when the peer was faster.
        self.client.shutdown(Shutdown::Both).ok();
        self.server.shutdown(Shutdown::Both).ok();
    }

    fn carry_requests(&self) {
        let (mut client, mut server) = (self.client.try_clone().unwrap(), &*self.server);
        while let Some(request) = frame(&mut client) {
            self.look(&request);
            if !self.is_cut.load(Ordering::SeqCst) && server.write_all(&request).is_err() {
                return;
            }
        }
    }

    fn carry_answers(&self) {
        let (mut server, mut client) = (self.server.try_clone().unwrap(), &*self.client);
        while let Some(answer) = frame(&mut server) {
            self.hear(&answer);
            let muted = self.muted.lock().unwrap().clone();
            if let Some((id, ends)) = muted {
                self.lines.lock().unwrap().get_mut(&id).unwrap().is_answered = true;
                if ends {
                    return;
                }
            } else if client.write_all(&answer).is_err() {
                return;
            }
        }
    }

    /// Notes whether a transactional id was taken over.
    fn hear(&self, answer: &[u8]) {
        let Some(id) = self.asked.lock().unwrap().remove(&answer[4..8]) else { return };
        // Behind its length, the number, a byte without meaning and how long to hold back. The
        // broker may have the client ask again.
        let is_done = answer[13..15] == [0, 0];
        self.lines.lock().unwrap().get_mut(&id).unwrap().producers += u32::from(is_done);
    }

    /// Notes what a request means for the transactional id that it names, if that is a known one.
    fn look(&self, request: &[u8]) {
        let words = &request[4..];
        let kind = u16::from_be_bytes([words[0], words[1]]);
        if kind != INIT_PRODUCER_ID && kind != END_TXN {
            return;
        }
        let mut lines = self.lines.lock().unwrap();
        let Some((id, line)) = lines.iter_mut().find(|(id, _)| names(words, id)) else { return };
        if kind == INIT_PRODUCER_ID {
            assert!(words[3] >= 2, "an answer to an earlier version looks different");
            self.asked.lock().unwrap().insert(words[4..8].to_vec(), id.clone());
            return;
        }
        assert!(words[3] < 3, "a commit of a later version looks different");
        let is_commit = words.last() == Some(&1);
        match &mut line.trap {
            Some((0, trick)) if is_commit => {
                match trick {
                    Trick::LoseRequest => self.is_cut.store(true, Ordering::SeqCst),
                    Trick::LoseAnswer | Trick::BreakOff => {
                        let muted = (id.clone(), *trick == Trick::BreakOff);
                        *self.muted.lock().unwrap() = Some(muted);
                    }
                }
                line.trap = None;
                line.caught = Some(request.to_vec());
            }
            Some((passing, _)) if is_commit => *passing -= 1,
            _ => {}
        }
    }
}

/// Whether a text of a request or an answer, whose length is before it in one byte, is this one.
/// The versions of the protocol count differently.
pub(crate) fn names(words: &[u8], id: &str) -> bool {
    let length = u8::try_from(id.len()).unwrap();
    let is_it = |at: &[u8]| (at[0] == length || at[0] == length + 1) && at.ends_with(id.as_bytes());
    words[HEAD_BYTES..].windows(id.len() + 1).any(is_it)
}
