//! Deals with a digest table of the newest revision that is wrong as a whole: which parts of it and of the image can
//! be proved, and which blocks are lost.
//!
//! The digest of the revision is the judge. Where an entry and the content of its block disagree, one of the two is
//! wrong; the choice between them that gives the right digest proves all of it ([`search`]). If no choice does, those
//! blocks are *lost*: their entries become [`TableEntry::LOST`], and the manifest gets the digest of the table as it
//! is then, so that it can be checked as a whole from then on. The content of their blocks proves the other entries.
//! Zeros prove nothing, because a destroyed table or image also reads as zeros: near a lost block, or when nothing
//! else explains a wrong digest, a zero block is lost, too.
//!
//! Older revisions read lost blocks through. If everything that a delta and its digests say of each other agrees,
//! backy accepts their tables as they are, too.

mod search;

use std::sync::Arc;

use crate::base::digest::{DIGEST_BYTES, Digest, RevisionHasher, TableEntry};
use crate::base::error::{Error, ErrorKind, Result, judged};
use crate::base::limits::limits;
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::{DigestsHeader, entry_offset};
use crate::format::manifest::{BlockRange, Findings, Manifest, Revision};
use crate::format::qcow2::Cluster;
use crate::image::chain::Chain;
use crate::image::damage;
use crate::image::delta::Delta;
use crate::image::digests::{DigestTable, rewrite};
use crate::storage::{Access, DigestsKind, FileName, Storage, StorageFile};

use search::{Disputed, search};

/// The most disputed blocks to remember one by one. If there are more, either the whole image is right or they are
/// lost.
const MAX_DISPUTED: usize = 1 << 16;

/// The outcome for the digest table of the newest revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is right as a whole.
    Right,
    /// It was wrong and is right now; every entry is proved.
    Repaired,
    /// It can be checked as a whole again; these blocks are lost.
    Lost(Findings),
}

/// Checks the digest table of the newest revision as a whole, and repairs it if it is wrong. The caller publishes the
/// manifest, to which this adds the lost blocks.
///
/// # Errors
/// [`Error::Damaged`] when nothing is left of the table and the image is not right in full. Then nothing has changed.
pub(crate) fn prove_newest(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    observer: &dyn Observer,
) -> Result<Verdict> {
    let (verdict, flaw) = prove_silently(storage, manifest, observer)?;
    if let Some(flaw) = flaw {
        observer.event(&Event::Finding(format!("{flaw}; {}", verdict.outcome())));
    }
    Ok(verdict)
}

/// The same for a caller that reports the problem with the table itself; returns that problem.
pub(crate) fn prove_silently(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    observer: &dyn Observer,
) -> Result<(Verdict, Option<Error>)> {
    let Some(newest) = manifest.revisions.first() else { return Ok((Verdict::Right, None)) };
    let size = manifest.block_size;
    let flaw = match flaw_of_table(&**storage, newest, size, observer)? {
        None => return Ok((Verdict::Right, None)),
        Some(flaw) => flaw,
    };
    let trial = Trial::open(&**storage, newest, size)?;
    let outcome = trial.decide(observer)?;
    let Some(outcome) = outcome else { return Err(nothing_left(flaw)) };
    let before = newest.table_digest;
    let mut newest = newest.clone();
    let (verdict, rotten) = match outcome {
        Outcome::Proved { digest, rotten } => {
            newest.table_digest = newest.table_digest.filter(|kept| *kept == digest);
            (Verdict::Repaired, rotten)
        }
        Outcome::Lost(lost) => {
            let table = DigestTable::open(&**storage, newest.uuid, DigestsKind::Image)?;
            newest.table_digest = Some(digest_of(&table, size, newest.size_bytes, observer)?);
            newest.forget_verified();
            (Verdict::Lost(lost.clone()), lost)
        }
    };
    newest.findings.add_all(rotten.bad_blocks);
    let is_other = newest.table_digest != before;
    if let Some(slot) = manifest.revisions.first_mut() {
        *slot = newest;
    }
    if is_other || matches!(verdict, Verdict::Lost(_)) {
        accept_older(storage, manifest, 1, observer)?;
    }
    Ok((verdict, Some(flaw)))
}

