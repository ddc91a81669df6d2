//! The connections to the upstream.
//!
//! Written on hyper's connection type instead of its pooled client, for two reasons. The proxy has
//! to know *for certain* whether a request was sent: [`try_send_request`] gives the request back if
//! and only if not one byte of it was written, and nothing here ever sends a request twice that was
//! not given back. And a connection is driven by the task of the request that uses it, without a
//! task of its own, which saves two wake-ups between threads for every request.
//!
//! [`try_send_request`]: hyper::client::conn::http1::SendRequest::try_send_request

mod body;
mod connection;
mod exchange;
mod pool;
pub(super) mod tunnel;

pub(crate) use self::body::{Received, Relayed};
pub(super) use self::exchange::exchange;
pub(super) use self::pool::Pool;
