use std::sync::Arc;

use semel::{Error, ErrorKind, FingerprintKey, Inspect, MemoryStore, Random, SystemRandom};

/// Why a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To look at what is there, and to decide about it. A store that does not exist is an error.
    Operate,
    /// To serve. A store that does not exist is made.
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
    /// The store again, if it is a SQLite file.
    #[cfg(feature = "sqlite")]
    pub sqlite: Option<Arc<crate::sqlite::SqliteStore>>,
}

/// Opens the store of a URL: `memory:` or `sqlite:PATH`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a URL that this build does not know, and those of the store.
pub fn open(url: &str, purpose: Purpose) -> Result<Opened, Error> {
    match url.split_once(':') {
        Some(("memory", "")) => memory(purpose),
        #[cfg(feature = "sqlite")]
        Some(("sqlite", path)) if !path.is_empty() => sqlite(path, purpose),
        #[cfg(feature = "sqlite")]
        Some(("sqlite", _)) => {
            invalid("store URL `sqlite:` lacks its path; write `sqlite:semel.db`".to_owned())
        }
        // Only the scheme is shown: what follows may hold a password.
        Some((scheme, _)) => invalid(format!(
            "store URL scheme `{scheme}:` is not known to this build; use sqlite:PATH or memory:"
        )),
        None => invalid("the store URL has no scheme; write `sqlite:semel.db` or `memory:`".into()),
    }
}

fn invalid(message: String) -> Result<Opened, Error> {
    Err(Error::new(ErrorKind::Invalid, message))
}

fn memory(purpose: Purpose) -> Result<Opened, Error> {
    if purpose == Purpose::Operate {
        return invalid(
            "`memory:` lives and dies with its process; there is nothing to look at from outside"
                .to_owned(),
        );
    }
    let mut secret = [0; 32];
    SystemRandom.fill(&mut secret)?;
    let fingerprint_key = FingerprintKey::from_secret(&secret)?;
    let store = Arc::new(MemoryStore::new());
    Ok(Opened {
        store,
        fingerprint_key,
        #[cfg(feature = "sqlite")]
        sqlite: None,
    })
}

#[cfg(feature = "sqlite")]
fn sqlite(path: &str, purpose: Purpose) -> Result<Opened, Error> {
    use crate::sqlite::SqliteOptions;

    let options = SqliteOptions::default().create(purpose == Purpose::Serve);
    let store = Arc::new(options.open(path)?);
    let fingerprint_key = FingerprintKey::from_secret(store.secret())?;
    Ok(Opened { store: store.clone(), fingerprint_key, sqlite: Some(store) })
}
