//! `restore`: writes a revision to a target.
//!
//! The digests of the revision are checked as a whole before anything is written, and every block against its digest
//! before it is. To a target that exists, only blocks that differ are written. A dry run does all but the writing. What is
//! going to be overwritten can be saved before: `undo`.

pub(crate) mod known;
mod look;
mod on_archive;
mod sectors;
mod undo;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::base::clock::Clock;
use crate::base::digest::TableEntry;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Observer, Phase};
use crate::base::report_path::ReportPath;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::Decompressor;
use crate::image::chain::{Chain, Located};
use crate::image::sequential::{Chunk, Chunks, Reading, check_digests, push_joined, read_blocks};
use crate::storage::Trust;
use crate::storage::follow::Place;
use crate::target::DryRun;
use crate::target::space;

pub use crate::target::safety::Guard;
pub use crate::target::{FileTarget, Target, TargetKind};
pub(crate) use look::look;
pub use look::{Content, TargetLook};
pub use undo::{Saving, UndoReport};

/// Bytes of a target that are looked through at a time where the revision is zero.
const VOID_BYTES: u64 = 64 << 20;

static ZEROS: [u8; 65536] = [0; 65536];

/// How a revision is restored.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Overwrite what is there.
    pub force: bool,
    /// Overwrite what somebody was shown and has agreed to, as long as it is still that.
    pub confirmed: Option<TargetLook>,
    /// Do everything but write.
    pub dry_run: bool,
    /// Where a block cannot be read right, write zeros and go on.
    pub keep_going: bool,
    /// The folder in which an archive is made of what is going to be overwritten.
    pub undo: Option<PathBuf>,
    /// Whether that archive may be where others can change it.
    pub trust: Trust,
    /// Begin also when the target seems to lack the space: for file systems that compress.
    pub ignore_space: bool,
    /// Threads that read and digest; `None` for one a core.
    pub threads: Option<usize>,
}

/// What a restore did, or a dry run would have done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The revision.
    pub revision: RevisionId,
    /// Where it was written; `-` for a stream.
    pub target: ReportPath,
    /// What the target was.
    pub target_kind: TargetKind,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Bytes that were written; the others were right already.
    pub written_bytes: u64,
    /// Stretches in which they are.
    pub written_extents: u64,
    /// Stretches that could not be read right and were made zero, ascending.
    pub unreadable: Vec<Extent>,
    /// Whether the digests of the revision were right as a whole. If not, more than the unreadable stretches may be wrong.
    pub digests_checked: bool,
    /// Stretches that an undo archive does not hold, because its restore did not overwrite them, and that are not
    /// what they were before it: somebody has changed them since. They stay as they are. Ascending.
    pub changed_since: Vec<Extent>,
    /// Where what was overwritten is kept.
    pub undo: Option<UndoReport>,
    /// Time that it took.
    pub seconds: f64,
}

impl RestoreReport {
    fn new(
        chain: &Chain,
        target: ReportPath,
        target_kind: TargetKind,
        digests_checked: bool,
    ) -> Self {
        RestoreReport {
            revision: chain.revision().uuid,
            target,
            target_kind,
            dry_run: false,
            size_bytes: chain.revision().size_bytes,
            written_bytes: 0,
            written_extents: 0,
            unreadable: Vec::new(),
            digests_checked,
            changed_since: Vec::new(),
            undo: None,
            seconds: 0.0,
        }
    }

    /// Whether the target has become exactly the revision.
    pub fn is_exact(&self) -> bool {
        self.is_complete() && self.changed_since.is_empty()
    }

    /// Whether all that the archive has of the revision is in the target now, and right. Of an undo archive that may
    /// be less than the revision.
    pub fn is_complete(&self) -> bool {
        self.unreadable.is_empty() && self.digests_checked
    }

    fn push_unreadable(&mut self, chain: &Chain, blocks: &[BlockIndex]) {
        push_blocks(&mut self.unreadable, chain, blocks);
    }
}

fn push_blocks(extents: &mut Vec<Extent>, chain: &Chain, blocks: &[BlockIndex]) {
    for &block in blocks {
        push_joined(extents, chain.block_size().extent(block, chain.revision().size_bytes));
    }
}

/// Refuses to make a revision anew of which an undo archive holds only a part.
pub(crate) fn check_whole(chain: &Chain) -> Result<()> {
    match chain.is_partial() {
        true => Err(Error::Specification { message: undo::PARTIAL.to_owned() }),
        false => Ok(()),
    }
}

