//! What a damaged archive may return: the right bytes or an error. And what a forged archive must not do to us.
//!
//! [`Damaged`] is an archive whose files were changed behind its back, with what its revisions hold. Its checks panic
//! when it returns anything else. `tests/tests/engine/damage.rs` tries damages and commands one by one,
//! `fuzz::damaged_archive` tries any.

mod base;
mod edit;
mod verb;

use std::sync::Mutex;

use backy_lib::archive::Archive;
use backy_lib::format::qcow2::Decompressor;
use backy_lib::image::reader::ReadCache;
use backy_lib::progress::{Event, Observer, Silent};
use backy_lib::storage::sim::Random;
use backy_lib::units::BlockIndex;
use backy_lib::{RestoreOptions, RestoreReport, Result, RevisionId};

use crate::memory::MemoryTarget;
use crate::world::{self, Expected, World};

pub use base::{BASES, Base, base, four_revisions};
pub use edit::Edit;
pub use verb::Verb;

/// Not a whole number of blocks.
const READ_BYTES: usize = 3000;

/// A damaged archive.
pub struct Damaged {
    /// Its disk, and what its revisions hold.
    pub world: World,
    /// Content that revisions of other names may have: backups that were interrupted.
    pub strangers: Vec<Vec<u8>>,
    /// Revisions that a rebuild has named and that nobody has read yet.
    unread: Vec<RevisionId>,
    /// Whether checksums and digests were forged to fit the changes. Then wrong bytes are no fault of ours. What
    /// remains is that everything ends, with an error or without.
    pub forged: bool,
}

impl Damaged {
    /// An archive whose checksums nobody has forged.
    pub fn new(world: World) -> Self {
        Damaged { world, strangers: Vec::new(), unread: Vec::new(), forged: false }
    }

    /// A copy of an intact archive, to be damaged.
    pub fn of(base: &Base) -> Self {
        Damaged { strangers: base.unfinished.clone(), ..Damaged::new(base.world.fork()) }
    }

    /// Corrects the checksums of the changed files.
    pub fn forge(&mut self) {
        edit::forge(&self.world.disk);
        self.forged = true;
    }

    /// Every revision reads right or returns an error, in every way that there is to read it. Returns how many can be
    /// restored.
    ///
    /// # Panics
    /// When one reads wrong.
    pub fn check(&self, place: &str) -> usize {
        let Ok(archive) = world::open(&self.world.disk) else { return 0 };
        let newest = self.world.expected.first().map_or(&[][..], |newest| &newest.bytes);
        let mut right = 0;
        for number in 0..archive.revisions().len() {
            let place = format!("{place}: revision {number}");
            let found = world::read_revision(&archive, number).ok();
            right += usize::from(found.is_some());
            // A revision that only a rebuild knows must read the same each time.
            let expected = self.expected(&place, &archive, number).or(found.clone());
            let Some(expected) = expected else { continue };
            if let Some(found) = found {
                self.compare(&place, &found, &expected);
            }
            self.check_reader(&place, &archive, number, &expected);
            let target = MemoryTarget::holding(newest);
            if archive
                .restore_to(
                    archive.id(number).unwrap(),
                    &target,
                    &world::restore_options(),
                    &Silent,
                )
                .is_ok()
            {
                self.compare(&format!("{place}, onto another"), &target.content(), &expected);
            }
        }
        right
    }

    fn compare(&self, place: &str, found: &[u8], expected: &[u8]) {
        assert!(self.forged || found == expected, "{place} has wrong bytes");
    }

    /// The expected content of a revision, if anybody knows it.
    fn expected(&self, place: &str, archive: &Archive, number: usize) -> Option<Vec<u8>> {
        let revision = &archive.revisions()[number];
        if let Some(known) = self.find(revision.uuid) {
            return Some(known.bytes.clone());
        }
        let found = world::read_revision(archive, number).ok();
        let unread = self.forged || self.unread.contains(&revision.uuid);
        let may_be = |found: &Vec<u8>| unread || self.strangers.contains(found);
        assert!(found.as_ref().is_none_or(may_be), "{place} came out of thin air");
        found
    }

    fn find(&self, uuid: RevisionId) -> Option<&Expected> {
        self.world.expected.iter().find(|expected| expected.uuid == uuid)
    }

