//! Completion inside the transaction of a driver that is not Rust's.

use semel::Error;
use semel::store::Completion;

use super::PostgresStore;
use super::single::Finish;

/// A completion as one statement, for a transaction that another driver or language has open on the
/// store's database. See [`PostgresStore::completion_statement`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompletionStatement {
    /// The statement, with `$1` to `$8` in it. It gives one row, when the record expires
    /// (milliseconds since 1970), or none: then the claim is lost, and the transaction must be
    /// rolled back.
    pub sql: String,
    /// `$1` to `$3`: key, tenant and operation, each a text.
    pub names: [String; 3],
    /// `$4`, a bigint.
    pub counter: i64,
    /// `$5`, a bytea.
    pub nonce: Vec<u8>,
    /// `$6`, a bigint.
    pub retention: i64,
    /// `$7`, a bytea. `$8` is a text, and NULL.
    pub outcome: Vec<u8>,
}

impl PostgresStore {
    /// [`complete_in`](Self::complete_in) for a driver of another language: the statement to run in
    /// the transaction that holds the effect. Run it last, and commit to keep both.
    ///
    /// # Errors
    /// Those of every method of the store: where the record will be kept is provided for here.
    pub async fn completion_statement(
        &self,
        completion: &Completion,
    ) -> Result<CompletionStatement, Error> {
        let link = &*self.link;
        link.patiently(false, || link.provide(completion.retention)).await?;
        let finish = Finish::of(completion, None);
        Ok(CompletionStatement {
            sql: link.schema.finish.clone(),
            names: finish.names().map(str::to_owned),
            counter: finish.counter,
            nonce: finish.nonce.to_owned(),
            retention: finish.retention,
            outcome: finish.outcome,
        })
    }
}
