//! Checks the digests of all revisions against their digest files: one walk over the tables, however many
//! revisions there are.

use std::collections::HashMap;

use super::Scrub;
use super::stored::StoredFile;
use super::structure::flaw_of;
use crate::archive::proof;
use crate::base::block_ranges::Ranges;
use crate::base::digest::{RevisionHasher, TableEntry};
use crate::base::error::{Error, Result};
use crate::base::limits::limits;
use crate::base::progress::{self, Observer};
use crate::base::units::BlockIndex;
use crate::format::digests::DigestsHeader;
use crate::format::manifest::{BlockRange, Revision};
use crate::format::qcow2::Decompressor;
use crate::image::chain::Chain;
use crate::image::digests::rewrite;
use crate::image::walk;
use crate::storage::{DigestsKind, FileName};

/// The most ranges of emptied blocks to remember.
const MAX_EMPTIED: usize = 1 << 16;

impl Scrub<'_> {
    /// Checks that each revision's digest follows from its digest files. Rebuilds a wrong file from the data,
    /// if that data is then proven correct. If all match, returns which zero blocks of the image an older revision
    /// holds, in few ranges, which may include some in between.
    pub(super) fn check_digests(&mut self) -> Result<Option<Vec<BlockRange>>> {
        let (wrong, emptied) = self.wrong_digests()?;
        let numbers = self.numbers().into_iter();
        self.vouched = numbers.filter(|number| wrong.binary_search(number).is_err()).collect();
        let mut places = Places::default();
        for number in wrong {
            progress::check(self.context.observer)?;
            // Repairing a newer revision may have repaired an older one.
            let Some(error) = self.digest_error(number)? else {
                self.vouched.insert(number);
                continue;
            };
            let Some(revision) = self.manifest.revisions.get(number).cloned() else { continue };
            let error = match self.repairs() && self.enter_lost_blocks(number, &revision)? {
                true => match self.digest_error(number)? {
                    Some(error) => error,
                    None => {
                        self.vouched.insert(number);
                        continue;
                    }
                },
                false => error,
            };
            if self.is_about_another(&error, revision.digests_file(), &mut places) {
                continue;
            }
            let flaw = flaw_of(error);
            let repaired = self.repairs() && self.rebuild_digests(number, &revision)?;
            if repaired {
                self.vouched.insert(number);
            }
            let costs = (number, self.all(&revision));
            let costs = Some(costs).filter(|_| !repaired);
            self.find(revision.digests_file(), flaw, costs, repaired)?;
        }
        Ok(emptied)
    }

    /// Numbers of the revisions whose digest does not match, ascending; if there are none at all, also the zero blocks
    /// of the image that an older revision holds.
    fn wrong_digests(&self) -> Result<(Vec<usize>, Option<Vec<BlockRange>>)> {
        let mut wrong = Vec::new();
        let mut emptied = Ranges::with_limit(MAX_EMPTIED);
        let revisions = self.manifest.revisions.as_slice();
        let mut first = 0;
        while first < revisions.len() {
            let rest = revisions.iter().enumerate().skip(first + 1);
            let end = rest.into_iter().find(|(_, revision)| revision.is_standalone());
            let end = end.map_or(revisions.len(), |(number, _)| number);
            self.walk(first, end, &mut wrong, &mut emptied)?;
            first = end;
        }
        let emptied = wrong.is_empty().then(|| emptied.finish());
        // Ascending.
        let numbers = self.numbers();
        wrong.retain(|number| numbers.binary_search(number).is_ok());
        Ok((wrong, emptied))
    }

    /// Walks the tables of revisions `first` to `end` in parallel; each reads through to the previous one.
    fn walk(
        &self,
        first: usize,
        end: usize,
        wrong: &mut Vec<usize>,
        emptied: &mut Ranges,
    ) -> Result<()> {
        let size = self.manifest.block_size;
        let revisions = self.manifest.revisions.get(first..end).unwrap_or_default();
        let mut files: Vec<Walked> = Vec::new();
        for (number, revision) in (first..end).zip(revisions) {
            let Some(file) = self.stored_file(number)? else {
                // Neither this one nor those after it can match.
                wrong.extend(number..end);
                break;
            };
            // Usually all have the same size, and nothing has been digested yet.
            let same = files.last().filter(|last| last.size_bytes == revision.size_bytes);
            let hasher = match same {
                Some(last) => last.hasher.clone(),
                None => RevisionHasher::new(size, revision.size_bytes),
            };
            files.push(Walked {
                file,
                size_bytes: revision.size_bytes,
                blocks: size.count(revision.size_bytes),
                standalone: revision.is_standalone(),
                is_image: revision.is_image(),
                hasher,
                broken: false,
            });
        }
        let blocks = files.iter().map(|file| file.blocks).max().unwrap_or(0);
        let mut next = BlockIndex(0);
        while next.0 < blocks {
            progress::check(self.context.observer)?;
            let data = next_data(&files, next, BlockIndex(blocks));
            for walked in &mut files {
                let end = data.0.min(walked.blocks);
                let zeros = end.saturating_sub(next.0);
                walked.hasher.push_zero_blocks(zeros, self.context.observer)?;
            }
            let count = limits().window_blocks.min(blocks - data.0);
            let window = BlockRange { first: data, count };
            walk_window(&mut files, window, emptied, self.context.observer)?;
            next = data.plus(count);
        }
        for ((number, revision), walked) in (first..end).zip(revisions).zip(files) {
            if walked.broken || walked.hasher.finish() != revision.expected_digest() {
                wrong.push(number);
            }
        }
        wrong.sort_unstable();
        wrong.dedup();
        Ok(())
    }

    /// Whether the digests cannot be checked because of a file that is among the findings already, with what it costs.
    fn is_about_another(&self, error: &Error, own: FileName, places: &mut Places) -> bool {
        for (finding, place) in self.findings.iter().zip(0..).skip(places.known) {
            places.last.insert(finding.file.clone(), place);
        }
        places.known = self.findings.len();
        let name = error.path().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        name.is_some_and(|name| {
            let found = places.last.get(name).and_then(|place| self.findings.get(*place));
            found.is_some_and(|finding| !finding.repaired) && name != own.to_string()
        })
    }

    /// The problem with the digests of one revision.
    fn digest_error(&self, number: usize) -> Result<Option<Error>> {
        let checked = Chain::open(self.context.storage, self.manifest, number)
            .and_then(|chain| chain.verify_digests(self.context.observer));
        match checked {
            Ok(()) => Ok(None),
            Err(error) if error.is_damage() => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Rebuilds the digest file of a revision from its data. Returns whether its digest then matches; if not,
    /// nothing is changed.
    fn rebuild_digests(&mut self, number: usize, revision: &Revision) -> Result<bool> {
        if revision.is_image() {
            // Its lost blocks are recorded as bad then.
            return match proof::prove_newest(
                self.context.storage,
                self.manifest,
                self.context.observer,
            ) {
                Ok(_) => Ok(true),
                Err(error) if error.is_damage() => Ok(false),
                Err(error) => Err(error),
            };
        }
        let base = match number.checked_sub(1).filter(|_| revision.base.is_some()) {
            Some(base) => match Chain::open(self.context.storage, self.manifest, base) {
                Ok(chain) => Some(chain),
                Err(error) if error.is_damage() => return Ok(false),
                Err(error) => return Err(error),
            },
            None => None,
        };
        let size = self.manifest.block_size;
        let Some(data) = StoredFile::without_digests(&**self.context.storage, revision, size)?
        else {
            return Ok(false);
        };
        let mut hasher = RevisionHasher::new(size, revision.size_bytes);
        let all = self.all(revision);
        let walked =
            for_each_entry(&data, base.as_ref(), all, self.context.observer, |_, entry, _| {
                hasher.push(entry);
                Ok(())
            });
        match walked {
            Ok(()) if hasher.finish() == revision.digest => {}
            Ok(()) => return Ok(false),
            Err(error) if error.is_damage() => return Ok(false),
            Err(error) => return Err(error),
        }
        let header = DigestsHeader::new(DigestsKind::Delta, revision, size);
        let mut file = rewrite(&**self.context.storage, &header)?;
        for_each_entry(&data, base.as_ref(), all, self.context.observer, |block, entry, held| {
            // A zero entry has to be written too: the file may have another one there.
            if held { file.set(block, entry) } else { Ok(()) }
        })?;
        file.finish()?;
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            revision.table_digest = None;
        }
        Ok(true)
    }
}

