//! An order of three steps in a shop's own SQLite file: reserve, charge, ship. To Atlantis nobody
//! ships, so the money goes back and the book as well; once each, whenever the program is killed.
//!
//! ```console
//! $ cargo run -p order-saga -- shop.db order-17 book Atlantis
//! refused at ship ("nobody ships to Atlantis"), undone: charge, reserve
//! $ cargo run -p order-saga -- shop.db order-18 book Berlin
//! shipped to Berlin
//! ```
//!
//! Run a line again, or kill it and run it again: the answer stays, and the table `journal` has
//! every line once.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use semel::{BoxFuture, Effect, ErrorKind, Failure, FingerprintKey, Guard, Key};
use semel_stores::sqlite::{SqliteStore, SqliteTransaction};
use semel_tasks::{Compensated, Part, Saga, TaskGuard};
use serde::Serialize;

#[derive(Serialize)]
struct Order {
    item: String,
    city: String,
}

/// One line in the journal, in the transaction that also stores the step's result.
fn book<'t>(
    transaction: &'t mut SqliteTransaction,
    line: String,
) -> BoxFuture<'t, Result<(), Failure>> {
    Box::pin(async move {
        let insert = move |shop: &rusqlite::Connection| {
            shop.execute("INSERT INTO journal (line) VALUES (?1)", [line])
        };
        transaction.with(insert).await?;
        Ok(())
    })
}

/// Stands for a carrier, somewhere on the network, that deduplicates on the key it is given.
async fn ship(order: Part<Order>) -> Result<String, Failure> {
    let (city, _key) = (&order.input().city, order.step_key());
    match &**city {
        "Atlantis" => Err(Failure::final_answer(&format!("nobody ships to {city}"))),
        city => Ok(format!("shipped to {city}")),
    }
}

fn order(store: &Arc<SqliteStore>) -> Result<Saga<Order>, semel::Error> {
    Saga::builder()
        .step_in(Arc::clone(store), "reserve", |order: Part<Order>, shop| {
            book(shop, format!("reserve {}", order.input().item))
        })
        .undo_in(Arc::clone(store), |order, shop| {
            book(shop, format!("put back {}", order.input().item))
        })
        .step_in(Arc::clone(store), "charge", |_, shop| book(shop, "charge 12 EUR".to_owned()))
        .undo_in(Arc::clone(store), |_, shop| book(shop, "refund 12 EUR".to_owned()))
        .step("ship", ship)
        .build()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, key, item, city] = &words[..] else {
        return Err("usage: order-saga DB KEY ITEM CITY".into());
    };
    let shop = rusqlite::Connection::open(path)?;
    shop.execute_batch("CREATE TABLE IF NOT EXISTS journal (line TEXT NOT NULL)")?;
    let store = Arc::new(SqliteStore::open(path)?);
    let guard = Guard::builder(store.clone()).operation("order")?.effect(Effect::Keyed).build()?;
    let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(store.secret())?);

    let input = Order { item: item.clone(), city: city.clone() };
    let shipped = async |order: Part<Order>| order.result::<String>("ship");
    let said = match tasks.run_saga(&Key::parse(key)?, input, &order(&store)?, shipped).await {
        Ok(answer) => answer.value,
        Err(error) if error.kind() == ErrorKind::Refused => {
            let Compensated { refused, refusal, undone } = Compensated::of(&error)?;
            format!("refused at {refused} ({refusal}), undone: {}", undone.join(", "))
        }
        Err(error) => return Err(error.into()),
    };
    writeln!(std::io::stdout(), "{said}")?;
    Ok(())
}