/// Restores to a path: checks it, saves what is there if asked to, and writes.
pub(crate) fn to_path(
    chain: &Chain,
    guard: &Guard<'_>,
    path: &Path,
    options: &RestoreOptions,
    clock: &dyn Clock,
) -> Result<RestoreReport> {
    let began = Instant::now();
    let observer = guard.observer;
    let found = match guard.check(path) {
        Err(error @ Error::Target { forcible: true, .. }) => {
            let there = find_complete(chain, path, options, observer)?;
            return there.ok_or(error);
        }
        found => found?,
    };
    if let Some((shown, target)) = options.confirmed.as_ref().zip(found.as_ref()) {
        shown.check(target)?;
    }
    if let Some(folder) = &options.undo {
        undo::check_folder(folder, guard.archive, path, found.is_some())?;
    }
    if found.is_none() && !options.keep_going {
        check_whole(chain)?;
    }
    let existing = found.as_ref().map(|target| -> &dyn Target { target });
    if !options.ignore_space {
        space::check_target(chain, existing, path, options.dry_run, observer)?;
    }
    if let Some(target) = &found {
        sectors::tell(chain, target, observer);
    }
    if options.dry_run {
        return match found {
            Some(target) => to_target(chain, &target, options, observer),
            None => to_target(chain, &DryRun::new_file(path), options, observer),
        };
    }
    let digests_checked = check_digests(chain, options.keep_going, observer)?;
    let target = found.map_or_else(|| FileTarget::create(path), Ok)?;
    let undo = match &options.undo {
        Some(folder) => {
            let threads = options.threads;
            let saving = Saving { chain, target: &target, path, clock, threads, observer };
            Some(saving.save_to_folder(folder, options.trust)?)
        }
        None => None,
    };
    let written = write(chain, &target, digests_checked, options, observer);
    let mut report = written.map_err(|error| target.half_restored(error))?;
    report.undo = undo;
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// The report on a file that is the revision already, and to which nothing has to be written: a restore that is made again is no
/// overwriting. `None` for any other.
fn find_complete(
    chain: &Chain,
    path: &Path,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<Option<RestoreReport>> {
    let size_bytes = chain.revision().size_bytes;
    let place = Place::find_by_own_links(path).ok();
    let is_alike = |place: &Place| {
        place.metadata().is_ok_and(|found| found.is_file() && found.len() == size_bytes)
    };
    let file = place.filter(is_alike).and_then(|place| place.open(OFlags::RDONLY).ok());
    let Some(file) = file else { return Ok(None) };
    let target = FileTarget::existing(path, file, size_bytes);
    let looking = RestoreOptions { dry_run: true, ..options.clone() };
    let report = to_target(chain, &target, &looking, observer)?;
    let is_complete = report.written_bytes == 0 && report.is_exact();
    Ok(is_complete.then_some(RestoreReport { dry_run: options.dry_run, ..report }))
}

/// Writes the revision to a target that is open already.
pub(crate) fn to_target(
    chain: &Chain,
    target: &dyn Target,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let began = Instant::now();
    let digests_checked = check_digests(chain, options.keep_going, observer)?;
    let report = match options.dry_run {
        true => write(chain, &DryRun::over(target), digests_checked, options, observer)?,
        false => write(chain, target, digests_checked, options, observer)?,
    };
    let seconds = began.elapsed().as_secs_f64();
    Ok(RestoreReport { dry_run: options.dry_run, seconds, ..report })
}

/// Writes the revision to a stream, from its first byte to its last.
pub(crate) fn to_stream(
    chain: &Chain,
    stream: &mut dyn Write,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let began = Instant::now();
    if !options.keep_going {
        check_whole(chain)?;
    }
    let digests_checked = check_digests(chain, options.keep_going, observer)?;
    let mut report = RestoreReport::new(chain, "-".into(), TargetKind::Stream, digests_checked);
    report.dry_run = options.dry_run;
    let mut nowhere = std::io::sink();
    let stream = if options.dry_run { &mut nowhere } else { stream };
    let reading = Reading {
        chain,
        phase: Phase::Restore,
        max_void_bytes: limits().chunk_bytes,
        keep_going: options.keep_going,
        threads: options.threads,
    };
    let failed = |len: u64| Error::io("standard output", format!("write {len} bytes"));
    reading.run(observer, |piece| {
        let len = piece.extent.len;
        match piece.bytes {
            Some(bytes) => stream.write_all(bytes).map_err(failed(len))?,
            None => write_zeros(stream, len).map_err(failed(len))?,
        }
        report.written_bytes += len;
        report.push_unreadable(chain, piece.unreadable);
        Ok(())
    })?;
    stream.flush().map_err(Error::io("standard output", "flush"))?;
    report.written_extents = u64::from(report.written_bytes > 0);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

fn write_zeros(stream: &mut dyn Write, mut len: u64) -> std::io::Result<()> {
    while len > 0 {
        let step = len.min(ZEROS.len() as u64);
        stream.write_all(ZEROS.get(..step as usize).unwrap_or(&ZEROS))?;
        len -= step;
    }
    Ok(())
}

/// Tools of one thread.
struct Worker {
    decompressor: Decompressor,
    found: Vec<u8>,
}

/// What has to be done for a chunk.
#[derive(Default)]
struct Work {
    rewrites: Vec<Rewrite>,
    buffer: Vec<u8>,
    unreadable: Vec<BlockIndex>,
    /// What stays as it is, since an undo archive does not hold it.
    changed_since: Vec<BlockIndex>,
}

/// A stretch of the target that has to be written.
struct Rewrite {
    extent: Extent,
    /// Where its bytes are in the chunk's buffer; `None` when they are zero.
    from: Option<usize>,
}

fn write(
    chain: &Chain,
    target: &dyn Target,
    digests_checked: bool,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let mut report =
        RestoreReport::new(chain, target.path().into(), target.kind(), digests_checked);
    if target.is_new() && !options.keep_going {
        check_whole(chain)?;
    }
    let counters = progress::begin_work(observer, Phase::Restore, report.size_bytes)?;
    target.prepare(report.size_bytes)?;
    let buffers = BufferPool::new();
    let void_bytes = if target.is_new() { u64::MAX } else { VOID_BYTES };
    let mut chunks = Chunks::new(chain, void_bytes, observer);
    let mut written_end = None;
    // One thread writes: several that write to one file only wait for each other, and burn time at it.
    pipeline::run(
        (0..pipeline::threads(options.threads))
            .map(|_| Ok(Worker { decompressor: Decompressor::new()?, found: Vec::new() }))
            .collect::<Result<Vec<_>>>()?,
        || chunks.next_chunk(),
        |worker, chunk| {
            let bytes = chunk.extent(chain).len;
            let work = match chunk {
                Chunk::Void { extent } => {
                    Work { rewrites: find_data(target, extent)?, ..Work::default() }
                }
                Chunk::Data { first, located } => {
                    let buffer = buffers.take(bytes as usize);
                    let compare = Compare { chain, target, keep_going: options.keep_going };
                    compare.run(worker, first, &located, buffer)?
                }
            };
            Ok((bytes, work))
        },
        |(bytes, work)| {
            for rewrite in work.rewrites {
                let extent = rewrite.extent;
                report.written_bytes += extent.len;
                report.written_extents += u64::from(written_end != Some(extent.offset));
                written_end = Some(extent.end());
                match rewrite.from {
                    None => target.clear(extent)?,
                    Some(from) => {
                        let part = work.buffer.get(from..from + extent.len as usize);
                        target.write_at(part.unwrap_or_default(), extent.offset)?;
                    }
                }
            }
            report.push_unreadable(chain, &work.unreadable);
            push_blocks(&mut report.changed_since, chain, &work.changed_since);
            buffers.give(work.buffer);
            counters.add(bytes);
            Ok(())
        },
    )?;
    target.finish(report.size_bytes)?;
    Ok(report)
}

/// Finds out what of a revision is wrong in the target.
struct Compare<'a> {
    chain: &'a Chain,
    target: &'a dyn Target,
    keep_going: bool,
}

/// What a block of the target has to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    AsItIs,
    Zero,
    Data,
}

impl Compare<'_> {
    /// Reads those blocks of a chunk that are wrong in the target into their places in `buffer`.
    fn run(
        &self,
        worker: &mut Worker,
        first: BlockIndex,
        located: &[Located],
        mut buffer: Vec<u8>,
    ) -> Result<Work> {
        let block_bytes = self.chain.block_size().len();
        let offset = self.chain.block_size().offset(first);
        let mut wanted = self.compare(worker, offset, located, buffer.len())?;
        let changed_since = self.keep_left_out(first, &mut wanted)?;
        let mut unreadable = Vec::new();
        for (from, to) in runs(&wanted, Wanted::Data) {
            let end = (to * block_bytes).min(buffer.len());
            let part = buffer.get_mut(from * block_bytes..end).unwrap_or_default();
            let blocks = located.get(from..to).unwrap_or_default();
            let at = first.plus(from as u64);
            let decompressor = &mut worker.decompressor;
            unreadable.extend(read_blocks(
                self.chain,
                at,
                blocks,
                self.keep_going,
                decompressor,
                part,
            )?);
        }
        let empty = if self.target.is_new() { Wanted::AsItIs } else { Wanted::Zero };
        for block in &unreadable {
            if let Some(wanted) = wanted.get_mut((block.0 - first.0) as usize) {
                *wanted = empty;
            }
        }
        let mut rewrites = Vec::new();
        for kind in [Wanted::Zero, Wanted::Data] {
            rewrites.extend(runs(&wanted, kind).into_iter().map(|(from, to)| {
                let (start, end) = (from * block_bytes, (to * block_bytes).min(buffer.len()));
                let extent = Extent::new(offset + start as u64, (end - start) as u64);
                Rewrite { extent, from: (kind == Wanted::Data).then_some(start) }
            }));
        }
        rewrites.sort_unstable_by_key(|rewrite| rewrite.extent.offset);
        Ok(Work { rewrites, buffer, unreadable, changed_since })
    }

    /// Leaves as it is what an undo archive does not hold; which blocks that are.
    fn keep_left_out(&self, first: BlockIndex, wanted: &mut [Wanted]) -> Result<Vec<BlockIndex>> {
        let mut kept = Vec::new();
        if self.chain.is_partial() && !self.target.is_new() {
            for (wanted, at) in wanted.iter_mut().zip(first.0..) {
                if *wanted == Wanted::Data && self.chain.leaves_out(BlockIndex(at))? {
                    *wanted = Wanted::AsItIs;
                    kept.push(BlockIndex(at));
                }
            }
        }
        Ok(kept)
    }

    fn compare(
        &self,
        worker: &mut Worker,
        offset: u64,
        located: &[Located],
        bytes: usize,
    ) -> Result<Vec<Wanted>> {
        let content =
            |block: &Located| if block.entry.is_zero_block() { Wanted::Zero } else { Wanted::Data };
        if self.target.is_new() {
            let wanted = |block: &Located| match content(block) {
                Wanted::Zero => Wanted::AsItIs,
                wanted => wanted,
            };
            return Ok(located.iter().map(wanted).collect());
        }
        worker.found.resize(bytes, 0);
        let size = self.chain.block_size();
        let unreadable = read_target(self.target, size, &mut worker.found, offset)?;
        let found = worker.found.chunks(self.chain.block_size().len());
        let right = TableEntry::matching(located.iter().map(|block| block.entry).zip(found))?;
        let wanted = |((block, right), at)| match right && !unreadable.contains(&at) {
            true => Wanted::AsItIs,
            false => content(block),
        };
        Ok(located.iter().zip(right).zip(0..).map(wanted).collect())
    }
}