/// Where the findings about each file are: the last one for each. Repairing a file resolves all of them.
#[derive(Default)]
struct Places {
    last: HashMap<String, usize>,
    /// How many findings were examined.
    known: usize,
}

/// A revision in the walk.
struct Walked {
    file: StoredFile,
    size_bytes: u64,
    blocks: u64,
    standalone: bool,
    is_image: bool,
    hasher: RevisionHasher,
    broken: bool,
}

/// Computes the entries of a window from the newest revision to the oldest, each on top of the previous one.
fn walk_window(
    files: &mut [Walked],
    window: BlockRange,
    emptied: &mut Ranges,
    observer: &dyn Observer,
) -> Result<()> {
    let mut entries: Vec<TableEntry> = Vec::new();
    let mut zeros = Zeros::default();
    for walked in files {
        progress::check(observer)?;
        let inside = walked.blocks.saturating_sub(window.first.0).min(window.count);
        if walked.standalone {
            entries.clear();
        }
        // Past the end of the base everything is zero.
        entries.resize(inside as usize, TableEntry::ZERO_BLOCK);
        let end = window.first.plus(inside);
        let held = walked.file.next_entry(window.first, end).and_then(|next| match next {
            Some(first) => {
                let blocks = BlockRange::between(first, end);
                Ok(Some((first, walked.file.held_entries(blocks)?)))
            }
            None => Ok(None),
        });
        match held {
            Ok(Some((first, held))) => {
                let at = (first.0 - window.first.0) as usize;
                zeros.note_held(at, &held);
                let slots = entries.get_mut(at..).unwrap_or_default();
                for (slot, entry) in slots.iter_mut().zip(held) {
                    *slot = entry.unwrap_or(*slot);
                }
            }
            Ok(None) => {}
            Err(error) if error.is_damage() => walked.broken = true,
            Err(error) => return Err(error),
        }
        if walked.is_image {
            zeros = Zeros::of(&entries);
        }
        for run in entries.chunk_by(|a, b| a.is_zero_block() && b.is_zero_block()) {
            match run {
                [entry] => walked.hasher.push(*entry),
                zeros => walked.hasher.push_zero_blocks(zeros.len() as u64, observer)?,
            }
        }
    }
    zeros.emptied(window.first).for_each(|block| emptied.push(BlockRange::one(block)));
    Ok(())
}

