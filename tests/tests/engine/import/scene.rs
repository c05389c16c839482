//! An archive of 2014 in a real folder, and a simulated disk for the import.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use backy_lib::Result;
use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::import::ImportReport;
use backy_lib::progress::{Event, Observer, Silent};
use backy_lib::storage::sim::SimStorage;
use backy_tests::legacy::{OldArchive, md5_hex};
use backy_tests::world;
use tempfile::TempDir;

/// An old archive in a folder of its own, and a disk for the new one.
pub(crate) struct Scene {
    pub(crate) folder: TempDir,
    pub(crate) old: OldArchive,
    pub(crate) disk: SimStorage,
}

impl Scene {
    pub(crate) fn new(block_bytes: usize, states: &[Vec<u8>]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = OldArchive::write(&folder.path().join("old"), block_bytes, 0, states);
        let disk = SimStorage::new(false);
        world::init(&disk).expect("init");
        Scene { folder, old, disk }
    }

    /// Five revisions of ten blocks of 1000 bytes, of which the last is short; block 1 changes in each,
    /// block `n + 2` in revision `n`.
    pub(crate) fn small() -> Self {
        let mut state: Vec<u8> = (0..9_700u32).map(|at| (at % 251) as u8).collect();
        let states: Vec<Vec<u8>> = (0..5)
            .map(|number| {
                state[1000..1010].fill(100 + number as u8);
                state[1000 * (number + 2)..][..20].fill(number as u8);
                state.clone()
            })
            .collect();
        Scene::new(1000, &states)
    }

    pub(crate) fn try_import(&self, observer: &dyn Observer) -> Result<ImportReport> {
        let before = listing(self.folder.path());
        let mut writer = ArchiveWriter::open(world::open(&self.disk)?, "a test", &Silent)?;
        let report = writer.import(&self.old.folder, Some(1), &world::clock(), observer);
        if !observer.cancelled() {
            assert_eq!(before, listing(self.folder.path()), "the old folder was changed");
        }
        report
    }

    /// The report, and the warnings on the way.
    pub(crate) fn import(&self) -> (ImportReport, Vec<String>) {
        let told = Told::default();
        let report = self.try_import(&told).expect("an import");
        (report, told.findings.into_inner().expect("nobody panicked"))
    }

    pub(crate) fn archive(&self) -> Archive {
        world::open(&self.disk).expect("open the archive")
    }

    /// Checks that the archive has these revisions, oldest first, and each but those in `lost` reads right.
    pub(crate) fn check(&self, report: &ImportReport, numbers: &[usize], lost: &[usize]) {
        let archive = self.archive();
        let found: Vec<String> =
            archive.revisions().iter().rev().map(|r| r.uuid.to_string()).collect();
        let expected: Vec<String> =
            numbers.iter().map(|&number| self.old.revisions[number].0.clone()).collect();
        assert_eq!(found, expected);
        let imported: Vec<String> =
            report.imported.iter().map(|revision| revision.uuid.to_string()).collect();
        assert_eq!(imported, expected);
        for (at, &number) in numbers.iter().enumerate() {
            let revision = &report.imported[at];
            let read = world::read_revision(&archive, numbers.len() - 1 - at);
            if lost.contains(&number) {
                assert!(!revision.damaged.is_empty(), "revision {number}");
                let error = read.expect_err("a revision that is damaged");
                assert!(error.to_string().contains("block "), "{error}");
            } else {
                assert!(revision.damaged.is_empty(), "revision {number}: {revision:?}");
                let read = read.unwrap_or_else(|error| panic!("revision {number}: {error}"));
                assert!(read == self.old.revisions[number].1, "revision {number} has wrong bytes");
            }
        }
    }
}

#[derive(Default)]
struct Told {
    findings: Mutex<Vec<String>>,
}

impl Observer for Told {
    fn event(&self, event: &Event) {
        if let Event::Finding(text) = event {
            self.findings.lock().expect("nobody panicked").push(text.clone());
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

pub(crate) fn listing(folder: &Path) -> BTreeMap<PathBuf, (u64, String)> {
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().expect("list a folder").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if kind.is_dir() {
            found.extend(listing(&path));
        } else if kind.is_file() {
            let content = fs::read(&path).expect("read a file");
            found.insert(path, (content.len() as u64, md5_hex(&content)));
        }
    }
    found
}

pub(crate) fn reason<'a>(report: &'a ImportReport, what: &str) -> &'a str {
    let found: Vec<_> = report.skipped.iter().filter(|skipped| *skipped.what == *what).collect();
    assert_eq!(found.len(), 1, "{what}: {:?}", report.skipped);
    &found[0].why
}

pub(crate) fn said(texts: &[String], words: &[&str]) {
    let all = |text: &String| words.iter().all(|word| text.contains(word));
    assert!(texts.iter().any(all), "{words:?}: {texts:?}");
}
