//! Any folder as an archive of 2014: what is imported, and what is read from it directly, has the recorded MD5s, or
//! it is an error. Nothing in the folder changes, and nothing outside is read.
//!
//! An input is a text with the files one after the other, so that a mutation of it is one of a file: `%%file
//! NAME`, `%%link NAME` (to what follows), `%%fifo NAME` or `%%folder NAME`, each at the start of a line and
//! with the content from the next line on to the next of these. In names and in files `.rev` a `$` and a digit
//! stand for a UUID, and the MD5 `=` for one that is right.
#![expect(clippy::disallowed_methods, reason = "writes the files of another program")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::import::{ImportReport, Imported, OldReader};
use backy_lib::progress::Silent;
use backy_lib::restore::RestoreOptions;
use backy_lib::storage::sim::SimStorage;
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

use super::scratch_folder;
use crate::legacy::{md5_hex, uuid};
use crate::memory::MemoryTarget;
use crate::world::{self, BLOCK_SIZE};

mod model;

use model::Model;

const MAX_FILES: usize = 24;

/// What lies under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    File(Vec<u8>),
    Link(String),
    Fifo,
    Folder,
}

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    backy_lib::limits::use_small();
    let entries = Model::complete(parse(data));
    let model = Model::new(&entries);
    let scene = Scene::new(&entries);
    let (report, archive) = scene.import();
    if let Ok(report) = &report {
        let archive = archive.as_ref().expect("an archive");
        let mut revisions = archive.revisions().iter().rev().enumerate();
        assert_eq!(archive.revisions().len(), report.imported.len());
        for imported in &report.imported {
            let (at, revision) = revisions.next().expect("as many revisions");
            assert_eq!((revision.uuid, revision.started), (imported.uuid, imported.started));
            check_imported(&model, archive, report.imported.len() - 1 - at, imported);
        }
        scene.import_again(report);
    }
    check_reader(&model, &scene);
    scene.check_unchanged(&entries);
    // A link may lead anywhere: with something else there, all is as before.
    if entries.values().any(|entry| matches!(entry, Entry::Link(_))) {
        scene.change_outside();
        let (again, _) = scene.import();
        assert_eq!(said(&report), said(&again), "what is outside makes a difference");
    }
}

fn said(report: &backy_lib::Result<ImportReport>) -> String {
    match report {
        Ok(report) => serde_json::to_string(report).expect("JSON"),
        Err(error) => error.to_string(),
    }
}

/// The files that the input describes, without those whose names no folder can have.
fn parse(data: &[u8]) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let starts: Vec<usize> = (0..data.len())
        .filter(|&at| data[at..].starts_with(b"%%") && (at == 0 || data[at - 1] == b'\n'))
        .chain([data.len()])
        .collect();
    for part in starts.windows(2).take(MAX_FILES) {
        let part = &data[part[0] + 2..part[1]];
        let line = part.iter().position(|&byte| byte == b'\n').unwrap_or(part.len());
        let (head, content) = (&part[..line], part.get(line + 1..).unwrap_or_default());
        let content = if content.len() > 1 { &content[..content.len() - 1] } else { content };
        let Some((kind, name)) = std::str::from_utf8(head).ok().and_then(|h| h.split_once(' '))
        else {
            continue;
        };
        let name = with_uuids(name);
        let possible = !name.is_empty() && name.len() < 200 && !name.contains(['/', '\0']);
        if !possible || name == "." || name == ".." {
            continue;
        }
        let entry = match kind {
            "file" => Entry::File(content.to_vec()),
            "link" => Entry::Link(with_uuids(&String::from_utf8_lossy(content))),
            "fifo" => Entry::Fifo,
            "folder" => Entry::Folder,
            _ => continue,
        };
        entries.insert(name, entry);
    }
    entries
}

/// The text with UUIDs in place of `$0` to `$9`.
fn with_uuids(text: &str) -> String {
    (0..10).fold(text.to_owned(), |text, number| text.replace(&format!("${number}"), &uuid(number)))
}

/// The folder, and beside it something that nothing may read.
struct Scene {
    root: TempDir,
}

