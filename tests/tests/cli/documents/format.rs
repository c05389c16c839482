//! `doc/format.md`: its tables and the worked example agree with the code and the golden archive.

use super::*;

/// The hex dumps of the worked example are the bytes of the golden archive.
#[test]
fn the_worked_example_is_the_golden_archive() {
    let text = document("doc/format.md");
    let blocks = code_blocks(&text, "hex");
    assert_eq!(blocks.len(), 4);
    for (file, dump) in blocks {
        let content = golden(file);
        for line in dump.lines() {
            let (offset, digits) = line.split_once(": ").expect("an offset");
            let offset = usize::from_str_radix(offset, 16).expect("a hex offset");
            let digits = digits.replace(' ', "");
            let found: String = content[offset..offset + digits.len() / 2]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(found, digits, "{file} at {offset:#x}");
        }
    }
}

/// The fields of the example's header have the values in the table, and our parser agrees.
#[test]
fn the_header_table_holds() {
    let text = document("doc/format.md");
    let (file, _) = code_blocks(&text, "hex")[0];
    let content = golden(file);
    let rows = table(&text, "Its header:");
    assert!(rows.len() > 15);
    for row in &rows {
        let (offset, length) = (number(&row[0]) as usize, number(&row[1]) as usize);
        let value = content[offset..offset + length].iter().fold(0, |v, b| v << 8 | u64::from(*b));
        assert_eq!(value, number(&row[2]), "{}", row[3]);
    }
    let header = Header::parse(&content[..512]).expect("a header");
    assert_eq!(header.virtual_bytes, 42496);
    assert!(!header.dirty);
    assert!(matches!(header.backing.map(|b| b.file), Some(FileName::Delta(_))));
}

/// The L2 entries of the example mean what the table says.
#[test]
fn the_entry_table_holds() {
    let text = document("doc/format.md");
    let (file, _) = code_blocks(&text, "hex")[0];
    let content = golden(file);
    for row in table(&text, "The first entries of the L2 table") {
        let at = 0x3000 + 8 * number(&row[0]) as usize;
        let raw = u64::from_be_bytes(content[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!(raw, number(&row[1]));
        let cluster = decode_entry(raw, BlockSize::MIN, content.len() as u64).expect("an entry");
        let meaning = match cluster {
            Cluster::Unallocated => "not held".to_owned(),
            Cluster::Zero => "zero".to_owned(),
            Cluster::Plain { offset } => format!("plain at {offset:#x}"),
            Cluster::Compressed { offset, .. } => format!("compressed at {offset:#x}"),
        };
        assert_eq!(meaning, row[2]);
    }
}

/// The fields of the manifest in the document are those in the file, and no others.
#[test]
fn the_manifest_tables_name_every_field() {
    let text = document("doc/format.md");
    let manifest: serde_json::Value =
        serde_json::from_slice(&golden_of("format-1-kept", "manifest.json")).expect("JSON");
    let names = |heading: &str| {
        let rows = table(&text, heading);
        let cells = rows.iter().flat_map(|row| row[0].split(','));
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>()
    };
    let keys = |value: &serde_json::Value| {
        value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
    };
    let mut documented = names("## manifest.json");
    documented.sort();
    assert_eq!(documented, keys(&manifest));
    let mut documented = names("\nA revision:\n");
    documented.sort();
    assert_eq!(documented, keys(&manifest["revisions"][0]));
}

/// The files in the document are those that the code knows.
#[test]
fn the_table_of_files_names_every_file() {
    let uuid = "01935470-2f5e-7cc0-9d1a-3f0c5a3be001";
    let rows = table(&document("doc/format.md"), "## Files");
    assert_eq!(rows.len(), 14);
    for row in rows {
        let name = row[0].trim_matches('`').replace("<uuid>", uuid).replace("<name>", "README");
        let name = name.replace("<token>", "0123456789abcdef");
        assert!(FileName::parse(&name).is_some(), "{name}");
    }
}

/// The limits in the document are those in the code.
#[test]
fn the_table_of_limits_holds() {
    let rows = table(&document("doc/format.md"), "## Limits");
    let limit = |what: &str| {
        let row = rows.iter().find(|row| row[0].contains(what));
        row.unwrap_or_else(|| panic!("no limit of {what}"))[1].clone()
    };
    assert_eq!(limit("blocks of 4 KiB"), "2 TiB");
    assert_eq!(Layout::max_image_bytes(BlockSize::MIN), 2 << 40);
    assert_eq!(limit("blocks of 64 KiB"), "512 TiB");
    assert_eq!(Layout::max_image_bytes(BlockSize::DEFAULT), 512 << 40);
    assert_eq!(limit("blocks of 2 MiB"), "128 TiB");
    assert_eq!(Layout::max_image_bytes(BlockSize::MAX), 128 << 40);
    assert_eq!(limit("tags"), backy_lib::format::manifest::MAX_TAGS.to_string());
    assert_eq!(limit("manifest.json"), "64 MiB");
    assert_eq!(backy_lib::format::manifest::MANIFEST_LIMIT_BYTES, 64 << 20);
    assert_eq!(limit("unknown fields of one object"), "1 MiB");
    assert_eq!(backy_lib::format::manifest::UNKNOWN_LIMIT_BYTES, 1 << 20);
    let depth = backy_lib::format::manifest::UNKNOWN_LIMIT_DEPTH.to_string();
    assert_eq!(limit("in an unknown field"), depth);
    assert_eq!(limit("backy.toml"), "1 MiB");
    assert_eq!(backy_lib::config::CONFIG_LIMIT_BYTES, 1 << 20);
}
