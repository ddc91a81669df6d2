use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use semel::conformance::Harness;
use semel::{BoxFuture, Inspect, Store};
use semel_stores::redis::{RedisOptions, RedisStore};

pub(crate) struct Shifted {
    pub(crate) offset: Arc<AtomicI64>,
    pub(crate) store: Arc<RedisStore>,
}

impl Shifted {
    pub(crate) async fn connect(url: &str, options: RedisOptions) -> Self {
        let offset = Arc::<AtomicI64>::default();
        let store = options.clock_offset(Arc::clone(&offset)).connect(url).await.unwrap();
        Self { offset, store: Arc::new(store) }
    }
}

impl Harness for Shifted {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(self.store.clone())
    }

    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.offset.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
        Box::pin(async {})
    }
}
