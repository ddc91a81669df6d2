//! "Did you mean …?" for words that are almost right.

/// A sentence about an unknown word, with the nearest known one if there is a near one.
pub(crate) fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|candidate| distance(word, candidate));
    match nearest {
        Some(nearest) if distance(word, nearest) <= nearest.len().div_ceil(3) => {
            format!("there is no {what} `{word}`; did you mean `{nearest}`?")
        }
        _ => format!("there is no {what} `{word}`; there are: {}", known.join(", ")),
    }
}

/// How many characters must be inserted, deleted, replaced or swapped with their neighbour.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut table = vec![vec![0; right.len() + 1]; left.len() + 1];
    for row in 0..=left.len() {
        for column in 0..=right.len() {
            table[row][column] = if row == 0 || column == 0 {
                row + column
            } else {
                let differs = usize::from(left[row - 1] != right[column - 1]);
                let replaced = table[row - 1][column - 1] + differs;
                let cheapest =
                    replaced.min(table[row - 1][column] + 1).min(table[row][column - 1] + 1);
                let swapped = row > 1
                    && column > 1
                    && left[row - 1] == right[column - 2]
                    && left[row - 2] == right[column - 1];
                if swapped { cheapest.min(table[row - 2][column - 2] + 1) } else { cheapest }
            };
        }
    }
    table[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_swapped_letters_are_one_mistake() {
        assert_eq!(distance("tset", "test"), 1);
        assert_eq!(distance("test", "test"), 0);
        assert_eq!(distance("", "test"), 4);
    }

    #[test]
    fn a_far_word_gets_the_list_instead_of_a_guess() {
        let message = unknown("suite", "kubernetes", &["fmt", "clippy"]);
        assert!(message.ends_with("there are: fmt, clippy"), "{message}");
    }
}
