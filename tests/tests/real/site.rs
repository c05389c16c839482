//! An archive made by the real command, its source, and the expected content of the archive.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_lib::storage::sim::Random;
use backy_lib::{Archive, RevisionId};
pub(crate) use backy_tests::command::{backy, failed, fails, run, text, unmounts, words, works};
pub(crate) use backy_tests::world::noise;
use backy_tests::world::{self, Expected, fill_block};
use backy_tests::{checker, qemu};
use serde_json::Value;
use tempfile::NamedTempFile;

/// Block size of the archives here: that of a new archive by default.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

/// A folder `archive`, a source, and the committed revisions, newest first.
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) expected: Vec<Expected>,
}

impl Site {
    /// Makes the archive `place/archive` for a source.
    pub(crate) fn init(place: &Path, source: &Path) -> Self {
        let site =
            Site { folder: place.join("archive"), source: source.to_owned(), expected: Vec::new() };
        works(&mut site.backy(&["init", text(source)]));
        site
    }

    /// Makes the archive `place/archive` with a backup of each of `states` of the file `place/source`, oldest first.
    pub(crate) fn with_backups(place: &Path, states: &[Vec<u8>]) -> Self {
        let source = place.join("source");
        fs::write(&source, []).expect("make the source");
        let mut site = Site::init(place, &source);
        for state in states {
            site.backup(state);
        }
        site
    }

    /// The same in another folder, with the same source.
    pub(crate) fn copy(&self, place: &Path) -> Self {
        let folder = place.join("archive");
        works(Command::new("cp").arg("-a").arg(&self.folder).arg(&folder));
        Site { folder, source: self.source.clone(), expected: self.expected.clone() }
    }

    /// `backy -b FOLDER ARGS`
    pub(crate) fn backy(&self, args: &[&str]) -> Command {
        backy(&self.folder, args)
    }

    /// Changes `backy.toml`.
    pub(crate) fn configure(&self, change: impl FnOnce(String) -> String) {
        let path = self.folder.join("backy.toml");
        let config = fs::read_to_string(&path).expect("read the config");
        fs::write(path, change(config)).expect("write the config");
    }

    /// Gives the source, a file, new content.
    pub(crate) fn write_source(&self, state: &[u8]) {
        fs::write(&self.source, state).expect("write the source");
    }

    /// A backup of `state`, which has to work silently. Returns its report.
    pub(crate) fn backup(&mut self, state: &[u8]) -> Value {
        self.write_source(state);
        self.backup_source(state)
    }

    /// A backup of the source, which is known to hold `state`.
    pub(crate) fn backup_source(&mut self, state: &[u8]) -> Value {
        let output = run(&mut self.backy(&["backup", "--force", "--json"]));
        let said = words(&output);
        // Some tests are about a source that lost much of its data, or has become another one.
        let mut lines = said.lines().filter(|line| !line.contains("nothing expires until"));
        assert_eq!(lines.next(), None, "a backup that works says nothing");
        assert!(output.status.success(), "backup: {}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report in JSON");
        let uuid = report["revision"]["uuid"].as_str().expect("a revision");
        self.push(uuid, state);
        report
    }

    /// A revision that was made by other means.
    pub(crate) fn push(&mut self, uuid: &str, state: &[u8]) {
        let uuid: RevisionId = uuid.parse().expect("a UUID");
        self.expected.insert(0, Expected { uuid, bytes: state.to_vec() });
    }

    /// The same for the newest one in the manifest.
    pub(crate) fn push_newest(&mut self, state: &[u8]) {
        let newest = self.committed().swap_remove(0);
        self.push(&newest, state);
    }

    /// The names in the manifest, newest first.
    pub(crate) fn committed(&self) -> Vec<String> {
        let text = fs::read(self.folder.join("manifest.json")).expect("read the manifest");
        let manifest: Value = serde_json::from_slice(&text).expect("a manifest in JSON");
        let revisions = manifest["revisions"].as_array().expect("revisions");
        revisions.iter().map(|r| r["uuid"].as_str().expect("a UUID").to_owned()).collect()
    }

    /// Checks without a lock that the archive holds what is expected, or that and one more revision with the content
    /// `maybe`: `backy restore` returns the bytes of each, and `qemu-img compare` finds those of the older ones.
    pub(crate) fn check(&mut self, maybe: Option<&[u8]>) {
        let committed = self.committed();
        if committed.len() == self.expected.len() + 1 {
            self.push(&committed[0], maybe.expect("a revision that nobody made"));
        }
        let expected: Vec<_> = self.expected.iter().map(|e| e.uuid.to_string()).collect();
        assert_eq!(committed, expected, "the revisions in the manifest");
        for revision in &self.expected {
            let uuid = revision.uuid.to_string();
            let bytes = works(&mut self.backy(&["restore", "-r", &uuid, "-"]));
            assert!(bytes == revision.bytes, "backy restores wrong bytes of {uuid}");
        }
        if qemu::available() {
            for revision in self.expected.iter().skip(1) {
                let file = self.folder.join(format!("{}.qcow2", revision.uuid));
                compare(&file, "qcow2", &revision.bytes);
            }
        }
    }

