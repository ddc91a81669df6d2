use std::sync::Arc;
use std::time::Duration;

use semel::{Error, ErrorKind, FingerprintKey, Inspect, MemoryStore, Random, SystemRandom};

/// What the stores on servers have by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To look at what is there, and to decide about it. A store that does not exist is an error;
    /// a Redis that may evict records is none, so that its operator can see what is wrong.
    Operate,
    /// To serve. A SQLite file that does not exist is made.
    Serve,
}

/// A store that was opened by its URL.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Inspect>,
    /// The secret that all processes on this store share, for fingerprints and tenants.
    pub fingerprint_key: FingerprintKey,
    /// The store again, by its kind.
    pub kind: Kind,
}

/// Which store it is, for what only that kind can tell.
#[derive(Debug)]
#[non_exhaustive]
pub enum Kind {
    /// `memory:`
    Memory,
    /// `postgres://…`
    #[cfg(feature = "postgres")]
    Postgres(Arc<crate::postgres::PostgresStore>),
    /// `redis://…` and its relatives
    #[cfg(feature = "redis")]
    Redis(Arc<crate::redis::RedisStore>),
    /// `sqlite:PATH`
    #[cfg(feature = "sqlite")]
    Sqlite(Arc<crate::sqlite::SqliteStore>),
}

/// What a URL names, before anything is opened.
enum Named<'a> {
    Memory,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "redis")]
    Redis,
    #[cfg(feature = "sqlite")]
    Sqlite(&'a str),
    /// Without features nothing borrows from the URL.
    #[expect(dead_code, reason = "it only holds the lifetime")]
    Nothing(std::marker::PhantomData<&'a ()>),
}

/// Says whether a URL can be the store of this build, without opening anything.
///
/// # Errors
/// [`ErrorKind::Invalid`] names what is wrong with it, never its password.
pub fn check(url: &str) -> Result<(), Error> {
    match named(url)? {
        #[cfg(feature = "postgres")]
        Named::Postgres => crate::postgres::check_url(url),
        #[cfg(feature = "redis")]
        Named::Redis => crate::redis::check_url(url),
        _ => Ok(()),
    }
}

/// Opens the store of a URL; the [crate's page](crate) lists the schemes. Stores on a server must
/// be opened inside a tokio runtime.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a URL that this build does not know, and those of the store.
pub async fn open(url: &str, purpose: Purpose) -> Result<Opened, Error> {
    open_with(url, purpose, PATIENCE).await
}

/// As [`open`]; `patience` is how long a store on a server tries an operation again while the
/// server is gone. [`open`] gives it 5 s.
///
/// # Errors
/// As [`open`].
#[cfg_attr(
    not(any(feature = "postgres", feature = "redis")),
    expect(unused_variables, reason = "only servers need patience")
)]
pub async fn open_with(url: &str, purpose: Purpose, patience: Duration) -> Result<Opened, Error> {
    match named(url)? {
        #[cfg(feature = "postgres")]
        Named::Postgres => {
            let options = crate::postgres::PostgresOptions::default().patience(patience);
            let store = Arc::new(options.connect(url).await?);
            let fingerprint_key = FingerprintKey::from_secret(store.secret())?;
            Ok(Opened { store: store.clone(), fingerprint_key, kind: Kind::Postgres(store) })
        }
        #[cfg(feature = "redis")]
        Named::Redis => {
            let is_to_serve = purpose == Purpose::Serve;
            let options = crate::redis::RedisOptions::default().patience(patience);
            let options = options.create(is_to_serve).allow_eviction(!is_to_serve);
            let store = Arc::new(options.connect(url).await?);
            let fingerprint_key = FingerprintKey::from_secret(store.secret())?;
            Ok(Opened { store: store.clone(), fingerprint_key, kind: Kind::Redis(store) })
        }
        #[cfg(feature = "sqlite")]
        Named::Sqlite(path) => {
            let options = crate::sqlite::SqliteOptions::default();
            let store = Arc::new(options.create(purpose == Purpose::Serve).open(path)?);
            let fingerprint_key = FingerprintKey::from_secret(store.secret())?;
            Ok(Opened { store: store.clone(), fingerprint_key, kind: Kind::Sqlite(store) })
        }
        _ => memory(purpose),
    }
}

fn named(url: &str) -> Result<Named<'_>, Error> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Named::Memory),
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => Ok(Named::Postgres),
        #[cfg(feature = "redis")]
        Some((scheme, _)) if scheme.starts_with("redis") || scheme.starts_with("valkey") => {
            Ok(Named::Redis)
        }
        #[cfg(feature = "sqlite")]
        Some(("sqlite", path)) if !path.is_empty() => Ok(Named::Sqlite(path)),
        #[cfg(feature = "sqlite")]
        Some(("sqlite", _)) => {
            Err(invalid("store URL `sqlite:` lacks its path; write `sqlite:semel.db`".to_owned()))
        }
        // Only the scheme is shown: what follows may hold a password.
        Some((scheme, _)) => Err(invalid(format!(
            "store URL scheme `{}:` is not known to this build; use {}",
            scheme.escape_debug(),
            schemes()
        ))),
        None => Err(invalid(format!("the store URL has no scheme; use {}", schemes()))),
    }
}

fn schemes() -> String {
    let known = [
        (cfg!(feature = "sqlite"), "sqlite:PATH"),
        (cfg!(feature = "postgres"), "postgres://…"),
        (cfg!(feature = "redis"), "redis://…"),
    ];
    let known = known.into_iter().filter_map(|(is_here, scheme)| is_here.then_some(scheme));
    known.chain(["or memory:"]).collect::<Vec<_>>().join(", ")
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn memory(purpose: Purpose) -> Result<Opened, Error> {
    if purpose == Purpose::Operate {
        return Err(invalid(
            "`memory:` lives and dies with its process; there is nothing to look at from outside"
                .to_owned(),
        ));
    }
    let mut secret = [0; 32];
    SystemRandom.fill(&mut secret)?;
    let fingerprint_key = FingerprintKey::from_secret(&secret)?;
    Ok(Opened { store: Arc::new(MemoryStore::new()), fingerprint_key, kind: Kind::Memory })
}
