//! `Idempotency-Key` for any tower service, and as a reverse proxy: a retried request takes effect
//! once.
//!
//! # What it does
//!
//! 1. A `POST` or `PATCH` with a key is executed once; retries get the first answer again: status,
//!    headers, body bytes and trailers, marked `Idempotent-Replayed: true`. Both carry
//!    `Idempotency-Expires`, when the record ends (an HTTP date).
//! 2. The answer is stored before the client gets it. The service runs in a task of its own: a
//!    client that hangs up, at any byte, does not stop it. A request whose body does not arrive
//!    whole claims nothing.
//! 3. A key belongs to a tenant. Another tenant's key is indistinguishable from an unused one.
//! 4. A key used with another method, path, query, content type or body is refused (`422`), and
//!    that reveals nothing about the first request.
//! 5. A duplicate of a running request is refused with `409` and `Retry-After`, or waits
//!    ([`Wait::UpTo`](semel::Wait::UpTo)).
//! 6. What ends an operation is decided by the answer's status ([`StatusRules`]) unless the service
//!    says it itself with `Semel-Outcome: applied | not-applied | unknown`.
//! 7. A failure that does not tell whether it happened follows the guard's
//!    [`Effect`](semel::Effect) mode: parked, or run again.
//! 8. Fields of one exchange are never stored: hop-by-hop fields, `Set-Cookie`, `Date`, `Age`,
//!    `WWW-Authenticate` and their kind.
//! 9. An answer over the limit passes through and leaves a tombstone: never run again, never
//!    replayed. Event streams always do.
//! 10. Every refusal is a row of one table ([`Refusal`]): an RFC 9457 problem whose `type` leads to
//!     a page that the layer serves itself under [`PROBLEMS_PATH`].
//!
//! How keys are spelled, every setting and what to know about deployment: `docs/http.md`.
//!
//! # A layer over any service
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::Arc;
//!
//! use http::{Request, Response};
//! use semel::{Effect, Guard, MemoryStore, OnUnknown};
//! use semel_http::{Body, IdempotencyLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guard = Guard::builder(Arc::new(MemoryStore::new()))
//!     .operation("create_order")?
//!     .effect(Effect::Foreign(OnUnknown::Hold)) // required: what the service does to the world
//!     .build()?;
//! let layer = IdempotencyLayer::builder(guard)
//!     .tenant_from_header("x-account")? // required, or said aloud: `single_tenant()`
//!     .build()?;
//!
//! let orders = layer.layer(service_fn(|_: Request<Body>| async {
//!     Ok::<_, Infallible>(Response::builder().status(201).body(Body::from("order 1")).unwrap())
//! }));
//! let order = |key: &str, item: &'static str| {
//!     let request = Request::post("/orders").header("x-account", "7");
//!     request.header("idempotency-key", key).body(Body::from(item)).unwrap()
//! };
//!
//! let first = orders.clone().oneshot(order("k-1", "book")).await?;
//! assert_eq!(first.status(), 201);
//! let retry = orders.clone().oneshot(order("\"k-1\"", "book")).await?;
//! assert_eq!(retry.headers()["idempotent-replayed"], "true");
//!
//! // The same key for another order is refused, and the refusal is typed.
//! let reused = orders.clone().oneshot(order("k-1", "pen")).await?;
//! assert_eq!(reused.status(), 422);
//! assert_eq!(reused.extensions().get(), Some(&semel_http::Refusal::KeyReused));
//! # Ok(())
//! # }
//! ```
//!
//! With axum it is one line, `Router::layer(layer)`; see `examples/axum-orders` for a service whose
//! orders and records commit in one transaction ([`LayerBuilder::transactional`], [`Tx`]).
//!
//! # The proxy
//!
//! The feature `proxy` adds [`Proxy`]: the same layer over connections to one upstream, for
//! services in any language. `examples/proxy.rs` of this crate is a whole one; the binary `semel`
//! is the one to run.
//!
//! # Deployment
//!
//! - All processes that share a store share [the secret](LayerBuilder::secret).
//! - Put the layer **inside** of authentication: it must run again before a replay, or a caller
//!   whose access was revoked still gets stored answers.
//! - Put it **outside** of whatever changes the answer by request (compression), so that the
//!   stored bytes are those of the handler; a stored `Content-Encoding` is replayed to everybody.
//! - Browsers see the marks only if CORS exposes `Idempotent-Replayed` and `Idempotency-Expires`.
//! - A server that stops waits for [`IdempotencyLayer::drained`] after its last connection.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod body;
mod duration;
mod event;
mod fingerprint;
mod hop;
mod key;
mod layer;
#[cfg(feature = "proxy")]
pub mod proxy;
mod replay;
mod settings;
mod status;
mod stored;
mod tenant;

pub use answer::{PROBLEMS_PATH, Refusal};
pub use body::Body;
pub use duration::parse_duration;
pub use event::{Answered, Decision, Observer};
pub use key::Spelling;
pub use layer::{
    IdempotencyLayer, IdempotencyService, LayerBuilder, OpenTransaction, ResponseFuture, Scoped,
    Tx, Unscoped,
};
#[cfg(feature = "proxy")]
pub use proxy::Proxy;
pub use settings::{OnMissing, Settings, UnknownPolicy};
pub use status::{Disposition, StatusRules};
pub use stored::StoredResponse;
pub use tenant::TenantOf;
