//! What a restore would overwrite, for the question whether to go ahead.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FileTarget, Guard, Target, TargetKind};
use crate::base::digest::TableEntry;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::progress::{self, Observer, Phase};
use crate::base::report_path::ReportPath;
use crate::base::units::BlockIndex;
use crate::format::disk;
use crate::format::file_system::{self, FileSystem};
use crate::format::partitions;
use crate::image::chain::Chain;

/// A larger revision is compared in samples: nobody waits an hour for a question.
const COMPARED_BYTES: u64 = 1 << 30;

/// How many samples of a larger revision are compared.
const SAMPLES: u64 = 512;

/// How many partitions are examined.
const MAX_PARTITIONS: usize = 16;

/// What a restore would overwrite. Looking changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TargetLook {
    /// Its path.
    pub target: ReportPath,
    /// A file or a block device.
    pub target_kind: TargetKind,
    /// Whether it is the configured source of a trusted archive.
    pub is_source: bool,
    /// Why overwriting needs `force` or a confirmation; `None` if it is the source that was backed up and is
    /// not in use.
    pub objection: Option<String>,
    /// Its length.
    pub size_bytes: u64,
    /// When the file was last written to, or the file system on the device, if that records it.
    pub changed: Option<Timestamp>,
    /// What is on it.
    pub contents: Vec<Content>,
    /// Bytes of the revision that were compared with it: all, or samples from everywhere.
    pub compared_bytes: u64,
    /// How many of them differ, in whole blocks. Unreadable bytes count as different.
    pub differing_bytes: u64,
    /// Identifies it later.
    #[serde(skip)]
    mark: Mark,
}

/// A file system on a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The number of its partition; `None` if there are no partitions.
    pub partition: Option<u32>,
    /// The file system.
    #[serde(flatten)]
    pub file_system: FileSystem,
}

/// Facts about a target that stay the same unless somebody replaces it or writes to it. The default matches no target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    number: u64,
    modified: Option<(i64, i64)>,
    size_bytes: u64,
    identifiers: [Option<String>; 2],
}

/// What a restore to a path would overwrite; `None` if nothing. `checked` is the archive's verdict on
/// overwriting without `force`.
pub(crate) fn look(
    chain: &Chain,
    guard: &Guard<'_>,
    path: &Path,
    checked: Result<()>,
) -> Result<Option<TargetLook>> {
    let forced = Guard { force: true, ..*guard };
    let Some(target) = forced.check(path)? else { return Ok(None) };
    let known = objection(path, checked)?;
    let objection = match known {
        None => guard.objection(path)?,
        found => found,
    };
    let is_source = guard.is_source_at(path);
    TargetLook::at(&target, chain, is_source, objection, guard.observer).map(Some)
}

impl TargetLook {
    /// Looks at an open target.
    fn at(
        target: &FileTarget,
        chain: &Chain,
        is_source: bool,
        objection: Option<String>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let found = metadata(target)?;
        let head = head_at(target, 0, target.size_bytes());
        let contents = contents(target, &head);
        let of_file = || Timestamp::new(found.mtime(), found.mtime_nsec() as i32).ok();
        let changed = match target.kind() {
            TargetKind::BlockDevice => contents.iter().filter_map(|c| c.file_system.written).max(),
            _ => of_file(),
        };
        let (compared_bytes, differing_bytes) = compare(target, chain, observer)?;
        Ok(TargetLook {
            target: target.path().into(),
            target_kind: target.kind(),
            is_source,
            objection,
            size_bytes: target.size_bytes(),
            changed,
            contents,
            compared_bytes,
            differing_bytes,
            mark: Mark::of(target, &found, &head),
        })
    }

    /// Whether the target equals the revision already, to the last byte.
    pub fn is_revision(&self, size_bytes: u64) -> bool {
        let is_long = self.target_kind == TargetKind::BlockDevice || self.size_bytes == size_bytes;
        is_long && self.compared_bytes == size_bytes && self.differing_bytes == 0
    }

    /// Checks that an open target is the one that was looked at.
    ///
    /// # Errors
    /// [`Error::Target`] if it was replaced or written to since.
    pub(crate) fn check(&self, target: &FileTarget) -> Result<()> {
        let head = head_at(target, 0, target.size_bytes());
        if Mark::of(target, &metadata(target)?, &head) == self.mark {
            return Ok(());
        }
        let message = "it changed after you were asked; nothing was written".to_owned();
        Err(Error::Target { path: target.path(), message, forcible: false })
    }
}