/// The blocks of a window that are zero in the image, and whether an older revision holds them.
#[derive(Default)]
struct Zeros(Vec<Option<bool>>);

impl Zeros {
    fn of(image: &[TableEntry]) -> Self {
        Zeros(image.iter().map(|entry| entry.is_zero_block().then_some(false)).collect())
    }

    /// Takes the entries of the blocks from number `at` of the window on that a file holds.
    fn note_held(&mut self, at: usize, held: &[Option<TableEntry>]) {
        let zeros = self.0.get_mut(at..).unwrap_or_default().iter_mut().zip(held);
        let zeros = zeros.filter(|(_, held)| held.is_some());
        zeros.for_each(|(zero, _)| *zero = zero.map(|_| true));
    }

    fn emptied(self, first: BlockIndex) -> impl Iterator<Item = BlockIndex> {
        let blocks = self.0.into_iter().zip((first.0..).map(BlockIndex));
        blocks.filter(|(zero, _)| *zero == Some(true)).map(|(_, block)| block)
    }
}

/// The first block from `from` on that any of the files holds, or `end`.
fn next_data(files: &[Walked], from: BlockIndex, end: BlockIndex) -> BlockIndex {
    files.iter().fold(end, |next, walked| match walked.file.next_entry(from, next) {
        Ok(found) => found.unwrap_or(next),
        // Damaged tables are noticed when they are read.
        Err(_) => from,
    })
}

/// Passes on the entries of all blocks, from the data for blocks that the file holds and from the base for
/// the others, and whether the file holds the block.
fn for_each_entry(
    data: &StoredFile,
    base: Option<&Chain>,
    all: BlockRange,
    observer: &dyn Observer,
    mut take: impl FnMut(BlockIndex, TableEntry, bool) -> Result<()>,
) -> Result<()> {
    let mut decompressor = Decompressor::new()?;
    for window in all.steps(limits().window_blocks) {
        progress::check(observer)?;
        let inherited = walk::entries_behind(base, window)?;
        let held = data.holds(window)?;
        for ((block, held), inherited) in (window.first.0..).zip(held).zip(inherited) {
            let block = BlockIndex(block);
            let entry = match held {
                true => TableEntry::of_block(&data.read_block(block, &mut decompressor)?),
                false => inherited,
            };
            take(block, entry, held)?;
        }
    }
    Ok(())
}
