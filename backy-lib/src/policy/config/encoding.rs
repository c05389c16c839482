//! Decodes files with settings: editors on other systems save files in other encodings.

/// What some editors put before UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The text of a file; or line and column, both from 1, and a message about what is not UTF-8.
pub(super) fn decode(bytes: &[u8]) -> Result<&str, (usize, usize, String)> {
    // UTF-16 text begins with a mark or has zero bytes between its letters.
    let begins_wide = matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
    let has_zero = bytes.iter().take(2).filter(|byte| **byte == 0).count() == 1;
    if begins_wide || bytes.len() > 1 && has_zero {
        return Err((1, 1, "found UTF-16, expected UTF-8; save the file as UTF-8".to_owned()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)),
        Err(error) => {
            let (before, rest) = bytes.split_at_checked(error.valid_up_to()).unwrap_or_default();
            let found = rest.first().copied().unwrap_or_default();
            let message = format!(
                "found the byte 0x{found:02x}, which is not UTF-8 (in Latin-1 it is '{}'); save the file as UTF-8",
                char::from(found).escape_debug()
            );
            let (line, column) = place_after(&String::from_utf8_lossy(before));
            Err((line, column, message))
        }
    }
}

/// Line and column, both from 1, of what follows `text`.
fn place_after(text: &str) -> (usize, usize) {
    let line = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::policy::config::Config;

    fn error(bytes: &[u8]) -> String {
        Config::parse_bytes(bytes, Path::new("backy.toml")).expect_err("no text").to_string()
    }

    #[test]
    fn another_encoding_is_named_with_line_and_column() {
        let wide = |swap: bool| {
            let units = "source = \"/x\"\n".encode_utf16();
            let bytes =
                units.flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() });
            bytes.collect::<Vec<u8>>()
        };
        for swap in [false, true] {
            let mark: &[u8] = if swap { &[0xfe, 0xff] } else { &[0xff, 0xfe] };
            for bytes in [wide(swap), [mark, &wide(swap)].concat()] {
                let said = error(&bytes);
                assert!(said.starts_with("backy.toml:1:1: found UTF-16"), "{said}");
            }
        }
        let said = error(b"# \xc3\xa4\n# t\xe4glich\n");
        assert!(said.starts_with("backy.toml:2:4: found the byte 0xe4"), "{said}");
        assert!(said.contains("'\u{e4}'") && said.contains("save the file as UTF-8"), "{said}");
    }

    #[test]
    fn a_byte_order_mark_before_utf_8_changes_nothing() {
        let config = Config::parse_bytes(b"\xef\xbb\xbfsource = \"/x\"\n", Path::new("x")).unwrap();
        assert_eq!(config.source, Some(crate::config::SourceAddress::Path("/x".into())));
        assert!(Config::parse_bytes(b"", Path::new("x")).is_ok());
    }
}
