//! `restore --undo`: saves the data that a restore will overwrite as an archive of its own.
//!
//! That archive has one revision: the target as it was. Its digests cover all blocks, but its image holds
//! only the blocks that the restore will change; the others are holes, listed in the findings. So restoring
//! it to the target reads the overwritten blocks from the archive, finds the rest unchanged, and never takes
//! a hole for content. Blocks outside of it that have changed meanwhile stay, and are reported. A block that
//! the target could not deliver when it was saved stays, too: it has the digest of a lost block. The manifest
//! is written last, and the restore begins after it; from then on the restore may fail or be interrupted
//! anywhere.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::write::read_target;
use super::{Target, TargetKind};
use crate::archive::moment;
use crate::base::clock::Clock;
use crate::base::digest::{Digest, RevisionHasher, TableEntry};
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Event, Observer, Phase};
use crate::base::report_path::ReportPath;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::{DigestsHeader, Identity};
use crate::format::manifest::{
    BlockRange, Findings, Manifest, Ranges, Revision, SourceIdentity, Statistics,
};
use crate::format::qcow2::Layout;
use crate::image::chain::{Chain, Located};
use crate::image::digests::DigestWriter;
use crate::image::sequential::push_joined;
use crate::image::walk::Window;
use crate::policy::config::{Config, SourceAddress};
use crate::storage::dir::DirStorage;
use crate::storage::manifest;
use crate::storage::{
    DigestsKind, FileName, Published, StagingToken, Storage, StorageFile, Trust, staged,
};

/// The tag of the revision.
pub(super) const TAG: &str = "undo";
/// With more ranges, the findings combine them to keep the manifest small.
const MAX_RANGES: usize = 1 << 16;

/// Why nothing but the target can be made of an undo archive.
pub(super) const PARTIAL: &str = "this is an undo archive, which holds only what a restore overwrote; restore it \
                                  to the target of that restore, which has the rest";

/// A warning for readers who know other archives.
const NOT_AN_IMAGE: &str = "
That needs backy. last.raw is NOT a complete image: most of its holes are not zeros, but blocks of
the target that were not overwritten. Do not copy it to a disk.
";

/// Where the overwritten data is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UndoReport {
    /// Folder of the archive.
    pub archive: ReportPath,
    /// Its only revision.
    pub revision: RevisionId,
    /// Bytes in the saved blocks.
    pub saved_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What to save, and how.
pub struct Saving<'a> {
    /// The revision that will be restored.
    pub chain: &'a Chain,
    /// Where it will be written.
    pub target: &'a dyn Target,
    /// The path of the target, for the config of the undo archive.
    pub path: &'a Path,
    /// The clock for the time of the undo archive.
    pub clock: &'a dyn Clock,
    /// Threads that read and digest; `None` for one per core.
    pub threads: Option<usize>,
    /// The observer.
    pub observer: &'a dyn Observer,
}

/// Refuses a folder in which no undo archive can be made, or whose archive could not be restored to the target.
pub(super) fn check_folder(
    folder: &Path,
    archive: &Path,
    target: &Path,
    target_exists: bool,
) -> Result<()> {
    let refuse = |why: String| {
        let message = format!("undo archive {}: {why}", folder.display());
        Err(Error::Specification { message })
    };
    if !target_exists {
        return refuse(format!("{} does not exist, so nothing is overwritten", target.display()));
    }
    if folder.metadata().is_ok_and(|found| !found.is_dir()) {
        return refuse("found a file, expected a folder".to_owned());
    }
    let real = real_path(folder)?;
    if archive.canonicalize().is_ok_and(|archive| real.starts_with(archive)) {
        return refuse(format!("it would be in the archive {} itself", archive.display()));
    }
    if target.canonicalize().is_ok_and(|target| target.starts_with(&real)) {
        return refuse(format!("the target {} is in that folder", target.display()));
    }
    match folder.exists() {
        true => check_vacant(&DirStorage::open(folder)?),
        false => Ok(()),
    }
}

