//! Partition tables that `sfdisk` writes, read by the library without a mount: as `sfdisk` itself numbers and
//! places them.

use std::fs;
use std::path::Path;
use std::process::Command;

use backy_lib::format::partitions;

use super::inside::installed;
use crate::disks::{LoopDevice, loops_available};
use crate::site::{text, works};

const MIB: u64 = 1 << 20;

/// Makes partitions on an image by a script for `sfdisk`. Returns their numbers, first bytes and lengths according to
/// it.
pub(crate) fn partitioned(image: &Path, size_bytes: u64, script: &str) -> Vec<(u64, u64, u64)> {
    fs::File::create(image).and_then(|file| file.set_len(size_bytes)).expect("make an image");
    write_table(image, &image.with_extension("script"), script);
    table_of(image).into_iter().map(|(row, _)| row).collect()
}

fn write_table(disk: &Path, script_file: &Path, script: &str) {
    fs::write(script_file, script).expect("write the script");
    let mut sfdisk = Command::new("sh");
    sfdisk.args(["-c", "sfdisk -q \"$1\" < \"$2\"", "sh"]).arg(disk).arg(script_file);
    works(&mut sfdisk);
}

/// What `sfdisk` reports for a disk: each partition's number, first byte and length, and its type.
fn table_of(disk: &Path) -> Vec<((u64, u64, u64), String)> {
    let table = works(Command::new("sfdisk").arg("--json").arg(disk));
    let table: serde_json::Value = serde_json::from_slice(&table).expect("JSON");
    let table = &table["partitiontable"];
    let partitions = table["partitions"].as_array().expect("partitions");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    // Older ones do not print it, and know no other.
    let sector_bytes = table["sectorsize"].as_u64().unwrap_or(512);
    let row = |partition: &serde_json::Value| {
        let node = partition["node"].as_str().expect("a name");
        let digits = node.strip_prefix(text(disk)).expect("the disk and a number");
        let last = digits.trim_start_matches('p').parse().expect("a number");
        let place = |field: &str| number(&partition[field]) * sector_bytes;
        let kind = partition["type"].as_str().expect("a type").to_owned();
        ((last, place("start"), place("size")), kind)
    };
    partitions.iter().map(row).collect()
}

fn found(image: &[u8]) -> Vec<(u64, u64, u64)> {
    let read = |buffer: &mut [u8], offset: u64| -> Result<(), &str> {
        let from = usize::try_from(offset).map_err(|_| "an offset")?;
        let bytes = image.get(from..from + buffer.len()).ok_or("a read past the end")?;
        buffer.copy_from_slice(bytes);
        Ok(())
    };
    let found = partitions::read(read, image.len() as u64).expect("reads within the image");
    found.iter().map(|one| (one.number.into(), one.extent.offset, one.extent.len)).collect()
}

/// Tables of both kinds, with gaps in their numbers, unusual lengths and logical partitions, are read as
/// `sfdisk` reads them.
#[test]
fn tables_of_sfdisk_are_read() {
    if !installed("sfdisk") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("disk");
    for script in [
        "label: gpt\nsize=8M\nsize=4M, name=\"..\"\n\n",
        "label: gpt\ntable-length: 32\nsize=8M\n\n",
        "label: gpt\n5: start=4096, size=2048\n2: start=16384, size=100\n128: start=2048, size=1\n",
        "label: dos\nsize=8M\nsize=4M, type=83, bootable\n\n",
        "label: dos\nsize=4M\nsize=30M, type=5\n3: size=2M\n5: size=3M\n6: size=2M\n7: size=5M\n8: size=1M\n",
        "label: dos\n2: size=30M, type=f\n4: size=4M\n5: size=3M\n6: size=2M\n",
        "label: dos\n1: size=30M, type=85\n5: size=3M\n",
    ] {
        fs::File::create(&image).and_then(|file| file.set_len(64 * MIB)).expect("make an image");
        write_table(&image, &folder.path().join("script"), script);
        let table = table_of(&image);
        // An extended partition only holds others.
        let own = table.iter().filter(|(_, kind)| !["5", "f", "85"].contains(&kind.as_str()));
        let expected: Vec<_> = own.map(|(row, _)| *row).collect();
        let mut found = found(&fs::read(&image).expect("read the image"));
        // It lists logical ones last, whatever is before them.
        found.sort_by_key(|(number, ..)| *number);
        assert!(!expected.is_empty());
        assert_eq!(found, expected, "{script}");
    }
}

/// Without its first header, and without everything at the front, a GPT is read from the second, at the end of the
/// disk.
#[test]
fn the_second_gpt_of_sfdisk_is_read() {
    if !installed("sfdisk") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("disk");
    let expected = partitioned(&image, 64 * MIB, "label: gpt\nsize=8M\nsize=4M\n\n");
    let mut content = fs::read(&image).expect("read the image");
    for gone in [512..1024, 1024..2048, 512..34 * 512] {
        content[gone.clone()].fill(0);
        assert_eq!(found(&content), expected, "{gone:?}");
    }
    let end = content.len();
    content[end - 33 * 512..].fill(0);
    assert_eq!(found(&content), []);
}

/// The table of a disk with sectors of 4096 bytes, and the second one when the first is gone.
#[test]
fn a_gpt_of_large_sectors_is_read() {
    if !installed("sfdisk") || !loops_available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("disk");
    fs::File::create(&image).and_then(|file| file.set_len(64 * MIB)).expect("make an image");
    let device = LoopDevice::attach(&image, &["--sector-size", "4096"]);
    let script = "label: gpt\nsize=8M\n3: start=4096, size=1000\n4: size=20M\n";
    write_table(&device.path, &folder.path().join("script"), script);
    let expected: Vec<_> = table_of(&device.path).into_iter().map(|(row, _)| row).collect();
    let mut content = device.read();
    assert_eq!(content[4096..4104], *b"EFI PART");
    assert_eq!(found(&content), expected);
    content[4096..8192].fill(0);
    assert_eq!(found(&content), expected);
}
