//! Readers that never stop: processes that restore, and programs that read a mount, each comparing every byte.
//!
//! A revision that is deleted while it is read is an error for its reader, and no other error is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

use backy_lib::RevisionId;
use backy_lib::storage::sim::Random;
use serde_json::Value;

use crate::mounted::forget_pages;
use crate::site::{Site, backy, run, text, words};

/// Leaves the processor to the others, too.
const PAUSE: Duration = Duration::from_millis(20);

type Bytes = Arc<Vec<u8>>;

/// Sets a flag at its end, also by a panic, for otherwise the others would wait forever.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The content of every revision that ever existed.
pub(crate) struct Truth {
    folder: PathBuf,
    known: Mutex<BTreeMap<RevisionId, Bytes>>,
}

impl Truth {
    pub(crate) fn of(site: &Site) -> Self {
        let truth = Truth { folder: site.folder.clone(), known: Mutex::default() };
        truth.learn(site);
        truth
    }

    /// Takes over what is new in the site.
    pub(crate) fn learn(&self, site: &Site) {
        let mut known = self.known();
        for revision in &site.expected {
            known.entry(revision.uuid).or_insert_with(|| Arc::new(revision.bytes.clone()));
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<RevisionId, Bytes>> {
        self.known.lock().expect("nobody panicked")
    }

    /// The revisions that the manifest names at this moment, newest first.
    fn there(&self) -> Vec<RevisionId> {
        let bytes = std::fs::read(self.folder.join("manifest.json")).expect("read the manifest");
        let manifest: Value = serde_json::from_slice(&bytes).expect("a manifest in JSON");
        let revisions = manifest["revisions"].as_array().expect("revisions").iter();
        let uuids = revisions.map(|revision| revision["uuid"].as_str().expect("a UUID"));
        uuids.map(|uuid| uuid.parse().expect("a UUID")).collect()
    }

    /// A random existing one, with its content.
    fn pick(&self, random: &mut Random) -> Option<(RevisionId, Bytes)> {
        let there = self.there();
        let known = self.known();
        let known: Vec<_> = there.iter().filter_map(|uuid| known.get_key_value(uuid)).collect();
        let (uuid, bytes) = known.get(random.below(known.len().max(1) as u64) as usize)?;
        Some((**uuid, Arc::clone(bytes)))
    }

    /// Only a deleted revision may be an error.
    fn excuse(&self, uuid: RevisionId, what: &str) {
        assert!(!self.there().contains(&uuid), "{uuid} is there and cannot be read: {what}");
    }
}

/// Restores revisions by the command until `done`. Returns how many were right.
pub(crate) fn restore_on_and_on(truth: &Truth, seed: u64, done: &AtomicBool) -> u64 {
    let mut random = Random(seed);
    let mut right = 0;
    while !done.load(Relaxed) {
        let Some((uuid, bytes)) = truth.pick(&mut random) else { continue };
        let name = uuid.to_string();
        let output = run(&mut backy(&truth.folder, &["restore", "-r", &name, "-"]));
        sleep(PAUSE);
        if output.status.success() {
            assert!(output.stdout == *bytes, "a restore gives wrong bytes of {uuid}");
            right += 1;
        } else {
            assert!(bytes.starts_with(&output.stdout), "wrong bytes of {uuid} before the error");
            truth.excuse(uuid, &words(&output));
        }
    }
    right
}

/// Reads revisions of a mount until `done`: a new one each time, and one that is held open as long as it exists.
/// Returns how many were right.
pub(crate) fn read_a_mount_on_and_on(
    truth: &Truth,
    mountpoint: &Path,
    seed: u64,
    done: &AtomicBool,
) -> u64 {
    let mut random = Random(seed);
    let mut held: Option<(RevisionId, Bytes, File)> = None;
    let mut right = 0;
    while !done.load(Relaxed) {
        if let Some((uuid, bytes, file)) = &held {
            forget_pages(file);
            match read_all(file, bytes.len()) {
                Ok(found) => {
                    assert!(found == **bytes, "an open file has wrong bytes of {uuid}");
                    right += 1;
                }
                Err(error) => {
                    truth.excuse(*uuid, &format!("held open: {error}"));
                    held = None;
                }
            }
        }
        let Some((uuid, bytes)) = truth.pick(&mut random) else { continue };
        let file = mountpoint.join(uuid.to_string());
        let mut found = Vec::new();
        match File::open(&file).and_then(|mut file| Ok((file.read_to_end(&mut found)?, file))) {
            Ok((_, file)) => {
                assert!(found == *bytes, "a mount has wrong bytes of {uuid}");
                right += 1;
                if held.is_none() || random.below(20) == 0 {
                    held = Some((uuid, bytes, file));
                }
            }
            Err(error) => {
                assert!(bytes.starts_with(&found), "wrong bytes of {uuid} before the error");
                truth.excuse(uuid, &format!("{}: {error}", text(&file)));
            }
        }
        sleep(PAUSE);
    }
    right
}

fn read_all(file: &File, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
