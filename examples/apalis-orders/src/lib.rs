//! Orders that are charged by a worker of apalis: once, however often a task is put in, delivered
//! or taken from a worker that was thought dead.

use std::sync::{Arc, Mutex, PoisonError};

use apalis_core::task::data::Data;
use semel::{Effect, Error, Failure, FingerprintKey, Guard, Key, Store};
use semel_tasks::apalis::{GuardLayer, KeyOf};
use semel_tasks::{Task, TaskGuard};
use serde::{Deserialize, Serialize};

/// The arguments of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The business key: two tasks for one order are one charge.
    pub id: u32,
    /// What is bought.
    pub item: String,
}

/// Stands for a payment provider. It remembers under which keys it was called, and a real one
/// charges once for each of them.
#[derive(Clone, Debug, Default)]
pub struct Payments(Arc<Mutex<Vec<String>>>);

impl Payments {
    async fn charge(&self, key: &Key, item: &str) -> Result<String, Failure> {
        if item == "unicorn" {
            // Stored, and the answer to everybody who asks for this order again.
            return Err(Failure::final_answer(&"there are no unicorns"));
        }
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(key.as_str().to_owned());
        Ok(format!("receipt for a {item}"))
    }

    /// The keys of all calls.
    pub fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The handler: nothing in it knows of deliveries.
pub async fn charge(order: Order, task: Task, payments: Data<Payments>) -> Result<String, Failure> {
    // The same key in every attempt, so a crash right after the call is no second charge.
    payments.charge(&task.step_key("charge"), &order.item).await
}

/// The layer that makes it once.
pub fn once(store: Arc<dyn Store>, secret: &[u8]) -> Result<GuardLayer<impl KeyOf<Order>>, Error> {
    let guard = Guard::builder(store).operation("charge-order")?.effect(Effect::Keyed).build()?;
    let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(secret)?);
    Ok(GuardLayer::new(tasks).with_key(|task: &apalis_core::task::Task<Order>| {
        Key::parse(&format!("order-{}", task.args.id))
    }))
}
