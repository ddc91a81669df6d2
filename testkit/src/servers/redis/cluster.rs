//! A Redis Cluster.

use super::super::nest::Nest;
use super::super::{Error, Missing, START_MAX, Waiting, ports, wait_for};
use super::node::{Node, hosts};
use super::resp::Reply;

const NODES: usize = 3;

const SLOTS: usize = 16_384;

/// How many keys move at once.
const BATCH: &str = "100";

/// How long one batch may take.
const BATCH_MS_MAX: &str = "10000";

/// Three masters without replicas, which share the slots and have agreed that all is well. See
/// [`servers`](super::super) for what holds for all servers.
///
/// Nodes are numbered from 0. A node that is silent for two seconds is taken for dead, and then,
/// as is Redis' default, the others refuse their slots as well.
#[derive(Debug)]
pub struct RedisCluster {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    nodes: Vec<Node>,
}

impl RedisCluster {
    /// What is not there to start one.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        super::missing()
    }

    /// Starts one with the settings of [`Redis::start`](super::Redis::start).
    ///
    /// # Errors
    ///
    /// When a node does not answer, or they do not agree, within a minute.
    pub fn start() -> Result<Self, Error> {
        Self::with(&[])
    }

    /// Starts one whose nodes have these settings of `redis.conf` on top.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let nest = Nest::new("redis-cluster")?;
        let mut nodes = Vec::new();
        for index in 0..NODES {
            let bus = ports::free()?.to_string();
            let own = [
                ("cluster-enabled", "yes"),
                ("cluster-config-file", "nodes.conf"),
                ("cluster-node-timeout", "2000"),
                ("cluster-port", &*bus),
            ];
            let settings = [&own, settings].concat();
            let node = Node::with_data(&nest, &format!("node-{index}"), &settings, &[])?;
            let (first, last) = (index * SLOTS / NODES, (index + 1) * SLOTS / NODES - 1);
            let (first, last) = (first.to_string(), last.to_string());
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])?;
            // Different from the start, so that they need not agree on it.
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
            if let Some(known) = nodes.first() {
                let port = node.port.to_string();
                Node::ask(known, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
            }
            nodes.push(node);
        }
        let cluster = Self { nest, nodes };
        cluster.wait_until_agreed()?;
        Ok(cluster)
    }

    /// `redis-cluster://HOST:PORT,HOST:PORT,HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis-cluster://{}", hosts(&self.nodes))
    }

    /// The URL of each node as a server of its own.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("redis://127.0.0.1:{}", node.port)).collect()
    }

    /// Sends one command to one node, which may answer that another one is in charge.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached or refuses the command.
    ///
    /// # Panics
    ///
    /// When there is no such node; so do all that name one.
    pub fn ask(&self, node: usize, words: &[&str]) -> Result<Reply, Error> {
        self.nodes[node].ask(words)
    }

    /// The slot of a key.
    ///
    /// # Errors
    ///
    /// When no node can be reached.
    pub fn slot(&self, key: &str) -> Result<u16, Error> {
        match self.running()?.ask(&["CLUSTER", "KEYSLOT", key])? {
            Reply::Number(slot) => {
                u16::try_from(slot).map_err(Error::of("the slot is out of range"))
            }
            other => Err(Error::new(format!("{other:?} is no slot"))),
        }
    }

    /// The node that is in charge of a slot.
    ///
    /// # Errors
    ///
    /// When no node can be reached, or none is in charge.
    pub fn owner(&self, slot: u16) -> Result<usize, Error> {
        let slots = self.running()?.ask(&["CLUSTER", "SLOTS"])?;
        let slot = i64::from(slot);
        let port = slots.list().iter().find_map(|range| match range.list() {
            [Reply::Number(first), Reply::Number(last), master, ..]
                if (*first..=*last).contains(&slot) =>
            {
                master.list().get(1).cloned()
            }
            _ => None,
        });
        let is_it = |node: &Node| port == Some(Reply::Number(node.port.into()));
        let owner = self.nodes.iter().position(is_it);
        owner.ok_or_else(|| Error::new(format!("nobody is in charge of slot {slot}")))
    }

    /// Crashes one node (`SIGKILL`). Nothing happens when it does not run.
    pub fn kill_node(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts a node again in the same folder on the same ports. When it was the last that was
    /// down, waits until all agree that all is well.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_node_again(&mut self, node: usize) -> Result<(), Error> {
        self.nodes[node].run(&self.nest)?;
        if self.nodes.iter().all(Node::runs) { self.wait_until_agreed() } else { Ok(()) }
    }

    /// Stops one node where it is; its connections stay open.
    pub fn freeze_node(&self, node: usize) {
        self.nodes[node].freeze();
    }

    /// Lets it go on.
    pub fn thaw_node(&self, node: usize) {
        self.nodes[node].thaw();
    }

    /// Moves a slot with its keys to a node, as resharding does. Clients are redirected.
    ///
    /// # Errors
    ///
    /// When a node that takes part cannot be reached or refuses.
    pub fn move_slot(&self, slot: u16, to: usize) -> Result<(), Error> {
        self.begin_move(slot, to)?;
        self.finish_move(slot, to)
    }

    /// The first half of [`move_slot`](Self::move_slot): the keys stay, but whoever asks for one
    /// that is not there is sent to the new node (`ASK`).
    ///
    /// # Errors
    ///
    /// As [`move_slot`](Self::move_slot).
    pub fn begin_move(&self, slot: u16, to: usize) -> Result<(), Error> {
        let from = self.owner(slot)?;
        if from == to {
            return Ok(());
        }
        let (giving, taking) = (self.id(from)?, self.id(to)?);
        let slot = slot.to_string();
        self.ask(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &giving])?;
        self.ask(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &taking])?;
        Ok(())
    }

    /// The second half: the keys move, then the node is in charge.
    ///
    /// # Errors
    ///
    /// As [`move_slot`](Self::move_slot).
    pub fn finish_move(&self, slot: u16, to: usize) -> Result<(), Error> {
        let from = self.owner(slot)?;
        if from == to {
            return Ok(());
        }
        let (taking, number) = (self.id(to)?, slot.to_string());
        let port = self.nodes[to].port.to_string();
        loop {
            let keys = self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &number, BATCH])?;
            let keys: Vec<&str> = keys.list().iter().map(Reply::text).collect();
            if keys.is_empty() {
                break;
            }
            let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", BATCH_MS_MAX, "KEYS"];
            self.ask(from, &[&migrate, &*keys].concat())?;
        }
        self.ask(to, &["CLUSTER", "SETSLOT", &number, "NODE", &taking])?;
        self.wait_until_told(&taking, slot)
    }

    /// Every node that runs knows the slots of `id` in the version in which it has this slot.
    ///
    /// The next move must not begin before: two nodes that take slots without knowing of each
    /// other choose the same version, and then each can hold the other for a slot's owner for good.
    fn wait_until_told(&self, id: &str, slot: u16) -> Result<(), Error> {
        wait_for(START_MAX, || {
            let mut versions = Vec::new();
            for node in self.nodes.iter().filter(|node| node.runs()) {
                let told = node.ask(&["CLUSTER", "NODES"]).map_err(Waiting::NotYet)?;
                versions.push(version_with(told.text(), id, slot));
            }
            match versions.first() {
                Some(Some(first)) if versions.iter().all(|it| it.as_ref() == Some(first)) => Ok(()),
                _ => Err(Waiting::NotYet(Error::new(format!("slot {slot} is at {versions:?}")))),
            }
        })
    }

    fn running(&self) -> Result<&Node, Error> {
        self.nodes.iter().find(|node| node.runs()).ok_or_else(|| Error::new("no node runs"))
    }

    fn id(&self, node: usize) -> Result<String, Error> {
        Ok(self.ask(node, &["CLUSTER", "MYID"])?.text().to_owned())
    }

    /// Every node sees every other one and every slot served.
    fn wait_until_agreed(&self) -> Result<(), Error> {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        let served = format!("cluster_slots_ok:{SLOTS}");
        let wanted = ["cluster_state:ok", &known, &served];
        for node in &self.nodes {
            wait_for(START_MAX, || {
                let info = node.ask(&["CLUSTER", "INFO"]).map_err(Waiting::NotYet)?;
                let lines: Vec<&str> = info.text().lines().collect();
                match wanted.iter().find(|line| !lines.contains(line)) {
                    None => Ok(()),
                    Some(line) => {
                        let error = format!("node {} does not say `{line}`", node.port);
                        Err(Waiting::NotYet(Error::new(error)))
                    }
                }
            })?;
        }
        Ok(())
    }
}

/// The version (config epoch) of a node's slots in an answer to `CLUSTER NODES`, when this slot is
/// one of them.
fn version_with(nodes: &str, id: &str, slot: u16) -> Option<u64> {
    let line = nodes.lines().find(|line| line.starts_with(id))?;
    let mut fields = line.split(' ').skip(6);
    let version = fields.next()?.parse().ok()?;
    // Behind the link's state: `5461-5956`, `5957`, and `[93-<-id]` for a move under way.
    let holds = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>(), last.parse::<u16>());
        matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    };
    fields.skip(1).any(holds).then_some(version)
}
