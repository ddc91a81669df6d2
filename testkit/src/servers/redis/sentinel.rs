//! A primary, its replica, and the sentinels that watch them.

use super::super::nest::Nest;
use super::super::{Error, Missing, START_MAX, Waiting, wait_for};
use super::node::{Node, hosts};
use super::resp::Reply;

/// What the sentinels call the pair.
const NAME: &str = "mymaster";

/// The commands that a replica needs of its primary.
const REPLICATION: [&str; 3] = ["psync", "replconf", "sync"];

/// Two Redis servers of which one follows the other, under sentinels that all see both. See
/// [`servers`](super::super) for what holds for all servers.
///
/// The servers are numbered 0 and 1; 0 is the primary at first. A primary that is silent for half
/// a second is taken for dead, and one sentinel suffices to say so.
#[derive(Debug)]
pub struct RedisSentinel {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    servers: Vec<Node>,
    sentinels: Vec<Node>,
    /// As long as no other one has been seen.
    primary: usize,
}

impl RedisSentinel {
    /// What is not there to start one.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        super::missing()
    }

    /// Starts the pair with one sentinel and the settings of
    /// [`Redis::start`](super::Redis::start).
    ///
    /// # Errors
    ///
    /// When one of them does not answer, or they do not see each other, within a minute.
    pub fn start() -> Result<Self, Error> {
        Self::with_sentinels(1)
    }

    /// Starts the pair with so many sentinels, but at least one.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_sentinels(count: usize) -> Result<Self, Error> {
        let nest = Nest::new("redis-sentinel")?;
        let primary = Node::with_data(&nest, "server-0", &[], &[])?;
        let address = format!("127.0.0.1 {}", primary.port);
        let replica = Node::with_data(&nest, "server-1", &[("replicaof", &address)], &[])?;
        let watch = [
            ("monitor", format!("{NAME} {address} 1")),
            ("down-after-milliseconds", format!("{NAME} 500")),
            ("failover-timeout", format!("{NAME} 2000")),
        ];
        let watch = watch.map(|(setting, value)| format!("{setting} {value}"));
        let watch: Vec<(&str, &str)> = watch.iter().map(|line| ("sentinel", &**line)).collect();
        let sentinels = (0..count.max(1))
            .map(|index| Node::sentinel(&nest, &format!("sentinel-{index}"), &watch))
            .collect::<Result<_, _>>()?;
        let pair = Self { nest, servers: vec![primary, replica], sentinels, primary: 0 };
        pair.wait_until_complete()?;
        Ok(pair)
    }

    /// `redis-sentinel://HOST:PORT,…/NAME` with the sentinels' ports.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis-sentinel://{}/{NAME}", hosts(&self.sentinels))
    }

    /// What the sentinels call the pair.
    #[must_use]
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The URL of each server.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|node| format!("redis://127.0.0.1:{}", node.port)).collect()
    }

    /// The server that is primary, as far as this pair has waited for it.
    #[must_use]
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// Sends one command to one server.
    ///
    /// # Errors
    ///
    /// When it cannot be reached or refuses the command.
    ///
    /// # Panics
    ///
    /// When there is no such server.
    pub fn ask(&self, server: usize, words: &[&str]) -> Result<Reply, Error> {
        self.servers[server].ask(words)
    }

    /// Crashes the primary (`SIGKILL`). Nothing happens when it does not run.
    pub fn kill_primary(&mut self) {
        self.servers[self.primary].kill();
    }

    /// Stops the primary where it is; its connections stay open.
    pub fn freeze_primary(&self) {
        self.servers[self.primary].freeze();
    }

    /// Lets both servers go on, whichever was frozen.
    pub fn thaw(&self) {
        self.servers.iter().for_each(Node::thaw);
    }

    /// Waits until the sentinels have made the other server the primary.
    ///
    /// # Errors
    ///
    /// When they have not within a minute.
    pub fn wait_for_promotion(&mut self) -> Result<(), Error> {
        let next = 1 - self.primary;
        let (server, port) = (&self.servers[next], self.servers[next].port.to_string());
        wait_for(START_MAX, || {
            let role = server.ask(&["ROLE"]).map_err(Waiting::NotYet)?;
            let is_primary = role.list().first().is_some_and(|role| role.text() == "master");
            for sentinel in &self.sentinels {
                let told = sentinel.ask(&["SENTINEL", "get-master-addr-by-name", NAME]);
                let told = told.map_err(Waiting::NotYet)?;
                let is_told = told.list().get(1).is_some_and(|told| told.text() == port);
                if !(is_told && is_primary) {
                    let error = Error::new(format!("server {next} is not the primary"));
                    return Err(Waiting::NotYet(error));
                }
            }
            Ok(())
        })?;
        self.primary = next;
        Ok(())
    }

    /// Starts the servers that were killed in the same folders on the same ports, and makes the
    /// one that is not primary follow the other: writes that only it has are lost then.
    ///
    /// Sentinels do this by themselves, but only after ten seconds or more. To see two primaries
    /// at once, freeze one, wait for the promotion, and thaw.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> Result<(), Error> {
        for server in &mut self.servers {
            server.run(&self.nest)?;
        }
        let primary = self.servers[self.primary].port.to_string();
        self.ask(1 - self.primary, &["REPLICAOF", "127.0.0.1", &primary])?;
        self.wait_until_complete()
    }

    /// From now on, the replica gets no writes: what the primary confirms is lost with it.
    ///
    /// Kill the primary within four seconds. Sentinels do not promote a replica that has been
    /// cut off for longer.
    ///
    /// # Errors
    ///
    /// When the primary cannot be reached.
    pub fn pause_replication(&self) -> Result<(), Error> {
        self.permit_replication('-')?;
        self.ask(self.primary, &["CLIENT", "KILL", "TYPE", "replica"])?;
        Ok(())
    }

    /// Ends [`pause_replication`](Self::pause_replication) and waits until the replica follows.
    ///
    /// # Errors
    ///
    /// When a server cannot be reached, or the replica does not follow within a minute.
    pub fn resume_replication(&self) -> Result<(), Error> {
        self.permit_replication('+')?;
        self.wait_until_complete()
    }

    fn permit_replication(&self, sign: char) -> Result<(), Error> {
        let rules = REPLICATION.map(|command| format!("{sign}{command}"));
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        self.ask(self.primary, &[&["ACL", "SETUSER", "default"], &*rules].concat())?;
        Ok(())
    }

    /// The replica follows the primary, and the sentinels know it and each other.
    fn wait_until_complete(&self) -> Result<(), Error> {
        let replica = &self.servers[1 - self.primary];
        wait_for(START_MAX, || {
            let role = replica.ask(&["ROLE"]).map_err(Waiting::NotYet)?;
            match role.list() {
                [role, _, _, link, ..] if role.text() == "slave" && link.text() == "connected" => {
                    Ok(())
                }
                _ => Err(Waiting::NotYet(Error::new("the replica does not follow the primary"))),
            }
        })?;
        let others = (self.sentinels.len() - 1).to_string();
        for sentinel in &self.sentinels {
            wait_for(START_MAX, || {
                let told = sentinel.ask(&["SENTINEL", "MASTER", NAME]).map_err(Waiting::NotYet)?;
                let words: Vec<&str> = told.list().iter().map(Reply::text).collect();
                let says = |field, value: &str| words.chunks(2).any(|pair| *pair == [field, value]);
                match says("num-slaves", "1") && says("num-other-sentinels", &others) {
                    true => Ok(()),
                    false => Err(Waiting::NotYet(Error::new("a sentinel does not see everybody"))),
                }
            })?;
        }
        Ok(())
    }
}
