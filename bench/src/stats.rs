//! Figures from several runs.

use crate::Verdict;
use crate::extent::Extent;

/// What a ratio has to keep.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// The middle value; the mean of the two middle ones when there is an even number.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// The smallest and the largest value.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    (min, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Prints the ratio beside its bar and says whether it was met, unless the extent judges nothing.
pub(crate) fn judge(what: &str, ratio: f64, bar: Bar, extent: Extent) -> Verdict {
    let (is_met, bar) = match bar {
        Bar::AtLeast(bar) => (ratio >= bar, format!("≥ {bar}")),
        Bar::AtMost(bar) => (ratio <= bar, format!("≤ {bar}")),
    };
    let word = match (extent.is_judged, is_met) {
        (false, _) => "not judged",
        (true, true) => "met",
        (true, false) => "MISSED",
    };
    println!("{what}: {ratio:.2} (bar {bar}: {word})");
    if is_met || !extent.is_judged { Verdict::Met } else { Verdict::Missed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_care_about_one_bad_run() {
        assert!((median(&[3.0, 1.0, 900.0]) - 3.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        assert_eq!(range(&[2.0, 1.0]), (1.0, 2.0));
    }

    #[test]
    fn a_bar_is_missed_beyond_it_and_never_by_a_run_that_judges_nothing() {
        let full = |ratio, bar| judge("x", ratio, bar, Extent::FULL);
        assert_eq!(full(1.35, Bar::AtMost(1.35)), Verdict::Met);
        assert_eq!(full(1.36, Bar::AtMost(1.35)), Verdict::Missed);
        assert_eq!(full(4.9, Bar::AtLeast(5.0)), Verdict::Missed);
        assert_eq!(full(f64::NAN, Bar::AtLeast(5.0)), Verdict::Missed);
        assert_eq!(judge("x", 9.0, Bar::AtMost(1.35), Extent::SMOKE), Verdict::Met);
    }
}