/// The problem of the table as a whole, if there is one.
fn flaw_of_table(
    storage: &dyn Storage,
    newest: &Revision,
    size: BlockSize,
    observer: &dyn Observer,
) -> Result<Option<Error>> {
    let table = match DigestTable::open(storage, newest.uuid, DigestsKind::Image) {
        Ok(table) => table,
        Err(error) if error.is_damage() => return Ok(Some(error)),
        Err(error) => return Err(error),
    };
    let found = digest_of(&table, size, newest.size_bytes, observer)?;
    let expected = newest.expected_digest();
    let name = FileName::Digests(newest.uuid, DigestsKind::Image);
    let place = format!("digest of revision {} from this file", newest.uuid);
    let flaw = || Error::damaged(storage.path(name), place, found, expected);
    Ok((found != expected).then(flaw))
}

/// The digest of a table; its holes cost next to nothing.
pub(crate) fn digest_of(
    table: &DigestTable,
    size: BlockSize,
    size_bytes: u64,
    observer: &dyn Observer,
) -> Result<Digest> {
    let mut hasher = RevisionHasher::new(size, size_bytes);
    let mut next = BlockIndex(0);
    while let Some(data) = table.next_data_block(next)? {
        progress::check(observer)?;
        hasher.push_zero_blocks(data.0 - next.0, observer)?;
        let entries = table.read(data, limits().walk_blocks)?;
        next = data.plus(entries.len() as u64);
        entries.into_iter().for_each(|entry| hasher.push(entry));
    }
    hasher.push_zero_blocks(size.count(size_bytes).saturating_sub(next.0), observer)?;
    Ok(hasher.finish())
}

fn nothing_left(flaw: Error) -> Error {
    let also = "the image is damaged, too, and nothing shows where; 'backy scrub --rebuild --force' takes it as it is";
    Error::Besides { first: flaw.into(), also: also.to_owned() }
}

impl Verdict {
    /// The outcome in words.
    pub(crate) fn outcome(&self) -> String {
        match self {
            Verdict::Right => "nothing to repair".to_owned(),
            Verdict::Repaired => "repaired: the digest of the revision is right again".to_owned(),
            Verdict::Lost(lost) => match lost.bad_block_count() {
                1 => "1 block is lost: neither content nor digest can be proved".to_owned(),
                count => {
                    format!("{count} blocks are lost: neither content nor digest can be proved")
                }
            },
        }
    }
}

enum Outcome {
    /// Every entry is right, and together they give this digest; these blocks of the image are not right.
    Proved { digest: Digest, rotten: Findings },
    /// These blocks are lost.
    Lost(Findings),
}

/// An image and its digest table.
struct Trial<'a> {
    storage: &'a dyn Storage,
    newest: &'a Revision,
    size: BlockSize,
    image: Box<dyn StorageFile>,
    table: RawTable,
}

/// A digest table as it is, whatever its header and its length.
struct RawTable {
    /// None when there is no file.
    file: Option<Box<dyn StorageFile>>,
    blocks: u64,
}

impl RawTable {
    /// The entries of `count` blocks from `first` on; zeros for those that do not exist, fewer at the end.
    fn read(&self, first: BlockIndex, count: u64) -> Result<Vec<TableEntry>> {
        let count = count.min(self.blocks.saturating_sub(first.0)) as usize;
        let mut raw = vec![0; count * DIGEST_BYTES];
        if let Some(file) = &self.file
            && judged(file.read_padded_at(&mut raw, entry_offset(first)))?.is_err()
        {
            // One by one: an entry that the system cannot read counts as zero.
            let entries = raw.as_chunks_mut::<DIGEST_BYTES>().0.iter_mut().zip(first.0..);
            for (entry, block) in entries {
                match judged(file.read_persistently(entry, entry_offset(BlockIndex(block))))? {
                    Ok(DIGEST_BYTES) => {}
                    _ => entry.fill(0),
                }
            }
        }
        Ok(raw.as_chunks::<DIGEST_BYTES>().0.iter().map(|raw| TableEntry(*raw)).collect())
    }

