//! Which thin volume of LVM is meant: `lvm-thin:VG/LV`.
//!
//! What is not understood is refused: the names become arguments of LVM's programs.

use std::fmt;

/// Longest name in LVM.
const MOST_NAME_BYTES: usize = 127;

const FORM: &str = "expected lvm-thin:VG/LV";

/// A thin volume: `lvm-thin:VG/LV`. Shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinAddress {
    group: String,
    volume: String,
}

impl ThinAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// A sentence that begins with the address.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        parse(text).map_err(|why| format!("'{}': {why}", text.escape_debug()))
    }

    /// The volume group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The volume within the group.
    pub fn volume(&self) -> &str {
        &self.volume
    }
}

impl fmt::Display for ThinAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lvm-thin:{}/{}", self.group, self.volume)
    }
}

fn parse(text: &str) -> std::result::Result<ThinAddress, String> {
    let rest = text.strip_prefix("lvm-thin:").ok_or(FORM)?;
    let (group, volume) = rest.split_once('/').ok_or(FORM)?;
    for name in [group, volume] {
        check_name(name)?;
    }
    Ok(ThinAddress { group: group.to_owned(), volume: volume.to_owned() })
}

/// Names as lvm(8) allows them, section "Valid names".
fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() {
        return Err(format!("found an empty name; {FORM}"));
    }
    if name.len() > MOST_NAME_BYTES {
        let length = name.len();
        return Err(format!("found a name of {length} bytes, expected at most {MOST_NAME_BYTES}"));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    if let Some(c) = name.chars().find(|&c| !is_plain(c)) {
        return Err(format!(
            "found {c:?}; a name in LVM has letters, digits, '+', '_', '.' and '-'"
        ));
    }
    match name.starts_with('-') || name == "." || name == ".." {
        true => Err(format!("found '{name}', which is no name in LVM")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address has its parts, and is shown as it was written.
    #[test]
    fn addresses_are_read() {
        let address = ThinAddress::parse("lvm-thin:vg-0/my.node+1_a").unwrap();
        assert_eq!((address.group(), address.volume()), ("vg-0", "my.node+1_a"));
        assert_eq!(address.to_string(), "lvm-thin:vg-0/my.node+1_a");
    }

    /// Anything else is refused, with what was found.
    #[test]
    fn other_addresses_are_refused() {
        for (wrong, part) in [
            ("lvm-thin:vg0", "expected lvm-thin:VG/LV"),
            ("lvm-thin:/dev/vg0/a", "an empty name"),
            ("lvm-thin:vg0/", "an empty name"),
            ("lvm-thin:vg0/a/b", "found '/'"),
            ("lvm-thin:vg0/a b", "found ' '"),
            ("lvm-thin:vg0/a\n", "found '\\n'"),
            ("lvm-thin:vg0/-f", "no name in LVM"),
            ("lvm-thin:../a", "no name in LVM"),
            ("vg0/a", "expected lvm-thin:VG/LV"),
        ] {
            let error = ThinAddress::parse(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        let long = ThinAddress::parse(&format!("lvm-thin:a/{}", "x".repeat(128))).unwrap_err();
        assert!(long.contains("128 bytes"), "{long}");
    }
}
