//! Rust source with everything that is not code blanked out.
//!
//! Not a parser: it knows comments, strings, characters and lifetimes, which is enough to count
//! braces and lines. Whatever is blanked keeps its line breaks, so line numbers stay right.

/// The source with comments and the insides of literals replaced by spaces.
pub(super) fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut scanner = Scanner { chars: &chars, at: 0, out: String::with_capacity(source.len()) };
    while scanner.at < chars.len() {
        scanner.step();
    }
    scanner.out
}

struct Scanner<'a> {
    chars: &'a [char],
    at: usize,
    out: String,
}

impl Scanner<'_> {
    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            (Some('/'), Some('/')) => self.blank_until(|scanner| scanner.peek(0) == Some('\n')),
            (Some('/'), Some('*')) => self.block_comment(),
            (Some('"'), _) => self.string(),
            (Some('r'), Some('"' | '#')) if !self.is_in_a_word() => self.raw_string(),
            (Some('\''), _) => self.character_or_lifetime(),
            _ => self.keep(),
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// Whether the character before belongs to the same word; `br` and `cr` start literals, too.
    fn is_in_a_word(&self) -> bool {
        let is_word = |index: usize| {
            self.chars.get(index).is_some_and(|it| it.is_alphanumeric() || *it == '_')
        };
        match self.at.checked_sub(1) {
            Some(before) if matches!(self.chars[before], 'b' | 'c') => {
                before.checked_sub(1).is_some_and(is_word)
            }
            Some(before) => is_word(before),
            None => false,
        }
    }

    fn keep(&mut self) {
        self.out.extend(self.peek(0));
        self.at += 1;
    }

    fn blank_one(&mut self) {
        if let Some(char) = self.peek(0) {
            self.out.push(if char == '\n' { '\n' } else { ' ' });
        }
        self.at += 1;
    }

    fn blank_until(&mut self, is_end: impl Fn(&Self) -> bool) {
        while self.at < self.chars.len() && !is_end(self) {
            self.blank_one();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => depth += 1,
                (Some('*'), Some('/')) => depth -= 1,
                (None, _) => return,
                _ => {
                    self.blank_one();
                    continue;
                }
            }
            self.blank_one();
            self.blank_one();
            if depth == 0 {
                return;
            }
        }
    }

    /// Keeps the quotes, so that a line with nothing but a string still counts as code.
    fn string(&mut self) {
        self.keep();
        while let Some(char) = self.peek(0) {
            match char {
                '"' => return self.keep(),
                '\\' => {
                    self.blank_one();
                    self.blank_one();
                }
                _ => self.blank_one(),
            }
        }
    }

    fn raw_string(&mut self) {
        let hashes = self.chars[self.at + 1..].iter().take_while(|it| **it == '#').count();
        if self.peek(1 + hashes) != Some('"') {
            // A raw identifier such as `r#type`.
            return self.keep();
        }
        for _ in 0..hashes + 2 {
            self.keep();
        }
        self.blank_until(|scanner| {
            scanner.peek(0) == Some('"')
                && (1..=hashes).all(|ahead| scanner.peek(ahead) == Some('#'))
        });
        for _ in 0..=hashes {
            self.keep();
        }
    }

    fn character_or_lifetime(&mut self) {
        let is_character = self.peek(1) == Some('\\') || self.peek(2) == Some('\'');
        self.keep();
        if !is_character {
            return;
        }
        if self.peek(0) == Some('\\') {
            self.blank_one();
        }
        // The first character may itself be a quote, as in `'\''`.
        self.blank_one();
        self.blank_until(|scanner| scanner.peek(0) == Some('\''));
        self.keep();
    }
}

/// The place just after the brace that closes the one at `open`; the end when none does.
pub(super) fn after_matching_brace(blanked: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in blanked[open..].bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return open + offset + 1;
        }
    }
    blanked.len()
}

/// The number of the line at this place, from 1.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_lose_their_braces_and_keep_their_lines() {
        let blanked = blank("a(\"{ \\\" {\"); // {\n/* { /* { */\n{ */ b");
        assert!(!blanked.contains('{'), "{blanked}");
        assert_eq!(blanked.matches('\n').count(), 2);
        assert!(blanked.ends_with('b'));
    }

    #[test]
    fn raw_strings_end_at_their_own_number_of_hashes() {
        let blanked = blank("let a = r#\"{ \" {\"#; let b = br\"{\"; { r#type }");
        assert_eq!(blanked.matches('{').count(), 1, "{blanked}");
        assert!(blanked.contains("r#type"), "{blanked}");
    }

    #[test]
    fn a_brace_as_a_character_is_no_brace_and_a_lifetime_is_no_character() {
        let blanked = blank("fn f<'a>(x: &'a str) { match c { '{' | '\\'' | '\\u{7b}' => '}' } }");
        assert_eq!(blanked.matches('{').count(), 2, "{blanked}");
        assert_eq!(blanked.matches('}').count(), 2, "{blanked}");
        assert!(blanked.contains("<'a>(x: &'a str)"), "{blanked}");
    }

    #[test]
    fn a_word_that_ends_in_r_does_not_start_a_raw_string() {
        assert_eq!(blank("bar#\"x\""), "bar#\" \"");
    }

    #[test]
    fn the_matching_brace_is_found_over_nested_ones() {
        let text = "a { b { } c } d";
        assert_eq!(&text[after_matching_brace(text, 2)..], " d");
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
