//! What is done to a damaged archive, and what has to be true when a command reports success.

use std::path::Path;
use std::sync::Arc;

use arbitrary::Arbitrary;
use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::export::{ExportOptions, export};
use backy_lib::format::qcow2::Decompressor;
use backy_lib::image::delta::Delta;
use backy_lib::progress::Silent;
use backy_lib::status::status;
use backy_lib::storage::dir::DirStorage;
use backy_lib::storage::sim::Random;
use backy_lib::storage::{FileName, Storage};
use backy_lib::units::BlockIndex;
use backy_lib::{
    BackupOptions, ImageUpdate, MaintenanceOptions, Result, RevisionId, ScrubOptions, drill,
};

use super::Damaged;
use crate::memory::MemorySource;
use crate::world::{self, Expected};

/// Nobody has backed up a larger one here. Where forged sizes say so, reading it all would take long, rightly.
const MAX_IMAGE_BYTES: u64 = 4 << 20;

/// What is done to a damaged archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Verb {
    /// Asks how it is.
    Status,
    /// Reads blocks here and there, depending on a seed.
    Reads(u8),
    /// Restores what there is of a revision.
    Salvage(u8),
    /// Writes a revision as a qcow2 file.
    Export(u8),
    /// Reads a revision as a drill and records that.
    Drill(u8),
    /// Makes a revision; `true`: not on a clone.
    Backup(bool),
    /// Removes a revision.
    Remove(u8),
    /// Keeps so many, modulo 6; 0 for what the schedule says.
    Maintain(u8),
    /// Checks, and changes nothing.
    Check,
    /// Checks and repairs.
    Scrub,
    /// Rebuilds the manifest; `true`: even if it is readable.
    Rebuild(bool),
    /// Tags a revision.
    Tag(u8),
}

fn scrub_options() -> ScrubOptions {
    ScrubOptions { threads: Some(1), ..ScrubOptions::default() }
}

impl Damaged {
    /// Runs it. An error is as good as a success. `next` is the state of the source.
    ///
    /// # Panics
    /// When it reports success and has failed.
    pub fn apply(&mut self, verb: Verb, next: &[u8]) -> Result<()> {
        if let Verb::Rebuild(force) = verb {
            return self.rebuild(force);
        }
        let archive = world::open(&self.world.disk)?;
        let clock = world::clock();
        let number = |number: u8| usize::from(number).checked_rem(archive.revisions().len());
        if archive.revisions().iter().any(|revision| revision.size_bytes > MAX_IMAGE_BYTES) {
            return status(&archive, &[], &clock).map(drop);
        }
        match verb {
            Verb::Status => {
                let report = status(&archive, &world::all(&archive), &clock)?;
                serde_json::to_string(&report).expect("JSON");
            }
            Verb::Reads(seed) => self.read_here_and_there(&archive, &mut Random(seed.into()))?,
            Verb::Salvage(seed) => {
                let Some(number) = number(seed) else { return Ok(()) };
                if self.forged {
                    return self.salvage_forged(&archive, number);
                }
                self.salvage("what there still is", number);
            }
            Verb::Export(seed) => {
                let Some(number) = number(seed) else { return Ok(()) };
                self.export(&archive, number)?;
            }
            Verb::Drill(seed) => {
                let Some(number) = number(seed) else { return Ok(()) };
                let report = drill::read(&archive, archive.id(number)?, Some(1), &clock, &Silent)?;
                let read = world::read_revision(&archive, number);
                let agree = report.passed == read.is_ok();
                assert!(agree || self.forged, "a drill said {report:?}, a restore {read:?}");
                self.writer()?.record_drill(report, &clock, &Silent)?;
            }
            Verb::Backup(in_place) => self.backup(in_place, next)?,
            Verb::Remove(number) => {
                let mut writer = self.writer()?;
                let ids: Vec<RevisionId> = writer.archive().id(number.into()).into_iter().collect();
                _ = writer.remove(&ids, &clock, &Silent)?;
            }
            Verb::Maintain(keep) => {
                let (count, confirm) = (u32::from(keep % 6), keep < 128);
                let keep = (count > 0).then_some(count);
                let options = MaintenanceOptions { keep, confirm, threads: Some(1) };
                _ = self.writer()?.maintain(&options, &clock, &Silent)?;
            }
            Verb::Check => {
                let report = archive.check(&scrub_options(), &clock, &Silent)?;
                self.check_clean(report.is_clean(), "scrub -n");
            }
            Verb::Scrub => {
                let report = self.writer()?.scrub(&scrub_options(), &clock, &Silent)?;
                self.check_clean(report.is_clean(), "a scrub");
            }
            Verb::Tag(number) => {
                let tags = ["x".parse().expect("a tag")].into();
                let mut writer = self.writer()?;
                let id = writer.archive().id(number.into())?;
                _ = writer.tag(id, &tags, &[].into(), &clock, &Silent)?;
            }
            Verb::Rebuild(_) => {}
        }
        Ok(())
    }

