//! The one corner of RFC 9651 that a key needs: an Item whose value is a String. Parameters are
//! parsed, because a broken one makes the whole field invalid, and then ignored.
//!
//! Written out instead of taken from a crate, because it runs before anything else on every keyed
//! request and must say which rule was broken. The tests compare it with the crate `sfv`.

/// Parses `field` as an Item with a String and gives the String.
///
/// # Errors
/// The rule that the field breaks, as the end of a sentence about "the key".
pub(super) fn parse_string_item(field: &[u8]) -> Result<String, &'static str> {
    let mut rest = Rest(field);
    rest.skip_spaces();
    let text = rest.string()?;
    rest.parameters()?;
    rest.skip_spaces();
    match rest.peek() {
        None => Ok(text),
        Some(b',') => Err("is a list; send one key"),
        Some(_) => Err("has something behind its closing quote"),
    }
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn next_if(&mut self, wanted: impl FnOnce(u8) -> bool) -> Option<u8> {
        self.peek().filter(|&byte| wanted(byte))?;
        self.next()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let end = self.0.iter().position(|&byte| !wanted(byte)).unwrap_or(self.0.len());
        self.0 = &self.0[end..];
        end
    }

    fn skip_spaces(&mut self) {
        self.take_while(|byte| byte == b' ');
    }

    /// §4.2.5.
    fn string(&mut self) -> Result<String, &'static str> {
        self.next_if(|byte| byte == b'"').ok_or("is not a quoted string")?;
        let mut text = String::new();
        loop {
            match self.next().ok_or("has no closing quote")? {
                b'"' => return Ok(text),
                b'\\' => {
                    let escaped = self.next_if(|byte| byte == b'"' || byte == b'\\');
                    text.push(char::from(
                        escaped.ok_or("escapes something else than a quote or a backslash")?,
                    ));
                }
                byte @ 0x20..=0x7e => text.push(char::from(byte)),
                _ => return Err("contains a byte that is not printable ASCII"),
            }
        }
    }

    /// §4.2.3.2.
    fn parameters(&mut self) -> Result<(), &'static str> {
        while self.next_if(|byte| byte == b';').is_some() {
            self.skip_spaces();
            self.parameter_key()?;
            if self.next_if(|byte| byte == b'=').is_some() {
                self.bare_item().map_err(|()| "has a parameter with a malformed value")?;
            }
        }
        Ok(())
    }

    /// §4.2.3.3.
    fn parameter_key(&mut self) -> Result<(), &'static str> {
        self.next_if(|byte| byte.is_ascii_lowercase() || byte == b'*')
            .ok_or("has a parameter without a name")?;
        self.take_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        });
        Ok(())
    }

    /// §4.2.3.1.
    fn bare_item(&mut self) -> Result<(), ()> {
        match self.peek().ok_or(())? {
            b'"' => self.string().map(drop).map_err(drop),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
                self.take_while(|byte| is_tchar(byte) || byte == b':' || byte == b'/');
                Ok(())
            }
            b':' => self.byte_sequence(),
            b'?' => {
                self.next();
                self.next_if(|byte| byte == b'0' || byte == b'1').map(drop).ok_or(())
            }
            b'@' => {
                self.next();
                self.number()?.is_integer.then_some(()).ok_or(())
            }
            b'%' => self.display_string(),
            _ => Err(()),
        }
    }

    /// §4.2.4.
    fn number(&mut self) -> Result<Number, ()> {
        self.next_if(|byte| byte == b'-');
        let whole = self.take_while(|byte| byte.is_ascii_digit());
        if whole == 0 || whole > 15 {
            return Err(());
        }
        if self.peek() != Some(b'.') {
            return Ok(Number { is_integer: true });
        }
        self.next();
        let fraction = self.take_while(|byte| byte.is_ascii_digit());
        let fits = whole <= 12 && (1..=3).contains(&fraction);
        fits.then_some(Number { is_integer: false }).ok_or(())
    }

    /// §4.2.7. Padding may be missing, as the RFC recommends to tolerate.
    fn byte_sequence(&mut self) -> Result<(), ()> {
        self.next();
        let start = self.0;
        let digits =
            self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
        let padding = self.take_while(|byte| byte == b'=');
        self.next_if(|byte| byte == b':').ok_or(())?;
        let padded = padding == 0 || (digits + padding).is_multiple_of(4) && padding <= 2;
        let whole = digits % 4 != 1 && padded;
        (whole && has_no_stray_bits(&start[..digits])).then_some(()).ok_or(())
    }

    /// §4.2.10.
    fn display_string(&mut self) -> Result<(), ()> {
        self.next();
        self.next_if(|byte| byte == b'"').ok_or(())?;
        let mut bytes = Vec::new();
        loop {
            match self.next().ok_or(())? {
                b'"' => return std::str::from_utf8(&bytes).map(drop).map_err(drop),
                b'%' => {
                    let high = self.next().and_then(lower_hex).ok_or(())?;
                    let low = self.next().and_then(lower_hex).ok_or(())?;
                    bytes.push(high << 4 | low);
                }
                byte @ 0x20..=0x7e => bytes.push(byte),
                _ => return Err(()),
            }
        }
    }
}

