//! Whom a group has for members.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use semel_kafka::GroupProtocol;

use super::wire;

const CONSUMER_GROUP_DESCRIBE: u16 = 69;

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Somebody outside of a group who asks about it.
pub(crate) enum Asker {
    Classic(BaseConsumer),
    /// librdkafka does not know how to ask; a lone broker answers for all groups.
    Consumer(String),
}

impl Asker {
    pub(crate) fn new(bootstrap: &str, protocol: GroupProtocol) -> Self {
        if protocol == GroupProtocol::Consumer {
            return Self::Consumer(bootstrap.to_owned());
        }
        let client = ClientConfig::new().set("bootstrap.servers", bootstrap).create();
        Self::Classic(client.unwrap())
    }

    /// Whether a client is in a group. `None` when the group is unknown or nobody can be asked.
    pub(crate) fn has(&self, group: &str, client: &str) -> Option<bool> {
        match self {
            Self::Classic(asker) => {
                let groups = asker.fetch_group_list(Some(group), ANSWER_MAX).ok()?;
                let found = groups.groups().iter().find(|it| it.name() == group)?;
                Some(found.members().iter().any(|member| member.client_id() == client))
            }
            Self::Consumer(broker) => describe(broker, group, client),
        }
    }
}

/// What a group of the classic protocol says of itself, for whoever waits in vain.
pub(crate) fn tell(bootstrap: &str, group: &str) -> String {
    let asker = ClientConfig::new().set("bootstrap.servers", bootstrap).create();
    let asker: BaseConsumer = asker.unwrap();
    let Ok(groups) = asker.fetch_group_list(Some(group), ANSWER_MAX) else { return String::new() };
    let Some(found) = groups.groups().iter().find(|it| it.name() == group) else {
        return String::new();
    };
    let mut told = format!("; the group is {}", found.state());
    for member in found.members() {
        let has = String::from_utf8_lossy(member.assignment().unwrap_or_default());
        write!(told, ", {} has {}", member.client_id(), has.escape_debug()).unwrap();
    }
    told
}

fn describe(broker: &str, group: &str, client: &str) -> Option<bool> {
    let mut broker = TcpStream::connect(broker).ok()?;
    broker.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    broker.write_all(&question(group)).ok()?;
    let answer = wire::frame(&mut broker)?;
    // Behind its length, the number, a byte without meaning, how long to hold back, and how many
    // groups there are, comes what went wrong with the first one.
    let is_told = answer.get(14..16)? == [0, 0];
    is_told.then(|| wire::names(&answer, client))
}

/// Version 0, without a name of our own, for one group and without its rights.
fn question(group: &str) -> Vec<u8> {
    let length = u8::try_from(group.len() + 1).unwrap();
    let words = [
        &CONSUMER_GROUP_DESCRIBE.to_be_bytes()[..],
        &[0, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        &[2, length],
        group.as_bytes(),
        &[0, 0],
    ]
    .concat();
    [&u32::try_from(words.len()).unwrap().to_be_bytes()[..], &words].concat()
}
