//! Named points in the code where a test can stop, kill or break the process.
//!
//! Without the feature `failpoints` a point compiles to nothing.

/// The points of the engine, in the order in which an operation passes them. A test walks this
/// list, so a point that is missing here is a point that is not tested.
pub const POINTS: &[&str] = &[
    "before_claim",
    "after_claim",
    "before_effect",
    "after_effect",
    "during_heartbeat",
    "before_complete",
    "after_complete",
    "in_tx_before_commit",
    "after_commit",
    "before_answer",
];

#[cfg(feature = "failpoints")]
static HOOK: std::sync::OnceLock<fn(&str)> = std::sync::OnceLock::new();

/// Installs what happens at a point; the first call of the process wins.
#[cfg(feature = "failpoints")]
pub fn install(hook: fn(&str)) {
    let _: &fn(&str) = HOOK.get_or_init(|| hook);
}

/// Passes a point. A door names its own points `door:point` and lists them itself.
#[cfg(feature = "failpoints")]
pub fn pass(point: &str) {
    let is_listed = POINTS.contains(&point) || point.contains(':');
    debug_assert!(is_listed, "failpoint {point} is not in POINTS");
    if let Some(hook) = HOOK.get() {
        hook(point);
    }
}

/// Passes a point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_point: &str) {}
