//! From a key to its record.

use semel::store::Filter;
use semel::{Inspect, RecordId};

use super::Target;
use crate::failure::Failure;

/// Scopes of one key that are looked at.
const SCOPES_MAX: usize = 100;

/// Every record of the key in the scopes that the target leaves open.
pub(super) async fn all(store: &dyn Inspect, target: &Target) -> Result<Vec<RecordId>, Failure> {
    let filter = Filter {
        state: None,
        key: Some(target.key.clone()),
        tenant: target.tenant.clone(),
        operation: target.operation.clone(),
    };
    let found = store.list(&filter, None, SCOPES_MAX).await?;
    if found.is_empty() {
        return Err(Failure::runtime(format!("there is no record of the key `{}`", target.key))
            .help(
                "it was never used, was released, or its retention is over; `semel records ls`",
            ));
    }
    Ok(found.into_iter().map(|summary| summary.id).collect())
}

/// The only record of the key; several are a question to the caller.
pub(super) async fn one(store: &dyn Inspect, target: &Target) -> Result<RecordId, Failure> {
    let mut found = all(store, target).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        many => {
            let scopes = found.iter().take(10).map(|id| {
                format!("--tenant {} --operation {}", id.tenant.as_str(), id.operation.as_str())
            });
            let scopes: Vec<_> = scopes.collect();
            Err(Failure::usage(format!("{many} scopes have the key `{}`", target.key))
                .help(format!("choose one: {}", scopes.join(" | "))))
        }
    }
}
