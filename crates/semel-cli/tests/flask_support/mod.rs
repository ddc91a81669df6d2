//! What the storms need: a client that sends many requests at one moment, and the processes.

mod client;
mod processes;
mod program;
mod redis;

pub(crate) use client::{Answer, storm};
pub(crate) use processes::{Gunicorn, Model, Proxies};
pub(crate) use redis::Redis;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set; run this with `cargo xtask test --only flask-storm`")
    })
}
