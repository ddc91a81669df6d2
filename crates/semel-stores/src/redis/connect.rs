//! How a connection is made: to one server, through Sentinel, or to a cluster.

use std::sync::Once;

use futures_util::future::join_all;
use redis::cluster::ClusterClient;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsCertificates,
};
use semel::{Error, ErrorKind};

use super::address::{Address, Kind, Login};
use super::facts;
use super::fault::Fault;
use super::link::Wire;
use super::options::RedisOptions;

/// Knows the way to the server and the time-outs on it.
#[derive(Debug)]
pub(super) struct Connector {
    address: Address,
    certificates: Option<TlsCertificates>,
    config: Config,
}

#[derive(Clone, Copy, Debug)]
struct Config {
    connect_timeout: std::time::Duration,
    response_timeout: std::time::Duration,
    batches_in_flight: usize,
}

impl Connector {
    /// # Errors
    /// [`ErrorKind::Invalid`] when the certificate authority cannot be read.
    pub(super) fn new(address: Address, options: &RedisOptions) -> Result<Self, Error> {
        let mut certificates = None;
        if let Some(tls) = &address.tls {
            ready_for_tls();
            if let Some(path) = &tls.ca {
                let root_cert = std::fs::read(path).map_err(|error| {
                    let message = format!(
                        "the certificate authority {} cannot be read: {error}",
                        path.display()
                    );
                    Error::new(ErrorKind::Invalid, message)
                })?;
                certificates =
                    Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) });
            }
        }
        let config = Config {
            connect_timeout: options.connect_timeout,
            response_timeout: options.response_timeout,
            batches_in_flight: options.batches_in_flight,
        };
        Ok(Self { address, certificates, config })
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.address.kind == Kind::Cluster
    }

    pub(super) async fn connect(&self) -> Result<Wire, Fault> {
        match &self.address.kind {
            Kind::Cluster => self.cluster().await,
            Kind::Sentinel { .. } | Kind::Single => {
                let client = self.client().await?;
                let connection = client
                    .get_multiplexed_async_connection_with_config(&self.config())
                    .await
                    .map_err(|error| self.unconnected(&error))?;
                Ok(Wire::Single(connection))
            }
        }
    }

    async fn client(&self) -> Result<Client, Fault> {
        let Address { hosts, login, database, .. } = &self.address;
        if let Kind::Sentinel { master, login: of_sentinel } = &self.address.kind {
            let (host, port) = self.ask_sentinels(master, of_sentinel).await?;
            return self.client_of(&host, port, login, *database);
        }
        let (host, port) = hosts.first().ok_or_else(no_host)?;
        self.client_of(host, *port, login, *database)
    }

    /// Clients for a connection that listens, to try one after the other.
    pub(super) async fn listening_clients(&self) -> Result<Vec<Client>, Fault> {
        if !self.is_cluster() {
            return Ok(vec![self.client().await?]);
        }
        let Address { hosts, login, .. } = &self.address;
        hosts.iter().map(|(host, port)| self.client_of(host, *port, login, 0)).collect()
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout))
            // Calls queue up in front of the connection, where they become batches, not in it.
            .set_pipeline_buffer_size(self.config.batches_in_flight.max(8) * 8)
    }

    /// Where the server is now. Each Sentinel may be gone or behind; the first that knows decides,
    /// and whether it is right shows when the server is asked for its role.
    async fn ask_sentinels(&self, master: &str, login: &Login) -> Result<(String, u16), Fault> {
        let mut last = no_host();
        for (host, port) in &self.address.hosts {
            match self.ask_sentinel(host, *port, master, login).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {
                    let what = format!("Sentinel {host}:{port} does not know `{master}`");
                    last = Fault::unreachable(what);
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn ask_sentinel(
        &self,
        host: &str,
        port: u16,
        master: &str,
        login: &Login,
    ) -> Result<Option<(String, u16)>, Fault> {
        let client = self.client_of(host, port, login, 0)?;
        let config = self.config();
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(|error| self.unconnected(&error))?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(master);
        question.query_async(&mut connection).await.map_err(|error| self.unconnected(&error))
    }

    async fn cluster(&self) -> Result<Wire, Fault> {
        let nodes = self.address.hosts.iter();
        let nodes: Vec<_> = nodes
            .map(|(host, port)| self.info(host, *port, &self.address.login, 0))
            .collect::<Result<_, _>>()?;
        let mut builder = ClusterClient::builder(nodes)
            .connection_timeout(self.config.connect_timeout)
            .response_timeout(self.config.response_timeout)
            // Redirections are followed there; whatever takes longer is tried again here.
            .retries(3)
            .min_retry_wait(10)
            .max_retry_wait(100);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        let client = builder.build().map_err(|error| misconfigured(&error))?;
        match client.get_async_connection().await {
            Ok(connection) => Ok(Wire::Cluster(connection)),
            Err(error) => Err(self.no_cluster().await.unwrap_or_else(|| self.unconnected(&error))),
        }
    }

    /// Why there is no connection to a cluster, where one of the hosts is none.
    async fn no_cluster(&self) -> Option<Fault> {
        let hosts = self.address.hosts.iter();
        let asked = hosts.map(async |(host, port)| {
            let client = self.client_of(host, *port, &self.address.login, 0).ok()?;
            let connection =
                client.get_multiplexed_async_connection_with_config(&self.config()).await.ok()?;
            facts::is_no_cluster(connection).await.then_some((host, port))
        });
        let (host, port) = join_all(asked).await.into_iter().flatten().next()?;
        let what = format!("{host}:{port} is in no cluster; write redis://{host}:{port}");
        Some(Fault::lasting(ErrorKind::Settings, what))
    }

    /// Why no connection could be made. Nothing that matters was sent yet.
    fn unconnected(&self, error: &RedisError) -> Fault {
        let fault = Fault::of(error).of_a_question();
        let said = error.to_string();
        let is_garbled = error.kind() == redis::ErrorKind::Parse
            || ["Parse error", "corrupt message"].iter().any(|word| said.contains(word));
        let is_cut =
            error.is_timeout() || error.is_connection_dropped() || said.contains("timed out");
        match &self.address.tls {
            _ if said.contains("unknown command 'SENTINEL'") => {
                fault.hint("it is no Sentinel; write redis:// for a server without Sentinels")
            }
            _ if said.contains("Connection refused") => fault.hint(REFUSED),
            Some(_) if is_garbled || is_cut => {
                fault.hint("if the port does not speak TLS, write redis instead of rediss")
            }
            None if is_garbled => fault.hint(
                "what answers there is no Redis, or it speaks TLS, which is rediss instead of \
                 redis; is the port right?",
            ),
            None if error.is_connection_dropped() => {
                fault.hint("if the port speaks TLS, write rediss instead of redis")
            }
            _ => fault,
        }
    }

    fn client_of(
        &self,
        host: &str,
        port: u16,
        login: &Login,
        database: i64,
    ) -> Result<Client, Fault> {
        let info = self.info(host, port, login, database)?;
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
        .map_err(|error| misconfigured(&error))
    }

    fn info(
        &self,
        host: &str,
        port: u16,
        login: &Login,
        database: i64,
    ) -> Result<ConnectionInfo, Fault> {
        let host = host.to_owned();
        let address = match &self.address.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(tls) => {
                let insecure = tls.insecure;
                ConnectionAddr::TcpTls { host, port, insecure, tls_params: None }
            }
        };
        let info = address.into_connection_info().map_err(|error| misconfigured(&error))?;
        let mut settings = RedisConnectionInfo::default()
            .set_db(database)
            .set_lib_name("semel", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
    }
}

/// redis-rs takes the process's provider of cryptography and panics when there is none.
fn ready_for_tls() {
    static READY: Once = Once::new();
    READY.call_once(|| {
        // An application that has chosen one keeps it.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

/// The way out where nobody listens.
const REFUSED: &str = "is it running, and is the port right?";

fn misconfigured(error: &RedisError) -> Fault {
    Fault::lasting(ErrorKind::Invalid, format!("its settings are refused: {error}"))
}

fn no_host() -> Fault {
    Fault::lasting(ErrorKind::Invalid, "the store URL names no host")
}
