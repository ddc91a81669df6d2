//! Brokers that make one cluster, be it of one.

use super::super::nest::Nest;
use super::super::{PORTS_TRIED_MAX, ports};
use super::java::Java;
use super::metadata::Metadata;
use super::node::{Node, Place};
use super::{Error, START_MAX, Waiting, wait_for};

/// How Java says that a port is not free.
const PORT_IS_TAKEN: &str = "Address already in use";

#[derive(Debug)]
pub(super) struct Brokers {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    java: Java,
    nodes: Vec<Node>,
}

impl Brokers {
    /// Starts so many with these settings on top, and waits until they agree.
    pub(super) fn start(
        java: &Java,
        count: usize,
        settings: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let mut last = Error::new("no port was tried");
        for _ in 0..PORTS_TRIED_MAX {
            match Self::on_free_ports(java, count, settings) {
                Err(error) if error.to_string().contains(PORT_IS_TAKEN) => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    fn on_free_ports(java: &Java, count: usize, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let nest = Nest::new("kafka")?;
        let ports = free_ports(2 * count)?;
        let (client_ports, controller_ports) = ports.split_at(count);
        let voters: Vec<String> = (controller_ports.iter().enumerate())
            .map(|(id, port)| format!("{id}@127.0.0.1:{port}"))
            .collect();
        let voters = voters.join(",");
        let mut nodes = Vec::new();
        for (id, (port, controller_port)) in client_ports.iter().zip(controller_ports).enumerate() {
            let (port, controller_port) = (*port, *controller_port);
            let place = Place { id, port, controller_port, voters: &voters };
            nodes.push(Node::new(&nest, java, settings, place)?);
        }
        // All at once, here and below: most of the time goes by in the starts of JVMs.
        let tools: Vec<_> =
            nodes.iter().map(|node| node.format(&nest, java)).collect::<Result<_, _>>()?;
        for (node, tool) in nodes.iter().zip(tools) {
            node.wait_until_formatted(tool)?;
        }
        let mut brokers = Self { nest, java: java.clone(), nodes };
        for node in &mut brokers.nodes {
            node.spawn(&brokers.nest, &brokers.java)?;
        }
        brokers.wait_until_ready()?;
        Ok(brokers)
    }

    pub(super) fn bootstrap(&self) -> String {
        self.addresses().join(",")
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    pub(super) fn kill(&mut self, broker: usize) {
        self.nodes[broker].kill();
    }

    pub(super) fn start_again(&mut self, broker: usize) -> Result<(), Error> {
        self.nodes[broker].spawn(&self.nest, &self.java)?;
        let running = self.nodes.iter().filter(|node| node.runs()).count();
        // Half of them or fewer cannot choose a controller, and without one nobody answers.
        if 2 * running <= self.nodes.len() {
            return Ok(());
        }
        self.wait_until_ready()
    }

    pub(super) fn freeze(&self, broker: usize) {
        self.nodes[broker].freeze();
    }

    pub(super) fn thaw(&self, broker: usize) {
        self.nodes[broker].thaw();
    }

    /// Lets all of them end in order.
    pub(super) fn end(mut self) -> Result<(), Error> {
        self.nodes.iter_mut().try_for_each(Node::end)
    }

    /// The broker that leads a partition, as the first one that runs says.
    pub(super) fn leader(&self, topic: &str, partition: u32) -> Result<usize, Error> {
        let running = self.nodes.iter().find(|node| node.runs());
        let told = running.ok_or_else(|| Error::new("no broker runs"))?.ask()?;
        let is_it = |it: &&super::metadata::Partition| it.topic == topic && it.number == partition;
        let leader = told.partitions.iter().find(is_it).and_then(|it| it.leader);
        leader.ok_or_else(|| Error::new(format!("no broker leads {topic}-{partition}")))
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        self.nodes.iter_mut().try_for_each(Node::wait_until_ready)?;
        if self.nodes.iter().all(Node::runs) { self.wait_until_agreed() } else { Ok(()) }
    }

    /// Every broker that runs knows every other one. When none is down, all partitions have their
    /// leader and all their replicas as well.
    fn wait_until_agreed(&self) -> Result<(), Error> {
        self.wait_until(|told| self.is_lacking(told))
    }

    /// Every broker that runs knows the topic, and they agree: the tool that made it asks no more
    /// than that the controller has.
    pub(super) fn wait_for_topic(&self, name: &str, partitions: u32) -> Result<(), Error> {
        self.wait_until(|told| {
            let known = told.partitions.iter().filter(|it| it.topic == name).count();
            match u32::try_from(known) {
                Ok(known) if known == partitions => self.is_lacking(told),
                _ => Some(format!("{known} partitions of {name} are there")),
            }
        })
    }

    /// Waits until nothing is lacking from what every broker that runs says.
    fn wait_until(&self, lack: impl Fn(&Metadata) -> Option<String>) -> Result<(), Error> {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            wait_for(START_MAX, || {
                let told = node.ask().map_err(Waiting::NotYet)?;
                match lack(&told) {
                    None => Ok(()),
                    Some(lack) => {
                        let error = format!("broker {} says that {lack}", node.address());
                        Err(Waiting::NotYet(Error::new(error)))
                    }
                }
            })?;
        }
        Ok(())
    }

    fn is_lacking(&self, told: &Metadata) -> Option<String> {
        let mut running = (0..self.nodes.len()).filter(|id| self.nodes[*id].runs());
        if let Some(id) = running.find(|id| !told.brokers.contains(id)) {
            return Some(format!("broker {id} is not there"));
        }
        if !self.nodes.iter().all(Node::runs) {
            return None;
        }
        let lacking = told.partitions.iter().find(|it| it.leader.is_none() || !it.is_in_sync)?;
        Some(format!("{}-{} lacks a replica", lacking.topic, lacking.number))
    }
}

/// Ports that differ.
fn free_ports(count: usize) -> Result<Vec<u16>, Error> {
    let mut found = Vec::new();
    while found.len() < count {
        let port = ports::free()?;
        if !found.contains(&port) {
            found.push(port);
        }
    }
    Ok(found)
}
