//! The golden archives: one for each format, committed, never edited, always read.

use std::fs;
use std::path::{Path, PathBuf};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::format::manifest::FORMAT;
use backy_lib::progress::Silent;
use backy_tests::memory::MemorySource;
use backy_tests::{golden, world};

fn golden_folder(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("format-{format}"))
}

/// Every format that there ever was has a golden archive.
#[test]
fn there_is_one_for_every_format() {
    let folder = golden_folder(1).parent().expect("a parent").to_owned();
    let found = fs::read_dir(folder).expect("tests/golden").count();
    assert_eq!(found, FORMAT as usize);
    for format in 1..=FORMAT {
        assert!(golden_folder(format).join("manifest.json").is_file(), "format {format}");
    }
}

/// All its revisions read as the states they were made of, with the tags they were given.
#[test]
fn all_revisions_of_format_1_read_right() {
    let archive = Archive::open(&golden_folder(1)).expect("the golden archive");
    let states = golden::states();
    assert_eq!(archive.revisions().len(), states.len());
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(&archive, number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
    let pinned: Vec<String> =
        archive.revisions()[1].pinned_tags.iter().map(ToString::to_string).collect();
    assert_eq!(pinned, ["before-upgrade"]);
}

/// A copy of it can be backed up to, and all its revisions stay right.
#[test]
fn format_1_can_be_continued() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(golden_folder(1)).expect("the golden archive").flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copy a file");
    }
    let mut states = golden::states();
    states.push(states[0].clone());
    let archive = Archive::open(folder.path()).expect("the copy");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let source = MemorySource::new(&states[0]);
    let made = writer.backup(&source, &world::options(), &world::clock(), &Silent);
    assert!(made.expect("a backup").is_some());
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(writer.archive(), number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
}
