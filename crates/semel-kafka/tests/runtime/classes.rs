//! The three classes behind one face, for what must hold in each.

use std::sync::{Arc, Mutex};

use semel::{Effect, Error, Failure, Guard};
use semel_kafka::log::{Outgoing, Record};
use semel_kafka::{ConsumerOptions, Failed, Identity, TestLog, Transform};

use super::guarded::{guard, guarded};
use super::inbox::{Place, insert};
use super::support::number;

/// Whether a handler fails for now.
pub(crate) type Fails = Arc<dyn Fn(&Record) -> bool + Send + Sync>;

#[derive(Clone)]
pub(crate) enum Class {
    Inbox(Arc<Place>),
    Transform,
    Guarded(Guard, Arc<Mutex<Vec<u32>>>),
}

impl Class {
    pub(crate) fn all() -> [Self; 3] {
        let inbox = Self::Inbox(Arc::new(Place::new()));
        [inbox, Self::Transform, Self::Guarded(guard(Effect::Keyed), Arc::default())]
    }

    /// A member that notes the number of each record as its effect.
    pub(crate) async fn run(
        &self,
        log: &TestLog,
        member: &str,
        options: ConsumerOptions,
        fails: Fails,
        until: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        match self {
            Self::Inbox(place) => {
                let inbox = place.inbox(log, options);
                let handler = move |record: &Record, _: &mut _| fails(record);
                let handler = Inserting(handler);
                inbox.run_with(handler, until).await
            }
            Self::Transform => {
                let shared = Arc::new(log.clone());
                let identity = Identity::header("id");
                let transform = Transform::new(shared, member, identity, options).unwrap();
                let handler = move |record: Arc<Record>| {
                    let fails = fails(&record);
                    async move {
                        if fails {
                            return Err(Failed::retry("not now"));
                        }
                        let Record { key, value, .. } = (*record).clone();
                        Ok(vec![Outgoing { key, value, ..Outgoing::to("out") }])
                    }
                };
                transform.run(handler, until).await
            }
            Self::Guarded(guard, effects) => {
                let effects = Arc::clone(effects);
                let handler = move |record: Arc<Record>, _| {
                    let (effects, fails) = (Arc::clone(&effects), fails(&record));
                    async move {
                        tokio::task::yield_now().await;
                        if fails {
                            return Err(Failure::not_applied("not now"));
                        }
                        effects.lock().unwrap().push(number(&record));
                        Ok(())
                    }
                };
                guarded(log, guard, options).run(handler, until).await
            }
        }
    }

    /// The effects; those of one key in the order in which they took place.
    pub(crate) fn effects(&self, log: &TestLog) -> Vec<u32> {
        match self {
            Self::Inbox(place) => place.effects(),
            Self::Transform => log.topic_records("out").iter().map(number).collect(),
            Self::Guarded(_, effects) => effects.lock().unwrap().clone(),
        }
    }

    /// Waits until there are so many effects.
    pub(crate) async fn until(&self, log: &TestLog, count: usize) {
        while self.effects(log).len() < count {
            tokio::task::yield_now().await;
        }
    }
}

struct Inserting<F>(F);

impl<F> semel_kafka::InboxHandler<semel_kafka::SqliteTransaction> for Inserting<F>
where
    F: Fn(&Record, &mut semel_kafka::SqliteTransaction) -> bool + Send + Sync,
{
    fn handle<'a>(
        &'a self,
        record: &'a Record,
        transaction: &'a mut semel_kafka::SqliteTransaction,
    ) -> semel::BoxFuture<'a, Result<(), Failed>> {
        let fails = (self.0)(record, transaction);
        Box::pin(async move {
            insert(record, transaction).await?;
            if fails { Err(Failed::retry("not now")) } else { Ok(()) }
        })
    }
}