/// Resolves a path of which only the first parts need exist.
fn real_path(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(Error::io(path, "look up the folder"))?;
    let real = absolute.ancestors().find_map(|above| {
        let rest = absolute.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    Ok(real.unwrap_or(absolute))
}

/// Checks that no file has a name that the archive needs, whether an archive or somebody else left it.
fn check_vacant(storage: &dyn Storage) -> Result<()> {
    let present = storage.list()?;
    if present.contains(&FileName::MANIFEST) {
        return Err(Error::ArchiveExists { path: storage.folder() });
    }
    let names = present.iter().filter(|name| **name != FileName::Lock);
    let names: Vec<String> = names.map(FileName::to_string).collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(Error::Occupied { path: storage.folder(), names: names.join(", ") }),
    }
}

/// All files that are created, the manifest first: without it, the rest is no archive. None of them existed before.
fn made(uuid: RevisionId) -> Vec<FileName> {
    let files = [Published::Manifest, Published::Config, Published::Readme];
    let mut names: Vec<FileName> = files.map(FileName::Published).into();
    names.extend(files.map(|file| FileName::Aside(file, StagingToken::FIRST)));
    let digests = FileName::Digests(uuid, DigestsKind::Image);
    names.extend([FileName::IMAGE, FileName::STAGED_IMAGE, digests]);
    names
}

impl Saving<'_> {
    /// Creates the folder if necessary, and the undo archive in it.
    pub fn save_to_folder(&self, folder: &Path, trust: Trust) -> Result<UndoReport> {
        trust.check_new(folder)?;
        let storage = DirStorage::create(folder)?.with_trust(trust);
        storage.check_trust()?;
        self.save(&storage)
    }

    /// Creates the undo archive. After success it is durable; after an error there is none.
    pub fn save(&self, storage: &dyn Storage) -> Result<UndoReport> {
        let block_size = self.chain.block_size();
        let limit = Layout::max_image_bytes(block_size);
        if self.target.size_bytes() > limit {
            let found = self.target.size_bytes();
            let message =
                format!("found a size of {found} bytes, expected at most {limit} to save it");
            return Err(Error::Target { path: self.path.into(), message, forcible: false });
        }
        check_vacant(storage)?;
        let _lock = storage.lock("'restore --undo'")?;
        check_vacant(storage)?;
        let started = self.clock.now();
        let uuid = RevisionId::new(started);
        self.make(storage, uuid, started).inspect_err(|_| {
            // Nothing has been overwritten yet, so the unfinished archive is useless. Files that cannot be
            // deleted do no harm.
            for name in made(uuid) {
                let _ = storage.remove(name);
            }
        })
    }

    fn make(
        &self,
        storage: &dyn Storage,
        uuid: RevisionId,
        started: Timestamp,
    ) -> Result<UndoReport> {
        let began = Instant::now();
        let size_bytes = self.target.size_bytes();
        let image = storage.create(FileName::STAGED_IMAGE)?;
        image.set_len(size_bytes)?;
        let block_size = self.chain.block_size();
        let name = (uuid, DigestsKind::Image);
        let mut copy = Copy {
            block_size,
            digests: DigestWriter::create(storage, name, block_size.count(size_bytes))?,
            hasher: RevisionHasher::new(block_size, size_bytes),
            missing: Ranges::with_limit(MAX_RANGES),
            unreadable: Vec::new(),
            read_bytes: 0,
            saved_bytes: 0,
        };
        self.copy(&*image, &mut copy)?;
        for extent in &copy.unreadable {
            let (path, from, to) = (self.path.display(), extent.offset, extent.end() - 1);
            self.observer.event(&Event::Finding(format!(
                "{path}: bytes {from}-{to} are unreadable, so undoing will not bring them back"
            )));
        }
        let blocks = self.chain.block_size().count(size_bytes);
        copy.hasher.push_zero_blocks(blocks - copy.hasher.blocks(), self.observer)?;
        image.sync()?;
        let statistics = Statistics {
            read_bytes: copy.read_bytes,
            changed_bytes: copy.saved_bytes,
            stored_bytes: image.taken_bytes()?.unwrap_or(copy.saved_bytes) as i64,
            seconds: began.elapsed().as_secs_f64(),
            ..Statistics::default()
        };
        let digest = copy.hasher.finish();
        let finished = self.clock.now();
        let mut revision =
            Revision::newest(uuid, started, finished, size_bytes, digest, statistics);
        let tag: Tag = TAG.parse().map_err(|message| Error::Specification { message })?;
        revision.tags = BTreeSet::from([tag]);
        revision.pinned_tags.clone_from(&revision.tags);
        revision.findings = Findings::new(copy.missing.finish());
        copy.digests.finish(&self.header(&revision, digest))?;
        storage.rename(FileName::STAGED_IMAGE, FileName::IMAGE)?;
        self.publish(storage, revision, started)?;
        Ok(UndoReport {
            archive: storage.folder().into(),
            revision: uuid,
            saved_bytes: copy.saved_bytes,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    fn header(&self, revision: &Revision, digest: Digest) -> DigestsHeader {
        let identity = Identity {
            uuid: revision.uuid,
            started: revision.started,
            finished: revision.finished,
            block_size: self.chain.block_size(),
            size_bytes: revision.size_bytes,
            digest,
            tags: revision.tags.clone(),
            pinned_tags: revision.pinned_tags.clone(),
        };
        DigestsHeader { kind: DigestsKind::Image, identity }
    }

    /// Config and README, then the manifest, which makes it an archive.
    fn publish(&self, storage: &dyn Storage, revision: Revision, time: Timestamp) -> Result<()> {
        let path = std::path::absolute(self.path).map_err(Error::io(self.path, "look up"))?;
        let what = format!(
            "This is an undo archive of {}, made at {time}.\n\
             It holds only what a restore of revision {} has overwritten there.\n\
             To go back: backy -b {} restore\n",
            path.display().to_string().escape_debug(),
            self.chain.revision().uuid,
            storage.folder().display().to_string().escape_debug(),
        );
        let mut config = String::new();
        for line in what.lines() {
            let _ = writeln!(config, "# {line}");
        }
        config.push_str(&Config::source_line(&SourceAddress::Path(path.clone()))?);
        let block_size = self.chain.block_size();
        let readme = format!("{what}{NOT_AN_IMAGE}");
        let first = StagingToken::FIRST;
        staged::publish(storage, Published::Config, first, config.as_bytes())?;
        staged::publish(storage, Published::Readme, first, readme.as_bytes())?;
        let kind = match self.target.kind() {
            TargetKind::BlockDevice => "block device",
            _ => "file",
        };
        let mut manifest = Manifest::new(block_size);
        manifest.source = Some(SourceIdentity::new(path.display().to_string(), kind));
        manifest.mark_as_undo();
        let left_out = (revision.uuid, revision.findings.bad_block_count());
        manifest.push_newest(revision);
        if left_out.1 > 0 {
            // Any further bad blocks are damage.
            manifest.confirm(&[left_out], time);
        }
        manifest.image_file = moment::image_file(storage)?;
        manifest::publish_first(storage, &manifest)
    }

    /// Reads and digests the target, and stores the blocks that will be overwritten.
    fn copy(&self, image: &dyn StorageFile, copy: &mut Copy) -> Result<()> {
        let counters =
            progress::begin_work(self.observer, Phase::SaveTarget, self.target.size_bytes())?;
        let block_size = self.chain.block_size();
        let buffers = BufferPool::new();
        let mut pieces =
            Pieces { saving: self, window: Window::new(self.chain), next: BlockIndex(0) };
        pipeline::run(
            vec![(); pipeline::threads(self.threads)],
            || pieces.next_piece(),
            |(), piece| {
                let mut bytes = buffers.take(piece.extent.len as usize);
                let unreadable =
                    read_target(self.target, block_size, &mut bytes, piece.extent.offset)?;
                let blocks: Vec<Block> = bytes
                    .chunks(block_size.len())
                    .zip(piece.first.0..)
                    .enumerate()
                    .map(|(at, (block, number))| match unreadable.contains(&at) {
                        true => Block::UNREADABLE,
                        false => self.judge(BlockIndex(number), block, piece.located.get(at)),
                    })
                    .collect();
                Ok((piece, bytes, blocks))
            },
            |(piece, bytes, blocks)| {
                copy.take(image, &piece, &bytes, &blocks, self.observer)?;
                counters.add(piece.extent.end().saturating_sub(counters.done_bytes()));
                buffers.give(bytes);
                Ok(())
            },
        )
    }

    /// The entry of a block of the target, and whether the restore changes it.
    fn judge(&self, block: BlockIndex, bytes: &[u8], located: Option<&Located>) -> Block {
        let entry = TableEntry::of_block(bytes);
        let block_size = self.chain.block_size();
        let after = block_size.extent(block, self.chain.revision().size_bytes).len as usize;
        // A file gets the size of the revision, a device keeps its own.
        let cut = after < bytes.len() && self.target.kind() != TargetKind::BlockDevice;
        let differs = located.is_some_and(|located| {
            if after == bytes.len() {
                return located.entry != entry;
            }
            let mut padded = bytes.to_vec();
            padded.resize(after, 0);
            !located.entry.matches(&padded)
        });
        Block { entry, save: !entry.is_zero_block() && (cut || differs) }
    }
}

/// An extent of the target that may hold data.
struct Piece {
    first: BlockIndex,
    extent: Extent,
    /// Its blocks in the revision, if the revision reaches that far.
    located: Vec<Located>,
}

/// Divides the target into pieces, leaving out its holes.
struct Pieces<'a> {
    saving: &'a Saving<'a>,
    window: Window<'a>,
    next: BlockIndex,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> Result<Option<Piece>> {
        let Saving { chain, target, observer, .. } = self.saving;
        progress::check(*observer)?;
        let block_size = chain.block_size();
        let Some(data) = target.next_data(block_size.offset(self.next))? else { return Ok(None) };
        let first = block_size.index(data.offset).max(self.next);
        let count = (limits().chunk_bytes / block_size.bytes()).max(1);
        let end = BlockIndex(block_size.count(data.end())).min(first.plus(count));
        let start = block_size.offset(first);
        let extent = Extent::between(start, block_size.offset(end).min(target.size_bytes()));
        self.next = end;
        let located = match first.0 < chain.blocks() {
            true => self.blocks_of_revision(first, (end.0 - first.0) as usize)?,
            false => Vec::new(),
        };
        Ok(Some(Piece { first, extent, located }))
    }

    fn blocks_of_revision(&mut self, first: BlockIndex, count: usize) -> Result<Vec<Located>> {
        let mut located = Vec::with_capacity(count);
        let end = first.plus(count as u64).min(BlockIndex(self.saving.chain.blocks()));
        let mut next = first;
        while next < end {
            let found = self.window.blocks(next, (end.0 - next.0) as usize)?;
            next = next.plus(found.len() as u64);
            located.extend_from_slice(found);
        }
        Ok(located)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Block {
    entry: TableEntry,
    save: bool,
}

impl Block {
    /// A block that the target cannot deliver: there is nothing to save.
    const UNREADABLE: Block = Block { entry: TableEntry::LOST, save: false };
}

/// An undo archive being filled.
struct Copy {
    block_size: BlockSize,
    digests: DigestWriter,
    hasher: RevisionHasher,
    /// Blocks that are not zero and not saved.
    missing: Ranges,
    /// Extents of the target that cannot be read.
    unreadable: Vec<Extent>,
    read_bytes: u64,
    saved_bytes: u64,
}

impl Copy {
    fn take(
        &mut self,
        image: &dyn StorageFile,
        piece: &Piece,
        bytes: &[u8],
        blocks: &[Block],
        observer: &dyn Observer,
    ) -> Result<()> {
        self.hasher.push_zero_blocks(piece.first.0 - self.hasher.blocks(), observer)?;
        self.read_bytes += piece.extent.len;
        for (block, number) in blocks.iter().zip(piece.first.0..) {
            self.hasher.push(block.entry);
            self.digests.push(BlockIndex(number), block.entry)?;
            if *block == Block::UNREADABLE {
                let end = piece.extent.end();
                let extent = self.block_size.extent(BlockIndex(number), end);
                push_joined(&mut self.unreadable, extent);
            }
            if !block.save && !block.entry.is_zero_block() {
                self.missing.push(BlockRange { first: BlockIndex(number), count: 1 });
            }
        }
        let mut rest = bytes;
        let mut offset = piece.extent.offset;
        for run in blocks.chunk_by(|a, b| a.save == b.save) {
            let len = (run.len() * self.block_size.len()).min(rest.len());
            let (part, after) = rest.split_at_checked(len).unwrap_or_default();
            if run.first().is_some_and(|block| block.save) {
                image.write_at(part, offset)?;
                self.saved_bytes += len as u64;
            }
            rest = after;
            offset += len as u64;
        }
        Ok(())
    }
}
