//! Escapes characters that must not reach a terminal, a log, a monitoring system or a browser unchanged.
//!
//! File names and file contents may hold anything: terminal control sequences, line ends, marks that reverse
//! the rest of a line. Every output passes through one of these functions. The library's values and errors
//! keep the original text.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character controls the display instead of being shown: the C0 and C1 controls, line and
/// paragraph separators, and everything that Unicode calls `Bidi_Control`. Source: Unicode 16,
/// `PropList.txt`.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text on one line, for people: `\n`, `\u{9b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unsafe(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The same JSON values, with unsafe characters inside strings written as `\u009b`. Valid JSON strings
/// contain no raw ASCII controls, so those between values stay.
pub fn json(text: String) -> String {
    let is_foreign = |c: char| c >= '\u{7f}' && is_unsafe(c);
    if !text.contains(is_foreign) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match is_foreign(c) {
            // Writing to a string does not fail.
            true => drop(write!(out, "\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, and all that Unicode calls `Bidi_Control`.
    const UNSAFE: &str = "\0\u{7}\n\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{9f}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\
         \u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";

    /// Control characters are escaped; merely unusual characters stay.
    #[test]
    fn control_characters_are_escaped() {
        let shown = line(UNSAFE);
        assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{shown}");
        assert_eq!(line("/a\nb\u{1b}[31m\u{202e}c\u{9b}"), "/a\\nb\\u{1b}[31m\\u{202e}c\\u{9b}");
        let unusual = "/srv/ü/שלום/👩‍👩‍👧/a\u{a0}b<c>|\"'\\";
        assert!(matches!(line(unusual), Cow::Borrowed(same) if same == unusual));
    }

    /// Escaped JSON contains no unsafe character and has the same values.
    #[test]
    fn escaped_json_is_safe_and_has_the_same_values() {
        let value = serde_json::json!({ UNSAFE: [UNSAFE, "ü\\u202e\u{1f642}"], "b": 1.5 });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let escaped = json(text);
            assert!(escaped.chars().all(|c| c == '\n' || !is_unsafe(c)), "{escaped}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
        }
        let plain = "{\n  \"a\": \"ü\"\n}".to_owned();
        assert_eq!(json(plain.clone()), plain);
    }
}