impl Mark {
    fn of(target: &FileTarget, found: &Metadata, head: &[u8]) -> Self {
        // The node of a device does not show when its content was written.
        let is_device = found.file_type().is_block_device();
        Mark {
            device: found.dev(),
            inode: found.ino(),
            number: found.rdev(),
            modified: (!is_device).then_some((found.mtime(), found.mtime_nsec())),
            size_bytes: target.size_bytes(),
            identifiers: [disk::partition_table_uuid(head), disk::file_system_uuid(head)],
        }
    }
}

fn metadata(target: &FileTarget) -> Result<Metadata> {
    target.file().metadata().map_err(Error::io(target.path(), "look up"))
}

/// The first bytes of a partition, or of the whole target; empty if they cannot be read.
fn head_at(target: &dyn Target, offset: u64, len: u64) -> Vec<u8> {
    let len = len.min(file_system::HEAD_BYTES as u64) as usize;
    read(target, offset, len).unwrap_or_default()
}

fn read(target: &dyn Target, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    target.read_at(&mut bytes, offset).ok().map(|()| bytes)
}

fn contents(target: &dyn Target, head: &[u8]) -> Vec<Content> {
    let whole = Extent::new(0, target.size_bytes());
    let find = |extent: Extent, head: &[u8]| {
        file_system::find(head, |offset, len| {
            let end = offset.checked_add(len as u64)?;
            (end <= extent.len).then(|| read(target, extent.offset + offset, len)).flatten()
        })
    };
    // The boot sector of a file system looks like a partition table.
    if let Some(file_system) = find(whole, head) {
        return vec![Content { partition: None, file_system }];
    }
    let image = |buffer: &mut [u8], offset| target.read_at(buffer, offset);
    let found = partitions::read(image, target.size_bytes()).unwrap_or_default();
    let content = |partition: &partitions::Partition| {
        let extent = partition.extent;
        let head = head_at(target, extent.offset, extent.len);
        let file_system = find(extent, &head)?;
        Some(Content { partition: Some(partition.number), file_system })
    };
    found.iter().take(MAX_PARTITIONS).filter_map(content).collect()
}

/// Bytes that were compared with a revision, and how many differ.
fn compare(target: &dyn Target, chain: &Chain, observer: &dyn Observer) -> Result<(u64, u64)> {
    let size = chain.block_size();
    let size_bytes = chain.revision().size_bytes;
    let piece_blocks = (limits().chunk_bytes / size.bytes()).max(1);
    let pieces = size.count(size_bytes).div_ceil(piece_blocks);
    let taken = match size_bytes <= COMPARED_BYTES {
        true => pieces,
        false => pieces.min(SAMPLES),
    };
    let counters =
        progress::begin_work(observer, Phase::CompareTarget, taken * piece_blocks * size.bytes())?;
    let (mut compared, mut differing) = (0, 0);
    let mut buffer = Vec::new();
    for number in 0..taken {
        progress::check(observer)?;
        let piece = number * pieces / taken;
        let first = BlockIndex(piece * piece_blocks);
        let blocks = piece_blocks.min(size.count(size_bytes) - first.0);
        let located = chain.locate(first, blocks)?;
        let end = size.offset(first.plus(blocks)).min(size_bytes);
        let extent = Extent::between(size.offset(first), end);
        buffer.resize(extent.len as usize, 0);
        match target.read_at(&mut buffer, extent.offset) {
            Ok(()) => {
                let found = buffer.chunks(size.len());
                let entries = located.iter().map(|block| block.entry);
                let right = TableEntry::matching(entries.zip(found))?;
                let wrong = right.iter().zip(first.0..).filter(|(right, _)| !**right);
                differing +=
                    wrong.map(|(_, at)| size.extent(BlockIndex(at), size_bytes).len).sum::<u64>();
            }
            Err(error) if error.kind() == ErrorKind::Io => differing += extent.len,
            Err(error) => return Err(error),
        }
        compared += extent.len;
        counters.add(piece_blocks * size.bytes());
    }
    Ok((compared, differing))
}

/// The reason why a restore does not overwrite the target without `force`, if any.
fn objection(path: &Path, checked: Result<()>) -> Result<Option<String>> {
    match checked {
        Ok(()) => Ok(None),
        Err(Error::Target { path: at, message, forcible: true }) if at == path => Ok(Some(message)),
        Err(error) => Err(error),
    }
}