    /// The first block at or after `from` whose entry may not be zero.
    fn next_data(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let Some(file) = &self.file else { return Ok(None) };
        let data = file.next_data(entry_offset(from))?;
        let start = entry_offset(BlockIndex(0));
        let block =
            |offset: u64| BlockIndex(offset.saturating_sub(start) / DIGEST_BYTES as u64).max(from);
        Ok(data.map(|data| block(data.offset)).filter(|block| block.0 < self.blocks))
    }
}

/// The result of comparing the image with the table.
struct Compared {
    disputed: Vec<Disputed>,
    count: u64,
    /// The digest if every block is what the image has.
    image_digest: Digest,
}

impl<'a> Trial<'a> {
    fn open(storage: &'a dyn Storage, newest: &'a Revision, size: BlockSize) -> Result<Self> {
        let name = FileName::Digests(newest.uuid, DigestsKind::Image);
        let file = match storage.open(name, Access::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        let image = storage.open(FileName::IMAGE, Access::Read)?;
        image.bypass_cache();
        let table = RawTable { file, blocks: size.count(newest.size_bytes) };
        Ok(Trial { storage, newest, size, image, table })
    }

    fn all(&self) -> BlockRange {
        BlockRange { first: BlockIndex(0), count: self.table.blocks }
    }

    /// Decides and writes the table; `None` if nothing can be decided.
    fn decide(&self, observer: &dyn Observer) -> Result<Option<Outcome>> {
        let wanted: Vec<Digest> =
            [Some(self.newest.digest), self.newest.table_digest].into_iter().flatten().collect();
        let compared = self.compare(observer)?;
        if wanted.contains(&compared.image_digest) {
            self.write(self.all(), observer, |_, _, image| image)?;
            let mut rotten = Findings::default();
            let unread = compared.disputed.iter().filter(|disputed| disputed.image.is_none());
            unread.for_each(|disputed| rotten.add_bad_block(disputed.block));
            let digest = compared.image_digest;
            return Ok(Some(Outcome::Proved { digest, rotten }));
        }
        if self.table.file.is_none() {
            return Ok(None);
        }
        let all_known = compared.disputed.len() as u64 == compared.count;
        let found = match all_known {
            true => {
                search(&self.table, self.newest, self.size, &compared.disputed, &wanted, observer)?
            }
            false => None,
        };
        if let Some((digest, from_image)) = found {
            return Ok(Some(self.take(digest, &compared.disputed, &from_image)?));
        }
        let near = self.in_doubt(&compared.disputed, all_known);
        let mut lost = Findings::default();
        for range in near.bad_blocks {
            self.write(range, observer, |block, table, image| {
                let is_proved = image == Some(table) && !table.is_zero_block();
                if !is_proved {
                    lost.add_bad_block(block);
                }
                Some(if is_proved { table } else { TableEntry::LOST })
            })?;
        }
        Ok(Some(Outcome::Lost(lost)))
    }

    /// Compares all blocks.
    fn compare(&self, observer: &dyn Observer) -> Result<Compared> {
        let counters = progress::begin_work(observer, Phase::Scrub, self.newest.size_bytes)?;
        let mut hasher = RevisionHasher::new(self.size, self.newest.size_bytes);
        let (mut disputed, mut count) = (Vec::new(), 0);
        let end = self.all().end();
        let mut next = BlockIndex(0);
        while next < end {
            progress::check(observer)?;
            let first = self.next_data(next)?.unwrap_or(end);
            hasher.push_zero_blocks(first.0 - next.0, observer)?;
            let piece = self.piece(first, end);
            for (block, table, image) in self.entries(piece)? {
                hasher.push(image.unwrap_or(table));
                if image != Some(table) {
                    count += 1;
                    if disputed.len() < MAX_DISPUTED {
                        disputed.push(Disputed { block, table, image });
                    }
                }
            }
            next = piece.end();
            let done = self.size.offset(next).min(self.newest.size_bytes);
            counters.add(done.saturating_sub(counters.done_bytes()));
        }
        Ok(Compared { disputed, count, image_digest: hasher.finish() })
    }

    fn piece(&self, first: BlockIndex, end: BlockIndex) -> BlockRange {
        let blocks = (limits().chunk_bytes / self.size.bytes()).max(1);
        BlockRange::between(first, BlockIndex(first.plus(blocks).0.min(end.0)))
    }

    /// The first block at or after `from` that may be other than zero, in the table or in the image.
    fn next_data(&self, from: BlockIndex) -> Result<Option<BlockIndex>> {
        let entry = self.table.next_data(from)?;
        let data = self.image.next_data(self.size.offset(from))?;
        let data = data.map(|data| self.size.index(data.offset).max(from));
        Ok(entry.into_iter().chain(data).min().filter(|block| block.0 < self.table.blocks))
    }

    /// The entries of blocks in the table, and those of the image's content; `None` for what cannot be read.
    fn entries(
        &self,
        blocks: BlockRange,
    ) -> Result<Vec<(BlockIndex, TableEntry, Option<TableEntry>)>> {
        let table = self.table.read(blocks.first, blocks.count)?;
        let extent = damage::extent(blocks, self.size, self.newest.size_bytes);
        let mut bytes = vec![0; extent.len as usize];
        let image: Vec<Option<TableEntry>> =
            match judged(self.image.read_padded_at(&mut bytes, extent.offset))? {
                Ok(()) => TableEntry::of_blocks(bytes.chunks(self.size.len()), &table)?
                    .into_iter()
                    .map(Some)
                    .collect(),
                // One by one, to know which of them cannot be read.
                Err(_) => {
                    let parts = bytes.chunks_mut(self.size.len()).zip(blocks.first.0..);
                    let read = |(part, block): (&mut [u8], u64)| {
                        let offset = self.size.offset(BlockIndex(block));
                        let read = judged(self.image.read_persistently(part, offset))?;
                        let rest = read.ok().and_then(|read| part.get_mut(read..));
                        let Some(rest) = rest else { return Ok(None) };
                        rest.fill(0);
                        Ok(Some(TableEntry::of_block(part)))
                    };
                    parts.map(read).collect::<Result<_>>()?
                }
            };
        let numbers = (blocks.first.0..).map(BlockIndex);
        let all = numbers.zip(table).zip(image);
        Ok(all.map(|((block, table), image)| (block, table, image)).collect())
    }

    /// Where a zero block does not count as proved: near disputed blocks, or everywhere if there are none or too
    /// many.
    fn in_doubt(&self, disputed: &[Disputed], all_known: bool) -> Findings {
        let mut near = Findings::default();
        if disputed.is_empty() || !all_known {
            near.add(self.all());
        }
        for Disputed { block, .. } in disputed.iter().filter(|_| all_known) {
            let first = BlockIndex(block.0.saturating_sub(limits().doubt_blocks));
            let end = block.plus(limits().doubt_blocks + 1).min(self.all().end());
            near.add(BlockRange::between(first, end));
        }
        near
    }

    /// Applies the choice that the search has found.
    fn take(&self, digest: Digest, disputed: &[Disputed], from_image: &[bool]) -> Result<Outcome> {
        let header = DigestsHeader::new(DigestsKind::Image, self.newest, self.size);
        let mut file = rewrite(self.storage, &header)?;
        let mut rotten = Findings::default();
        for (Disputed { block, image, .. }, from_image) in disputed.iter().zip(from_image) {
            match image.filter(|_| *from_image) {
                Some(entry) => file.set(*block, entry)?,
                None => rotten.add_bad_block(*block),
            }
        }
        file.finish()?;
        Ok(Outcome::Proved { digest, rotten })
    }

    /// Writes the entries of a range of blocks. `choose` gets the block, its entry and that of its content. If it
    /// returns none, the entry stays.
    fn write(
        &self,
        range: BlockRange,
        observer: &dyn Observer,
        mut choose: impl FnMut(BlockIndex, TableEntry, Option<TableEntry>) -> Option<TableEntry>,
    ) -> Result<()> {
        let header = DigestsHeader::new(DigestsKind::Image, self.newest, self.size);
        let mut file = rewrite(self.storage, &header)?;
        let mut next = range.first;
        while next < range.end() {
            progress::check(observer)?;
            let piece = self.piece(next, range.end());
            for (block, table, image) in self.entries(piece)? {
                if let Some(entry) = choose(block, table, image) {
                    file.set(block, entry)?;
                }
            }
            next = piece.end();
        }
        file.finish()
    }
}

/// Accepts the tables of revisions from number `from` on as they are, as far as they read through to each other,
/// because something that they read has been lost.
pub(crate) fn accept_older(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    from: usize,
    observer: &dyn Observer,
) -> Result<()> {
    for number in from..manifest.revisions.len() {
        progress::check(observer)?;
        let Some(revision) = manifest.revisions.get(number) else { break };
        if number > 0 && revision.is_standalone() {
            break;
        }
        let found =
            Chain::open(storage, manifest, number).and_then(|chain| chain.table_digest(observer));
        let found = match found {
            Ok(found) => found,
            Err(error) if error.is_unreadable() => break,
            Err(error) => return Err(error),
        };
        let is_whole = found == revision.digest;
        if !is_whole && !agree(&**storage, revision, manifest.block_size, observer)? {
            break;
        }
        if let Some(revision) = manifest.revisions.get_mut(number) {
            revision.table_digest = Some(found).filter(|_| !is_whole);
        }
    }
    Ok(())
}

/// Whether a delta and its digests agree: every block that the delta holds has a digest, one that it holds as zeros
/// has none, and no other block has one.
fn agree(
    storage: &dyn Storage,
    revision: &Revision,
    size: BlockSize,
    observer: &dyn Observer,
) -> Result<bool> {
    let (id, bytes) = (revision.uuid, revision.size_bytes);
    let opened = Delta::open(storage, id, size, bytes)
        .and_then(|delta| Ok((delta, DigestTable::open(storage, id, DigestsKind::Delta)?)));
    let checked = opened.and_then(|(delta, table)| {
        let end = BlockIndex(size.count(bytes));
        let mut next = BlockIndex(0);
        loop {
            progress::check(observer)?;
            let held = delta.next_held_block(next, end)?;
            let Some(first) = held.into_iter().chain(table.next_data_block(next)?).min() else {
                return Ok(true);
            };
            let count = limits().walk_blocks.min(end.0.saturating_sub(first.0));
            let entries = table.read(first, count)?;
            let clusters = delta.clusters(first, count)?;
            let agrees = |(cluster, entry): (&Cluster, &TableEntry)| match cluster {
                Cluster::Unallocated | Cluster::Zero => entry.is_zero_block(),
                Cluster::Plain { .. } | Cluster::Compressed { .. } => !entry.is_zero_block(),
            };
            if !clusters.iter().zip(&entries).all(agrees) {
                return Ok(false);
            }
            next = first.plus(count.max(1));
        }
    });
    match checked {
        Err(error) if error.is_unreadable() => Ok(false),
        checked => checked,
    }
}