impl Scene {
    fn new(entries: &BTreeMap<String, Entry>) -> Self {
        let scene = Scene { root: scratch_folder() };
        fs::create_dir(scene.old()).expect("a folder");
        fs::write(scene.root.path().join("outside"), "outside").expect("a file");
        for (name, entry) in entries {
            let path = scene.old().join(name);
            match entry {
                Entry::File(content) => fs::write(path, content).expect("a file"),
                // An empty or too long target is impossible.
                Entry::Link(target) => drop(symlink(target, path)),
                Entry::Fifo => {
                    let mode = Mode::from_raw_mode(0o600);
                    rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).expect("a FIFO");
                }
                Entry::Folder => fs::create_dir(path).expect("a folder"),
            }
        }
        scene
    }

    fn old(&self) -> std::path::PathBuf {
        self.root.path().join("old")
    }

    fn change_outside(&self) {
        let outside = self.root.path().join("outside");
        fs::remove_file(&outside).expect("it is there");
        rustix::fs::mknodat(CWD, &outside, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("a FIFO");
    }

    /// Into a new archive. After an error there is what was imported before it.
    fn import(&self) -> (backy_lib::Result<ImportReport>, Option<Archive>) {
        let disk = SimStorage::new(false);
        world::init(&disk).expect("init");
        let writer = ArchiveWriter::open(world::open(&disk).expect("open"), "a fuzzer", &Silent);
        let mut writer = writer.expect("the lock");
        let report = writer.import(&self.old(), Some(1), &world::clock(), &Silent);
        drop(writer);
        (report, world::open(&disk).ok())
    }

    /// The second time nothing is left to do.
    fn import_again(&self, report: &ImportReport) {
        let disk = SimStorage::new(false);
        world::init(&disk).expect("init");
        for round in 0..2 {
            let archive = world::open(&disk).expect("open");
            let mut writer = ArchiveWriter::open(archive, "a fuzzer", &Silent).expect("the lock");
            let again = writer.import(&self.old(), Some(1), &world::clock(), &Silent);
            let again = again.expect("what worked once");
            let (new, present) = (again.imported.len(), again.present.len());
            let all = report.imported.len();
            assert_eq!((new, present), if round == 0 { (all, 0) } else { (0, all) });
        }
    }

    fn check_unchanged(&self, entries: &BTreeMap<String, Entry>) {
        for (name, entry) in entries {
            let path = self.old().join(name);
            match entry {
                Entry::File(content) => assert!(fs::read(path).expect("a file") == *content),
                Entry::Link(target) => {
                    let found = fs::read_link(path);
                    assert!(found.is_err() || found.is_ok_and(|found| found == Path::new(target)));
                }
                Entry::Fifo | Entry::Folder => assert!(!path.is_file()),
            }
        }
        let count = fs::read_dir(self.old()).expect("the folder").count();
        assert!(count <= entries.len(), "there is something new in the folder");
    }
}

/// A revision that was imported whole has the MD5 of its image, or those of all its blocks. In the rest, each block
/// that is not lost has its MD5.
fn check_imported(model: &Model, archive: &Archive, number: usize, imported: &Imported) {
    let name = imported.uuid.to_string();
    let target = MemoryTarget::absent();
    let options =
        RestoreOptions { keep_going: true, threads: Some(1), ..RestoreOptions::default() };
    let report = archive
        .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
        .expect("a restore");
    let bytes = target.content();
    assert_eq!(bytes.len() as u64, imported.size_bytes, "{name}");
    assert!(report.digests_checked);
    if imported.damaged.is_empty() {
        assert!(report.unreadable.is_empty(), "{name}: {:?}", report.unreadable);
        if let Some(checksum) = model.checksum(&name) {
            assert_eq!(md5_hex(&bytes), checksum, "{name} as a whole");
            return;
        }
    }
    let block_bytes = model.block_bytes();
    let archive_block = BLOCK_SIZE.bytes();
    for (block, content) in (0..).zip(bytes.chunks(block_bytes as usize)) {
        let start = block * block_bytes;
        let end = start + content.len() as u64;
        // A lost byte costs the whole block of the new archive.
        let lost = imported.damaged.iter().any(|lost| {
            let from = lost.offset / archive_block * archive_block;
            from < end && start < lost.end().next_multiple_of(archive_block)
        });
        if !lost {
            check_block(model, &name, block, content);
        }
    }
}

fn check_block(model: &Model, name: &str, block: u64, content: &[u8]) {
    let (recorded, found) = (model.recorded(name, block), md5_hex(content));
    assert!(recorded.contains(&found), "{name}, block {block}: {found}, not {recorded:?}");
}

/// What is read directly has the recorded MD5s.
fn check_reader(model: &Model, scene: &Scene) {
    let Ok(reader) = OldReader::open(&scene.old(), &Silent) else { return };
    for (at, entry) in reader.entries().iter().enumerate() {
        let name = entry.uuid.to_string();
        for number in entry.own_blocks.iter().copied().take(64).chain([0, entry.blocks]) {
            let Ok(bytes) = reader.read_block(entry.uuid, number) else { continue };
            assert!(number < entry.blocks, "{name}: a block past the end");
            check_block(model, &name, number, &bytes);
        }
        let path = scene.root.path().join(format!("restored-{at}"));
        match reader.restore(entry.uuid, &path, false, &Silent) {
            Err(_) => {
                assert!(path.symlink_metadata().is_err(), "a restore that failed left a file")
            }
            Ok(size_bytes) => {
                let bytes = fs::read(&path).expect("what was restored");
                assert_eq!(bytes.len() as u64, size_bytes);
                match model.checksum(&name) {
                    Some(checksum) => assert_eq!(md5_hex(&bytes), checksum, "{name}, restored"),
                    None => {
                        let blocks = bytes.chunks(model.block_bytes() as usize);
                        for (block, content) in (0..).zip(blocks) {
                            check_block(model, &name, block, content);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input becomes the files that it spells, and what no folder can have is left out.
    #[test]
    fn an_input_is_a_folder() {
        let text = "x\n%%file a\none\n%%two\n%%link $1.rev\n../outside\n%%fifo f\n%%file ../x\ny\n%%file b\n";
        let found = parse(text.as_bytes());
        let expected = [
            ("a".to_owned(), Entry::File(b"one".to_vec())),
            (format!("{}.rev", uuid(1)), Entry::Link("../outside".to_owned())),
            ("b".to_owned(), Entry::File(Vec::new())),
            ("f".to_owned(), Entry::Fifo),
        ];
        assert_eq!(found, expected.into());
    }
}
