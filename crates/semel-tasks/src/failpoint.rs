//! Named points of this door at which tests stop or kill the process; see
//! [`semel::failpoint`].

/// The points of the task door.
pub const POINTS: &[&str] = &[
    "tasks:before_step",
    "tasks:after_effect",
    "tasks:after_step",
    "tasks:refused",
    "tasks:after_refusal",
    "tasks:before_undo",
    "tasks:after_undo",
    "tasks:before_end",
];

/// Passes a point.
pub(crate) fn pass(point: &str) {
    debug_assert!(POINTS.contains(&point), "failpoint {point} is not in POINTS");
    semel::failpoint::pass(point);
}