struct Number {
    is_integer: bool,
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn lower_hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// A strict decoder refuses base64 whose last digit carries bits beyond the last byte.
fn has_no_stray_bits(digits: &[u8]) -> bool {
    let Some(&last) = digits.last() else { return true };
    let value = match last {
        b'A'..=b'Z' => last - b'A',
        b'a'..=b'z' => last - b'a' + 26,
        b'0'..=b'9' => last - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    match digits.len() % 4 {
        2 => value & 0x0f == 0,
        3 => value & 0x03 == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse_string_item;

    /// What the crate `sfv` says about the same field.
    fn oracle(field: &[u8]) -> Option<String> {
        let item = sfv::Parser::new(field).parse::<sfv::Item>().ok()?;
        item.bare_item.as_string().map(|string| string.as_str().to_owned())
    }

    fn agree(field: &[u8]) {
        let ours = parse_string_item(field).ok();
        assert_eq!(ours, oracle(field), "{}", field.escape_ascii());
    }

    /// RFC 9651 §3.3.3 and §4.2.5, one row a rule.
    #[test]
    fn every_rule_of_strings_holds_and_the_oracle_agrees() {
        let rows: &[(&str, Option<&str>)] = &[
            (r#""""#, Some("")),
            (r#""a""#, Some("a")),
            (r#""a b""#, Some("a b")),
            (r#"  "a"  "#, Some("a")),
            (r#""a\"b""#, Some("a\"b")),
            (r#""a\\b""#, Some("a\\b")),
            (r#""\\""#, Some("\\")),
            (r#""a\b""#, None),
            (r#""a\"#, None),
            (r#""a\""#, None),
            (r#""a"#, None),
            (r#"""#, None),
            ("", None),
            ("   ", None),
            ("a", None),
            (r#"'a'"#, None),
            (r#""a" "b""#, None),
            (r#""a","b""#, None),
            (r#""a", "b""#, None),
            (r#"("a")"#, None),
            (r#""a"b"#, None),
            (r#""a";"#, None),
            (r#""a";b"#, Some("a")),
            (r#""a"; b"#, Some("a")),
            (r#""a" ;b"#, None),
            (r#""a";b=1"#, Some("a")),
            (r#""a";b=-1.5;c;d=?1"#, Some("a")),
            (r#""a";b=1."#, None),
            (r#""a";b=1234567890123456"#, None),
            (r#""a";b=1.2345"#, None),
            (r#""a";b="c\"d""#, Some("a")),
            (r#""a";b="c"#, None),
            (r#""a";b=tok/en:x"#, Some("a")),
            (r#""a";b=:YWJj:"#, Some("a")),
            (r#""a";b=:YWJj"#, None),
            (r#""a";b=@17"#, Some("a")),
            (r#""a";b=@1.5"#, None),
            (r#""a";b=?2"#, None),
            (r#""a";b=%"f%c3%bc""#, Some("a")),
            (r#""a";b=%"f%C3%BC""#, None),
            (r#""a";b=%"f%c3""#, None),
            (r#""a";b=("c")"#, None),
            (r#""a";B=1"#, None),
            (r#""a";*b.c_d-e=1"#, Some("a")),
            (r#""a";b=1;b=2"#, Some("a")),
            (":YWJj:", None),
            ("17", None),
            ("?1", None),
        ];
        for (field, expected) in rows {
            assert_eq!(parse_string_item(field.as_bytes()).ok().as_deref(), *expected, "{field}");
            agree(field.as_bytes());
        }
    }

    #[test]
    fn each_of_the_256_bytes_is_judged_as_the_oracle_does_inside_quotes_escaped_and_behind() {
        for byte in 0..=255_u8 {
            agree(&[b'"', byte, b'"']);
            agree(&[b'"', b'\\', byte, b'"']);
            agree(&[b'"', b'a', b'"', byte]);
            agree(&[byte, b'"', b'a', b'"']);
            agree(&[b'"', b'a', b'"', b';', byte]);
            agree(&[b'"', b'a', b'"', b';', b'b', byte]);
            agree(&[b'"', b'a', b'"', b';', b'b', b'=', byte]);
            let printable_and_plain = (0x20..=0x7e).contains(&byte) && !b"\"\\".contains(&byte);
            assert_eq!(parse_string_item(&[b'"', byte, b'"']).is_ok(), printable_and_plain);
        }
    }

    #[test]
    fn every_truncation_is_judged_as_the_oracle_does() {
        let field = br#" "a\"b\\";p="q\"";r=:YWJjZA==:;s=-12.5;t=?0;u=@17;v=%"%c3%bc x";w=*t/x "#;
        for end in 0..=field.len() {
            agree(&field[..end]);
        }
        assert_eq!(parse_string_item(field).as_deref(), Ok("a\"b\\"));
    }

    proptest! {
        #[test]
        fn fields_made_of_the_grammar_s_own_pieces_are_judged_as_the_oracle_does(
            pieces in proptest::collection::vec(
                prop_oneof![
                    Just("\""), Just("\\"), Just(";"), Just("="), Just(" "), Just(","),
                    Just(":"), Just("?"), Just("@"), Just("%"), Just("-"), Just("."),
                    Just("a"), Just("b="), Just("\"k\""), Just("1"), Just("0"), Just("YW=="),
                    Just("YQ"), Just("*"), Just("("), Just(")"), Just("%c3%bc"), Just("\t"),
                ],
                0..12,
            ),
            quoted_first in any::<bool>(),
        ) {
            let field = pieces.concat();
            let field = if quoted_first { format!("\"key\"{field}") } else { field };
            agree(field.as_bytes());
        }

        #[test]
        fn arbitrary_bytes_are_judged_as_the_oracle_does(
            field in proptest::collection::vec(any::<u8>(), 0..24),
        ) {
            agree(&field);
        }

        #[test]
        fn every_printable_text_survives_quoting(text in "[ -~]{0,40}") {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            let field = format!("\"{escaped}\";attempt=2");
            prop_assert_eq!(parse_string_item(field.as_bytes()), Ok(text));
        }
    }
}
