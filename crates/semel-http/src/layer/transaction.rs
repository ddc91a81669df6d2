//! Effect and record in one transaction: the handler gets it, the layer ends it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use http::Extensions;
use semel::{BoxFuture, Context, Ending, Error, ErrorKind, Outcome, TransactionalStore};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

/// The transaction in which a handler runs, found in the request's extensions (with axum:
/// `Extension<Tx<SqliteStore>>`).
///
/// Use it for everything that must happen once. It commits together with the record of the
/// request when the handler's answer is one that is stored, and is rolled back otherwise; the
/// handler itself never commits.
pub struct Tx<S: TransactionalStore>(Arc<Mutex<Option<S::Transaction>>>);

/// A transaction while its handler uses it.
pub struct OpenTransaction<'a, S: TransactionalStore>(MappedMutexGuard<'a, S::Transaction>);

impl<S: TransactionalStore> Tx<S> {
    /// The transaction, for one use at a time. Give it back (drop it) before the handler returns.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the handler has returned already.
    pub async fn lock(&self) -> Result<OpenTransaction<'_, S>, Error> {
        let slot = MutexGuard::try_map(self.0.lock().await, Option::as_mut);
        slot.map(OpenTransaction).map_err(|_| {
            let message = "the handler has returned, so its transaction is over; do not keep it";
            Error::new(ErrorKind::Invalid, message)
        })
    }
}

impl<S: TransactionalStore> Clone for Tx<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: TransactionalStore> fmt::Debug for Tx<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tx")
    }
}

impl<S: TransactionalStore> Deref for OpenTransaction<'_, S> {
    type Target = S::Transaction;

    fn deref(&self) -> &S::Transaction {
        &self.0
    }
}

impl<S: TransactionalStore> DerefMut for OpenTransaction<'_, S> {
    fn deref_mut(&mut self) -> &mut S::Transaction {
        &mut self.0
    }
}

impl<S: TransactionalStore> fmt::Debug for OpenTransaction<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenTransaction")
    }
}

/// A [`TransactionalStore`] without its type, so that the layer has no parameter for it.
pub(super) trait Transactions: Send + Sync {
    /// Opens a transaction and puts it into the request's extensions.
    fn begin<'a>(
        &'a self,
        extensions: &'a mut Extensions,
    ) -> BoxFuture<'a, Result<Box<dyn Opened>, Error>>;
}

/// A transaction that a handler has or had.
pub(super) trait Opened: Send {
    /// Completes the record in the transaction and commits both.
    fn commit<'a>(
        self: Box<Self>,
        context: &'a Context,
        outcome: Outcome,
    ) -> BoxFuture<'a, Ending<()>>;

    /// Rolls back. An error leaves open whether that has happened yet.
    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>>;
}

pub(super) struct Joined<S>(pub(super) Arc<S>);

struct Handed<S: TransactionalStore> {
    store: Arc<S>,
    tx: Tx<S>,
}

impl<S: TransactionalStore + 'static> Transactions for Joined<S> {
    fn begin<'a>(
        &'a self,
        extensions: &'a mut Extensions,
    ) -> BoxFuture<'a, Result<Box<dyn Opened>, Error>> {
        Box::pin(async move {
            let transaction = self.0.begin().await?;
            let tx = Tx::<S>(Arc::new(Mutex::new(Some(transaction))));
            extensions.insert(tx.clone());
            let opened: Box<dyn Opened> = Box::new(Handed { store: Arc::clone(&self.0), tx });
            Ok(opened)
        })
    }
}

impl<S: TransactionalStore> Handed<S> {
    /// Takes the transaction back. A handler that left a task behind with it still holds the lock.
    fn take(&self) -> Option<S::Transaction> {
        self.tx.0.try_lock().ok()?.take()
    }
}

const STILL_USED: &str = "the handler returned while something else still used its transaction";

impl<S: TransactionalStore + 'static> Opened for Handed<S> {
    fn commit<'a>(
        self: Box<Self>,
        context: &'a Context,
        outcome: Outcome,
    ) -> BoxFuture<'a, Ending<()>> {
        Box::pin(async move {
            match self.take() {
                Some(transaction) => context.commit(&*self.store, transaction, outcome, ()).await,
                None => Ending::Unknown { detail: STILL_USED.to_owned(), live: () },
            }
        })
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move {
            match self.take() {
                Some(transaction) => self.store.rollback(transaction).await,
                None => Err(Error::new(ErrorKind::Invalid, STILL_USED)),
            }
        })
    }
}
