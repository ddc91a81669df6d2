//! Redis: one server, a cluster, or a pair with sentinels.

mod cluster;
mod node;
mod resp;
mod sentinel;

use std::path::Path;

use super::nest::Nest;
use super::tls::{Tls, value};
use super::{Error, Missing, ports, programs};
use node::Node;

pub use cluster::RedisCluster;
pub use resp::Reply;
pub use sentinel::RedisSentinel;

/// What is not there to start a server in any of its modes.
fn missing() -> Option<Missing> {
    let missing = Missing { program: "redis-server", way: "apt-get install redis-server" };
    programs::find(missing.program).is_none().then_some(missing)
}

/// A Redis server that answers. See [`servers`](super) for what holds for all servers.
#[derive(Debug)]
pub struct Redis {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    node: Node,
    login: Login,
    tls: Option<(u16, Tls)>,
}

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
}

impl Redis {
    /// What is not there to start one.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        missing()
    }

    /// Starts one that writes an append-only file (`appendfsync everysec`) and evicts nothing.
    ///
    /// # Errors
    ///
    /// When it does not answer within a minute; the message holds the end of its log.
    pub fn start() -> Result<Self, Error> {
        Self::with(&[])
    }

    /// Starts one with these settings of `redis.conf` on top.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        Self::launch(settings, Login::default())
    }

    /// Starts one that asks for this password.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_password(password: &str) -> Result<Self, Error> {
        let login = Login { user: String::new(), password: password.to_owned() };
        Self::launch(&[("requirepass", password)], login)
    }

    /// Starts one that only lets this user in, who may do everything to every key.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_user(user: &str, password: &str) -> Result<Self, Error> {
        let rule = format!("{user} on >{password} ~* &* +@all");
        let login = Login { user: user.to_owned(), password: password.to_owned() };
        Self::launch(&[("user", "default off"), ("user", &rule)], login)
    }

    /// Starts one that is reached with TLS. Clients have to trust its
    /// [`root_certificate`](Self::root_certificate) and need no certificate of their own.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_tls() -> Result<Self, Error> {
        let nest = Nest::new("redis")?;
        let tls = Tls::new(&nest)?;
        let port = ports::free()?;
        let number = port.to_string();
        let files = [&tls.root, &tls.certificate, &tls.key].map(|path| value(path));
        // The kit itself keeps a port without TLS, so that it need not speak TLS.
        let settings = [
            ("tls-port", &*number),
            ("tls-auth-clients", "no"),
            ("tls-ca-cert-file", &*files[0]),
            ("tls-cert-file", &*files[1]),
            ("tls-key-file", &*files[2]),
        ];
        let node = Node::with_data(&nest, "server", &settings, &[])?;
        Ok(Self { nest, node, login: Login::default(), tls: Some((port, tls)) })
    }

    fn launch(settings: &[(&str, &str)], login: Login) -> Result<Self, Error> {
        let nest = Nest::new("redis")?;
        let node = Node::with_data(&nest, "server", settings, &login.words())?;
        Ok(Self { nest, node, login, tls: None })
    }

    /// How to reach it, with user and password if it asks for them.
    #[must_use]
    pub fn url(&self) -> String {
        let Login { user, password } = &self.login;
        let login = if password.is_empty() { String::new() } else { format!("{user}:{password}@") };
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{login}127.0.0.1:{}", self.port())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.tls.as_ref().map_or(self.node.port, |(port, _)| *port)
    }

    /// The certificate (PEM) that a client has to trust, if there is TLS.
    #[must_use]
    pub fn root_certificate(&self) -> Option<&Path> {
        self.tls.as_ref().map(|(_, tls)| &*tls.root)
    }

    /// Its append-only file and everything else it keeps.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.node.folder
    }

    /// Sends one command over a connection of its own.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses the command.
    pub fn ask(&self, words: &[&str]) -> Result<Reply, Error> {
        self.node.ask(words)
    }

    /// Crashes it (`SIGKILL`). Nothing happens when it does not run.
    pub fn kill(&mut self) {
        self.node.kill();
    }

    /// Starts it again in the same folder on the same port, and waits until it has loaded its
    /// file.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.node.run(&self.nest)
    }

    /// Stops it where it is; its connections stay open.
    pub fn freeze(&self) {
        self.node.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.node.thaw();
    }
}

impl Login {
    /// The words after `AUTH`; none when everybody may come in.
    fn words(&self) -> Vec<&str> {
        [&*self.user, &*self.password].into_iter().filter(|word| !word.is_empty()).collect()
    }
}