    /// Reads a revision as a mount does, twice and in pieces, and looks for its holes.
    fn check_reader(&self, place: &str, archive: &Archive, number: usize, expected: &[u8]) {
        let Ok(reader) = archive.open_reader(archive.id(number).unwrap(), &ReadCache::new(1 << 16))
        else {
            return;
        };
        let mut buffer = vec![0xee; READ_BYTES];
        for offset in (0..expected.len()).step_by(buffer.len()).chain([0, 5000]) {
            if let Ok(count) = reader.read_at(&mut buffer, offset as u64) {
                let end = expected.len().min(offset + buffer.len());
                let right = expected.get(offset..end).unwrap_or_default();
                self.compare(&format!("{place} at {offset}"), &buffer[..count], right);
            }
        }
        let mut offset = 0;
        while let Ok(data) = reader.next_data(offset) {
            let data = data.unwrap_or(expected.len() as u64);
            let hole = expected.get(offset as usize..data as usize).unwrap_or_default();
            let is_hole = self.forged || hole.iter().all(|&byte| byte == 0);
            assert!(is_hole, "{place} has data before {data}");
            match reader.next_hole(data) {
                Ok(next) if next > offset && next < expected.len() as u64 => offset = next,
                _ => break,
            }
        }
    }

    /// Reads single blocks at random offsets, as a mounted revision does.
    fn read_here_and_there(&self, archive: &Archive, random: &mut Random) -> Result<()> {
        for number in 0..archive.revisions().len() {
            let place = format!("revision {number}");
            let Some(bytes) = self.expected(&place, archive, number) else { continue };
            let Ok(chain) = archive.open_revision(archive.id(number).unwrap()) else { continue };
            if chain.verify_digests(&Silent).is_err() {
                continue;
            }
            let mut decompressor = Decompressor::new()?;
            for _ in 0..4 {
                let block = BlockIndex(random.below(chain.blocks().max(1)));
                let extent = chain.block_size().extent(block, bytes.len() as u64);
                let Ok(located) = chain.locate(block, 1) else { continue };
                let mut found = vec![0; extent.len as usize];
                if chain.read(block, &located, &mut decompressor, &mut found).is_ok() {
                    let wanted = &bytes[extent.offset as usize..extent.end() as usize];
                    self.compare(&format!("{place}, block {block}"), &found, wanted);
                }
            }
        }
        Ok(())
    }

    /// Restores what there is of a revision to a new target, to one with other content, and to a stream, and checks
    /// that all three are the same: zero where the report says so, right everywhere else unless the digests are
    /// wrong.
    ///
    /// # Panics
    /// When that is not so, or when it ends early.
    pub fn salvage(&self, place: &str, number: usize) -> RestoreReport {
        let archive = world::open(&self.world.disk).expect("open");
        let expected = self.expected(place, &archive, number);
        let options = RestoreOptions { keep_going: true, ..world::restore_options() };
        let findings = Findings::default();
        let new = MemoryTarget::absent();
        let report = archive
            .restore_to(archive.id(number).unwrap(), &new, &options, &findings)
            .unwrap_or_else(|error| panic!("{place}: {error}"));
        let found = new.content();
        let old = MemoryTarget::holding(&vec![0x55; found.len() + 700]);
        let again =
            archive.restore_to(archive.id(number).unwrap(), &old, &options, &Silent).expect(place);
        assert_eq!(again.unreadable, report.unreadable, "{place}");
        assert!(old.content() == found, "{place}: an existing target");
        let mut stream = Vec::new();
        let streamed = archive
            .restore_to_stream(archive.id(number).unwrap(), &mut stream, &options, &Silent)
            .expect(place);
        assert_eq!(streamed.unreadable, report.unreadable, "{place}");
        assert!(stream == found, "{place}: a stream");

        let Some(mut patched) = expected else { return report };
        assert_eq!(found.len(), patched.len(), "{place}");
        let mut end = None;
        for extent in &report.unreadable {
            assert!(end < Some(extent.offset), "{place}: not ascending and joined");
            end = Some(extent.end());
            patched[extent.offset as usize..extent.end() as usize].fill(0);
        }
        if report.digests_checked {
            assert!(found == patched, "{place}: revision {number} has wrong bytes");
        } else {
            assert!(!findings.0.lock().unwrap().is_empty(), "{place}: nothing was said");
        }
        report
    }
}

/// Counts the problems that an operation finds.
#[derive(Default)]
struct Findings(Mutex<Vec<String>>);

impl Observer for Findings {
    fn event(&self, event: &Event) {
        if let Event::Finding(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}
