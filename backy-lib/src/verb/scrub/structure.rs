//! Files, lengths, headers, tables and reference counts: everything that follows from the manifest.

use super::stored::StoredFile;
use super::{Finding, Scrub};
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, Findings, InProgress, Operation, Revision};
use crate::format::qcow2::{ENTRY_BYTES, Layout};
use crate::image::delta::{self, Delta};
use crate::image::refcounts::{self, Unreferenced};
use crate::storage::manifest;
use crate::storage::{Access, FileName};

impl Scrub<'_> {
    /// Checks everything except the content of blocks and the digests, and repairs what follows from the manifest.
    pub(super) fn check_structure(&mut self) -> Result<()> {
        let present = self.context.storage.list()?;
        for name in self.manifest.set_aside.clone() {
            if present.contains(&name) {
                let message = "set aside by a rebuild; delete it yourself if nobody needs it";
                self.find(name, message.to_owned(), None, false)?;
            }
        }
        if !present.contains(&FileName::CONFIG) {
            let message = "missing: backups fail without it; create it again".to_owned();
            self.find(FileName::CONFIG, message, None, false)?;
        }
        for number in self.numbers() {
            progress::check(self.context.observer)?;
            let Some(revision) = self.manifest.revisions.get(number).cloned() else { continue };
            let missing: Vec<FileName> = [revision.file(), revision.digests_file()]
                .into_iter()
                .filter(|name| present.binary_search(name).is_err())
                .collect();
            if let Some(name) = missing.first().filter(|name| **name == revision.file()) {
                self.find(*name, "missing".to_owned(), Some((number, self.all(&revision))), false)?;
            } else if revision.is_image() {
                self.check_image_length(number, &revision)?;
            } else {
                self.check_delta(number, &revision)?;
            }
        }
        Ok(())
    }

    /// All blocks of a revision.
    pub(super) fn all(&self, revision: &Revision) -> BlockRange {
        let count = self.manifest.block_size.count(revision.size_bytes);
        BlockRange { first: BlockIndex(0), count }
    }

    fn check_image_length(&mut self, number: usize, revision: &Revision) -> Result<()> {
        let image = self.context.storage.open(FileName::IMAGE, Access::Read)?;
        let (found, expected) = (image.len()?, revision.size_bytes);
        if found == expected || self.manifest.in_progress.is_some() {
            return Ok(());
        }
        if found > expected {
            // Bytes past the end are checked once it is known whether the rest is correct.
            return Ok(());
        }
        let message = format!("length: found {found} bytes, expected {expected}");
        let lost = self.cut_off(revision, number, found.min(expected))?;
        if self.repairs() {
            // Recorded before the length is corrected: with a budget, this scrub may not read the content.
            if !lost.bad_blocks.is_empty() {
                self.note_lost(number, &lost);
                manifest::publish(&**self.context.storage, self.manifest)?;
            }
            let image = self.context.storage.open(FileName::IMAGE, Access::Write)?;
            image.set_len(expected)?;
            image.sync()?;
        }
        let repaired = self.repairs() && lost.bad_blocks.is_empty();
        let mut affected = self.affected(number, &lost)?;
        affected.retain(|affected| !affected.extents.is_empty());
        let file = FileName::IMAGE.to_string();
        self.findings.push(Finding { file, blocks: None, message, affected, repaired });
        Ok(())
    }

    /// Cuts off bytes past the end of the image, if everything before is provably the newest revision.
    /// Otherwise they may be part of what is missing, as when manifest and image are from different times.
    pub(super) fn check_length(&mut self) -> Result<()> {
        let Some(revision) = self.manifest.revisions.first().cloned() else { return Ok(()) };
        if !self.numbers().contains(&0) || self.manifest.in_progress.is_some() {
            return Ok(());
        }
        let image = match self.context.storage.open(FileName::IMAGE, Access::Read) {
            Ok(image) => image,
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        let (found, expected) = (image.len()?, revision.size_bytes);
        if found <= expected {
            return Ok(());
        }
        let is_right = self.vouched.contains(&0)
            && revision.findings.bad_blocks.is_empty()
            && self.is_verified_now(&revision);
        let repaired = self.repairs() && is_right;
        if repaired {
            let image = self.context.storage.open(FileName::IMAGE, Access::Write)?;
            image.set_len(expected)?;
            image.sync()?;
        }
        let message = format!("length: found {found} bytes, expected {expected}");
        self.find(FileName::IMAGE, message, None, repaired)
    }

    /// Whether this scrub has read all of a revision's own file.
    fn is_verified_now(&self, revision: &Revision) -> bool {
        let mut next = BlockIndex(0);
        for range in revision.verified.iter().filter(|range| range.at == self.now) {
            if range.blocks.first <= next {
                next = next.max(range.blocks.end());
            }
        }
        next >= self.all(revision).end()
    }

    /// The blocks that an image ending at `end` lacks: those past the end that are not zero.
    pub(super) fn cut_off(&self, revision: &Revision, number: usize, end: u64) -> Result<Findings> {
        let all = self.all(revision);
        let rest = BlockRange::between(self.manifest.block_size.index(end), all.end());
        let mut lost: Vec<BlockRange> = Vec::new();
        let mut take = |file: StoredFile| -> Result<()> {
            let mut next = rest.first;
            while let Some(from) = file.next_stored_block(next, rest.end())? {
                progress::check(self.context.observer)?;
                let count = limits().walk_blocks.min(rest.end().0 - from.0);
                let entries = file.held_entries(BlockRange { first: from, count })?;
                for (at, entry) in entries.iter().enumerate() {
                    let block = from.plus(at as u64);
                    match lost.last_mut().filter(|range| range.end() == block) {
                        _ if entry.is_none_or(|entry| entry.is_zero_block()) => {}
                        Some(range) => range.count += 1,
                        None => lost.push(BlockRange { first: block, count: 1 }),
                    }
                }
                next = from.plus(count);
            }
            Ok(())
        };
        match self.stored_file(number)?.map(&mut take) {
            Some(Ok(())) => {}
            Some(Err(error)) if !error.is_damage() => return Err(error),
            // Without digests nobody can tell which blocks are zero.
            _ => lost = Vec::from_iter(Some(rest).filter(|rest| rest.count > 0)),
        }
        Ok(Findings::new(lost))
    }

    fn check_delta(&mut self, number: usize, revision: &Revision) -> Result<()> {
        let name = revision.file();
        if let Some(flaw) = self.header_flaw(number, revision)? {
            let repaired = self.repairs() && self.write_tables(number, revision)?;
            let costs = (number, self.all(revision));
            self.find(name, flaw, Some(costs).filter(|_| !repaired), repaired)?;
            if !repaired {
                return Ok(());
            }
        }
        let size = self.manifest.block_size;
        let delta = Delta::open(&**self.context.storage, revision.uuid, size, revision.size_bytes)?;
        let all = self.all(revision);
        let mut next = all.first;
        while next < all.end() {
            progress::check(self.context.observer)?;
            let first = match delta.next_held_block(next, all.end()) {
                Ok(Some(first)) => first,
                Ok(None) => break,
                Err(error) if error.is_damage() => next,
                Err(error) => return Err(error),
            };
            next = BlockIndex(first.plus(limits().walk_blocks).0.min(all.end().0));
            match delta.clusters(first, next.0 - first.0) {
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    let costs = (number, BlockRange::between(first, next));
                    self.find(name, flaw_of(error), Some(costs), false)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The problem with the header or the L1 table, both of which follow from the manifest.
    fn header_flaw(&self, number: usize, revision: &Revision) -> Result<Option<String>> {
        let size = self.manifest.block_size;
        let layout = Layout::new(size, revision.size_bytes);
        let delta =
            match Delta::open(&**self.context.storage, revision.uuid, size, revision.size_bytes) {
                Ok(delta) => delta,
                Err(error) if error.is_damage() => return Ok(Some(flaw_of(error))),
                Err(error) => return Err(error),
            };
        let expected = revision.backing(self.manifest.newer(number));
        // A running writer may be about to move it, and be appending to the file.
        if self.manifest.in_progress.is_none() {
            let found = delta.header();
            if found.backing != expected {
                let name = |backing: Option<crate::format::qcow2::Backing>| {
                    backing.map_or("none".to_owned(), |backing| backing.file.to_string())
                };
                let (found, expected) = (name(found.backing), name(expected));
                return Ok(Some(format!("backing file: found {found}, expected {expected}")));
            }
            if found.dirty {
                let flaw = "header: found the dirty bit, expected that of a finished delta";
                return Ok(Some(flaw.to_owned()));
            }
        }
        if !delta.header().is_laid_out_as(&layout) {
            // QEMU may have moved them or rewritten the file: then nothing is where backy would put it, and
            // there is no problem.
            let is_damaged = self.is_made_by_us(revision)?
                && !refcounts::has_sound_tables(&delta, self.context.observer)?;
            let flaw = "header: found tables in other places, expected that of a finished delta";
            return Ok(is_damaged.then(|| flaw.to_owned()));
        }
        let table = layout.l1_table();
        let mut found = vec![0; table.len()];
        let file = self.context.storage.open(revision.file(), Access::Read)?;
        let read = file.read_at(&mut found, layout.l1_offset)?;
        let wrong =
            found.chunks(ENTRY_BYTES).zip(table.chunks(ENTRY_BYTES)).position(|(a, b)| a != b);
        Ok(match wrong {
            Some(entry) => {
                Some(format!("L1 entry {entry}: found another offset, expected its place"))
            }
            None if read < table.len() => Some("L1 table: the file ends within it".to_owned()),
            None => None,
        })
    }

    /// Whether a delta has backy's L1 table where backy puts it, or remains of it, whatever its header says.
    fn is_made_by_us(&self, revision: &Revision) -> Result<bool> {
        let layout = Layout::new(self.manifest.block_size, revision.size_bytes);
        let table = layout.l1_table();
        let mut found = vec![0; table.len()];
        let file = self.context.storage.open(revision.file(), Access::Read)?;
        file.read_padded_at(&mut found, layout.l1_offset)?;
        Ok(found.chunks(ENTRY_BYTES).zip(table.chunks(ENTRY_BYTES)).any(|(a, b)| a == b))
    }

    /// Writes the header and the L1 table again, or only the header if both are sound but elsewhere; returns
    /// whether the delta can be opened then. Does not overwrite a delta made by QEMU.
    fn write_tables(&mut self, number: usize, revision: &Revision) -> Result<bool> {
        let backing = revision.backing(self.manifest.newer(number));
        let (size, bytes) = (self.manifest.block_size, revision.size_bytes);
        let layout = Layout::new(size, bytes);
        let in_place = match Delta::open(&**self.context.storage, revision.uuid, size, bytes) {
            Ok(delta) if delta.header().is_laid_out_as(&layout) => true,
            Ok(delta) => {
                self.is_made_by_us(revision)?
                    && !refcounts::has_sound_tables(&delta, self.context.observer)?
            }
            Err(error) if !error.is_damage() => return Err(error),
            Err(_) if self.is_made_by_us(revision)? => true,
            Err(_) => return Ok(false),
        };
        self.begin_repair(revision)?;
        if in_place {
            delta::write_tables(&**self.context.storage, revision.uuid, size, bytes, backing)?;
        }
        let keep = Unreferenced::Keep;
        let repaired =
            delta::repair(&**self.context.storage, revision.uuid, size, bytes, backing, keep);
        self.end_repair()?;
        match repaired {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Checks the reference counts, last: unreferenced clusters are only freed if nothing is missing.
    pub(super) fn check_refcounts(&mut self) -> Result<()> {
        if self.manifest.in_progress.is_some() {
            return Ok(());
        }
        let observer = self.context.observer;
        for number in self.numbers() {
            progress::check(observer)?;
            let Some(revision) = self.manifest.revisions.get(number).cloned() else { continue };
            if revision.is_image() {
                continue;
            }
            let (size, bytes) = (self.manifest.block_size, revision.size_bytes);
            let delta = Delta::open(&**self.context.storage, revision.uuid, size, bytes);
            let checked = delta.and_then(|delta| {
                let counted = |delta| refcounts::check(delta, self.unreferenced(number), observer);
                Ok((is_whole(&delta, observer)?, counted(&delta)))
            });
            let flaw = match checked {
                // Its problem was reported already.
                Ok((false, _)) => continue,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
                Ok((true, Ok(flaw))) => flaw,
                Ok((true, Err(error))) if error.is_damage() => Some(flaw_of(error)),
                Ok((true, Err(error))) => return Err(error),
            };
            let Some(flaw) = flaw else { continue };
            let repaired = self.repairs() && self.recount(number, &revision)?;
            self.find(revision.file(), flaw, None, repaired)?;
        }
        Ok(())
    }

    /// Whether the unreferenced clusters of a delta can be freed: its digest matches, and none of its blocks is bad.
    fn unreferenced(&self, number: usize) -> Unreferenced {
        let revision = self.manifest.revisions.get(number);
        let is_good = revision.is_some_and(|revision| revision.findings.bad_blocks.is_empty());
        match is_good && self.vouched.contains(&number) {
            true => Unreferenced::Free,
            false => Unreferenced::Keep,
        }
    }

    /// Rewrites the reference counts of a delta; false for one that backy does not write to.
    pub(super) fn recount(&mut self, number: usize, revision: &Revision) -> Result<bool> {
        self.begin_repair(revision)?;
        let repaired = match self.repair_delta(number, revision) {
            Ok(()) => true,
            Err(error) if error.is_damage() => false,
            Err(error) => return Err(error),
        };
        self.end_repair()?;
        Ok(repaired)
    }

    /// The same, between the start of a repair and its end.
    pub(super) fn repair_delta(&self, number: usize, revision: &Revision) -> Result<()> {
        let backing = revision.backing(self.manifest.newer(number));
        let (size, bytes) = (self.manifest.block_size, revision.size_bytes);
        let unreferenced = self.unreferenced(number);
        delta::repair(&**self.context.storage, revision.uuid, size, bytes, backing, unreferenced)
    }

    /// Publishes that a delta is being changed, so that the next writer continues if this one cannot.
    pub(super) fn begin_repair(&mut self, revision: &Revision) -> Result<()> {
        let (operation, started) = (Operation::Merge, self.now);
        self.manifest.in_progress =
            Some(InProgress { operation, revision: revision.uuid, started });
        manifest::publish(&**self.context.storage, self.manifest)
    }

    pub(super) fn end_repair(&mut self) -> Result<()> {
        self.manifest.in_progress = None;
        manifest::publish(&**self.context.storage, self.manifest)
    }

    /// One revision's own file, if it can be opened.
    pub(super) fn stored_file(&self, number: usize) -> Result<Option<StoredFile>> {
        let Some(revision) = self.manifest.revisions.get(number) else { return Ok(None) };
        match StoredFile::open(&**self.context.storage, revision, self.manifest.block_size) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether every entry of a delta can be read.
fn is_whole(delta: &Delta, observer: &dyn Observer) -> Result<bool> {
    let size = delta.header().cluster_size;
    let end = BlockIndex(size.count(delta.header().virtual_bytes));
    let mut next = BlockIndex(0);
    let mut step = || -> Result<()> {
        while let Some(first) = delta.next_held_block(next, end)? {
            progress::check(observer)?;
            next = BlockIndex(first.plus(limits().step_blocks).0.min(end.0));
            delta.held(first, next.0 - first.0)?;
        }
        Ok(())
    };
    match step() {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The problem, without the file's path, which the finding has.
pub(super) fn flaw_of(error: Error) -> String {
    match error {
        Error::Damaged { flaw, .. } => flaw,
        other => other.to_string(),
    }
}