/// Reads what a target has. Blocks that it cannot give, whose numbers in the buffer this gives, differ: a sector that
/// cannot be read may well be written.
fn read_target(
    target: &dyn Target,
    size: BlockSize,
    buffer: &mut [u8],
    offset: u64,
) -> Result<Vec<usize>> {
    match target.read_at(buffer, offset) {
        Err(error) if error.kind() == ErrorKind::Io => {}
        read => return read.map(|()| Vec::new()),
    }
    let mut unreadable = Vec::new();
    for (number, block) in buffer.chunks_mut(size.len()).enumerate() {
        match target.read_at(block, offset + size.offset(BlockIndex(number as u64))) {
            Err(error) if error.kind() == ErrorKind::Io => unreadable.push(number),
            read => read?,
        }
    }
    Ok(unreadable)
}

/// Where the runs of one kind begin and end.
fn runs(wanted: &[Wanted], kind: Wanted) -> Vec<(usize, usize)> {
    let mut at = 0;
    let mut found = Vec::new();
    for run in wanted.chunk_by(|a, b| a == b) {
        if run.first() == Some(&kind) {
            found.push((at, at + run.len()));
        }
        at += run.len();
    }
    found
}

/// Finds what is not zero in an extent of the target that has to be zero.
fn find_data(target: &dyn Target, extent: Extent) -> Result<Vec<Rewrite>> {
    let mut wrong = Vec::new();
    if target.is_new() {
        return Ok(wrong);
    }
    let mut buffer = Vec::new();
    let mut offset = extent.offset;
    while let Some(data) = target.next_data(offset)?.filter(|data| data.offset < extent.end()) {
        let piece = Extent::between(data.offset, data.end().min(extent.end()));
        let piece = Extent::new(piece.offset, piece.len.min(limits().chunk_bytes));
        buffer.resize(piece.len as usize, 0);
        let zero = match target.read_at(&mut buffer, piece.offset) {
            Ok(()) => crate::base::digest::is_zero(&buffer),
            // It may well be written.
            Err(error) if error.kind() == ErrorKind::Io => false,
            Err(error) => return Err(error),
        };
        if !zero {
            wrong.push(Rewrite { extent: piece, from: None });
        }
        offset = piece.end();
    }
    Ok(wrong)
}
