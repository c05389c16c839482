//! Messages of the TOML reader in plain words, without what may be secret.

use toml::de::DeValue;

/// A message about a misplaced string, without the string: it may be a hook with a password.
pub(super) fn without_value(message: &str) -> String {
    match (message.split_once("string \""), message.rsplit_once("\", expected")) {
        (Some((before, _)), Some((_, after))) => format!("{before}string, expected{after}"),
        _ => message.to_owned(),
    }
}

/// A message in plain words: names of Rust types mean nothing to the author of a config.
pub(super) fn plain(message: &str) -> String {
    let words = [
        ("i64", "a whole number"),
        ("u64", "a whole number"),
        ("u32", "a whole number"),
        ("i128", "a whole number"),
        ("u128", "a whole number"),
        ("a map", "a section"),
        ("map", "section"),
        ("a sequence", "a list"),
        ("sequence", "list"),
        ("a boolean", "true or false"),
        ("boolean", "true or false"),
    ];
    // "integer `9223372036854775808` as i128, expected i64"
    let mut text = message.replace(" as i128", "").replace(" as u64", "");
    for place in ["expected ", "invalid type: ", "invalid value: "] {
        for (word, plain) in words {
            let (from, to) = (format!("{place}{word}"), format!("{place}{plain}"));
            let is_whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            let ends = text.split_once(&from).is_some_and(|(_, rest)| is_whole(rest));
            if ends {
                text = text.replacen(&from, &to, 1);
            }
        }
    }
    text
}

/// What a value is, in a message.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
