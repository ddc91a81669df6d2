//! Named points of this door at which tests stop or kill the process; see
//! [`semel::failpoint`].

/// The points of the Kafka door. The classes pass those of them that they have.
pub const POINTS: &[&str] = &[
    "kafka:before_transaction",
    "kafka:after_remember",
    "kafka:after_effect",
    "kafka:before_commit",
    "kafka:after_commit",
    "kafka:after_send",
    "kafka:after_letter",
    "kafka:after_positions",
    "kafka:revoked",
    "kafka:before_position",
    "kafka:after_position",
    "kafka:after_takeover",
    "kafka:before_seal",
    "kafka:after_seal",
    "kafka:after_relay",
];

/// Passes a point.
pub(crate) fn pass(point: &str) {
    debug_assert!(POINTS.contains(&point), "failpoint {point} is not in POINTS");
    semel::failpoint::pass(point);
}
