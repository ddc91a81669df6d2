//! The protocol as a checked model: every interleaving of a few callers, an operator, a sink and
//! the faults between them.
//!
//! The store of the model is not a copy of the protocol: each claim, renewal, completion and
//! release calls [`semel::protocol`], the functions that the real stores run. What is modelled is
//! the world around them: callers that crash or freeze between any two steps, leases that run out
//! whenever they like (so no assumption about clocks is made), effects that are delayed on the
//! network, answers of the store that are lost, and stores that forget.
//!
//! [`table`] turns the verdicts into the guarantee table of `docs/guarantees.md`.

pub mod design;
pub mod document;
pub mod record;
pub mod table;
pub mod verdict;
pub mod world;

pub use design::{Design, Faults, Mistake, Sink};
pub use verdict::{Verdict, judge};
pub use world::{Act, World};
