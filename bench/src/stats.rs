//! Figures from several runs.

use crate::Verdict;

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

/// Prints the ratio beside its bar and says whether it was met.
pub(crate) fn judge(what: &str, ratio: f64, bar: &str, is_met: bool) -> Verdict {
    let word = if is_met { "met" } else { "MISSED" };
    println!("{what}: {ratio:.2} (bar {bar}: {word})");
    if is_met { Verdict::Met } else { Verdict::Missed }
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
}