    /// Checks what has to hold when no backup is under way or was interrupted: also that `last.raw` is the newest
    /// revision, that QEMU finds no problem in the deltas, and that no other files are left.
    pub(crate) fn check_at_rest(&mut self) {
        self.check(None);
        self.check_files();
        let Some((newest, older)) = self.expected.split_first() else { return };
        let image = fs::read(self.folder.join("last.raw")).expect("read last.raw");
        assert!(image == newest.bytes, "last.raw is not the newest revision");
        if qemu::available() {
            for revision in older {
                let file = self.folder.join(format!("{}.qcow2", revision.uuid));
                works(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(file));
            }
        }
    }

    /// Checks in this process, which takes milliseconds, that the library reads every revision right and no others.
    pub(crate) fn check_here(&self) {
        let archive = Archive::open(&self.folder).expect("open the archive");
        let found: Vec<RevisionId> = archive.revisions().iter().map(|r| r.uuid).collect();
        let expected: Vec<RevisionId> = self.expected.iter().map(|e| e.uuid).collect();
        assert_eq!(found, expected, "the revisions");
        for (number, revision) in self.expected.iter().enumerate() {
            let bytes = world::read_revision(&archive, number)
                .unwrap_or_else(|error| panic!("revision {number}: {error}"));
            assert!(bytes == revision.bytes, "revision {number} has wrong bytes");
        }
    }

    /// The same for what has to hold when no operation is under way or was interrupted.
    pub(crate) fn check_at_rest_here(&self) {
        self.check_here();
        self.check_files();
        if let Some(newest) = self.expected.first() {
            let image = fs::read(self.folder.join("last.raw")).expect("read last.raw");
            assert!(image == newest.bytes, "last.raw is not the newest revision");
        }
    }

    /// Records what an interrupted command may have done: any of the revisions with these numbers may be deleted, and
    /// one with the content `maybe` may exist.
    pub(crate) fn reconcile(&mut self, may_go: &[usize], maybe: Option<&[u8]>) {
        let committed = self.committed();
        let mut numbers = 0..;
        self.expected.retain(|expected| {
            let number: usize = numbers.next().expect("a number");
            !may_go.contains(&number) || committed.contains(&expected.uuid.to_string())
        });
        if committed.len() == self.expected.len() + 1
            && let Some(bytes) = maybe
        {
            self.push(&committed[0], bytes);
        }
    }

    /// Checks that there are only the files that the revisions need.
    pub(crate) fn check_files(&self) {
        let mut needed: BTreeSet<String> =
            ["README", "backy.toml", "manifest.json", "lock"].map(str::to_owned).into();
        for (number, revision) in self.expected.iter().enumerate() {
            if number == 0 {
                needed.insert("last.raw".to_owned());
                needed.insert(format!("{}.image.digests", revision.uuid));
            } else {
                needed.insert(format!("{}.qcow2", revision.uuid));
                needed.insert(format!("{}.delta.digests", revision.uuid));
            }
        }
        assert_eq!(self.files(), needed, "the files of the archive");
        let problems = checker::check_folder(&self.folder).expect("read the archive");
        assert_eq!(problems.unwrap_or_default(), Vec::<String>::new(), "against the format");
    }

    /// The names of the files in the archive, without those that may come and go.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let entries = self.folder.read_dir().expect("list the archive").map(|e| e.expect("entry"));
        let names = entries.map(|entry| entry.file_name().into_string().expect("a plain name"));
        names.filter(|name| !["reserve", "history.jsonl"].contains(&name.as_str())).collect()
    }

    /// The bytes of all files in the archive.
    pub(crate) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let read = |name: String| {
            let bytes = fs::read(self.folder.join(&name)).expect("read a file of the archive");
            (name, bytes)
        };
        self.files().into_iter().map(read).collect()
    }
}

/// Checks with `qemu-img compare` that an image reads as `bytes`, padded to whole sectors.
pub(crate) fn compare(file: &Path, format: &str, bytes: &[u8]) {
    let mut witness = NamedTempFile::new().expect("a temporary file");
    witness.write_all(bytes).expect("write the expected bytes");
    let sectors = bytes.len().next_multiple_of(512);
    witness.as_file().set_len(sectors as u64).expect("pad the expected bytes");
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-q", "-f", format, "-F", "raw"]).arg(file).arg(witness.path());
    works(&mut command);
}

/// States of a source, one for each size: about half of the blocks change each time, to nothing, text, or noise.
pub(crate) fn states(seed: u64, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut states: Vec<Vec<u8>> = Vec::new();
    for &size in sizes {
        let mut state = states.last().cloned().unwrap_or_default();
        let kept = state.len();
        state.resize(size, 0);
        for (number, block) in state.chunks_mut(BLOCK_BYTES).enumerate() {
            let new = number * BLOCK_BYTES >= kept;
            match random.below(4) {
                0 | 1 if !new => {}
                2 => block.copy_from_slice(&noise(random.number(), block.len())),
                _ => fill_block(&mut random, block),
            }
        }
        states.push(state);
    }
    states
}