    fn writer(&self) -> Result<ArchiveWriter> {
        ArchiveWriter::open(world::open(&self.world.disk)?, "a test", &Silent)
    }

    /// What the command reports as healthy reads right.
    fn check_clean(&self, clean: bool, who: &str) {
        if clean && !self.forged {
            let there = world::open(&self.world.disk).expect("open").revisions().len();
            let right = self.check(&format!("after {who} without findings"));
            assert_eq!(right, there, "{who} said that all is well");
        }
    }

    fn backup(&mut self, in_place: bool, next: &[u8]) -> Result<()> {
        let update = if in_place { ImageUpdate::InPlace } else { ImageUpdate::Auto };
        let options = BackupOptions { update, ..world::options() };
        // A failed command may have committed all the same.
        self.strangers.push(next.to_vec());
        let report = world::backup_with(&self.world.disk, &MemorySource::new(next), &options)?;
        let uuid = report.revision.uuid;
        self.world.expected.insert(0, Expected { uuid, bytes: next.to_vec() });
        Ok(())
    }

    /// An image whose digests are lost is taken as it is, under a name of its own.
    fn rebuild(&mut self, force: bool) -> Result<()> {
        let disk = Arc::new(self.world.disk.clone());
        let report = ArchiveWriter::rebuild_on(disk, "a test", force, &Silent)?;
        let archive = world::open(&self.world.disk)?;
        let newest = report.revisions.first().copied();
        for (number, uuid) in report.revisions.iter().enumerate() {
            if self.find(*uuid).is_some() {
                continue;
            }
            let found = world::read_revision(&archive, number);
            let is_newest = newest == Some(*uuid);
            let known = found.as_ref().is_ok_and(|found| self.strangers.contains(found));
            assert!(is_newest || known || self.forged, "a rebuild made up revision {uuid}");
            match found {
                Ok(bytes) => self.world.expected.push(Expected { uuid: *uuid, bytes }),
                Err(_) => self.unread.push(*uuid),
            }
        }
        Ok(())
    }

    /// What an export reports as written can be read from it.
    fn export(&self, archive: &Archive, number: usize) -> Result<()> {
        let place = format!("export of revision {number}");
        let expected = self.expected(&place, archive, number);
        // In memory, where a sync costs nothing.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = folder.expect("a temporary folder");
        let uuid = RevisionId::new(world::clock().0);
        let path = folder.path().join(FileName::Delta(uuid).to_string());
        let options = ExportOptions { level: None, threads: Some(1) };
        export(archive, archive.id(number)?, &path, &options, &Silent)?;
        let storage: Box<dyn Storage> = Box::new(DirStorage::open(folder.path())?);
        let delta = Delta::open_any_size(&*storage, uuid, archive.manifest().block_size)?;
        if self.forged {
            return Ok(());
        }
        // A rebuilt manifest may have another one.
        let size = archive.manifest().block_size;
        let blocks = size.count(archive.revisions()[number].size_bytes);
        let mut found = vec![0; blocks as usize * size.len()];
        let clusters = delta.clusters(BlockIndex(0), blocks)?.into_iter();
        let mut decompressor = Decompressor::new()?;
        for (cluster, block) in clusters.zip(found.chunks_mut(size.len())) {
            if cluster != backy_lib::format::qcow2::Cluster::Unallocated {
                delta.read_cluster(cluster, &mut decompressor, block)?;
            }
        }
        if let Some(expected) = expected {
            found.truncate(expected.len());
            self.compare(&place, &found, &expected);
        }
        Ok(())
    }

    fn salvage_forged(&self, archive: &Archive, number: usize) -> Result<()> {
        let options = backy_lib::RestoreOptions { keep_going: true, ..world::restore_options() };
        let mut stream = Vec::new();
        archive
            .restore_to_stream(archive.id(number).unwrap(), &mut stream, &options, &Silent)
            .map(drop)
    }
}
