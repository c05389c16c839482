//! `restore`: writes a revision to a target.
//!
//! The digests of the revision are checked as a whole before anything is written, and every block is checked
//! against its digest before it is written. In an existing target, only blocks that differ are written. A dry
//! run does everything but write. The data to be overwritten can be saved first: `undo`.

pub(crate) mod known;
mod look;
mod on_archive;
mod sectors;
mod undo;
mod write;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::limits::limits;
use crate::base::progress::{Observer, Phase};
use crate::base::report_path::ReportPath;
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::image::chain::Chain;
use crate::image::sequential::{Reading, check_digests, push_joined};
use crate::storage::Trust;
use crate::storage::follow::Place;
use crate::target::DryRun;
use crate::target::space;

pub use crate::target::safety::Guard;
pub use crate::target::{FileTarget, Target, TargetKind};
pub(crate) use look::look;
pub use look::{Content, TargetLook};
use write::write;

pub use undo::{Saving, UndoReport};

static ZEROS: [u8; 65536] = [0; 65536];

/// How a revision is restored.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Overwrite existing data.
    pub force: bool,
    /// Overwrite what a person was shown and has confirmed, if it is still the same.
    pub confirmed: Option<TargetLook>,
    /// Do everything but write.
    pub dry_run: bool,
    /// Fill blocks that cannot be read correctly with zeros, and continue.
    pub keep_going: bool,
    /// Folder for an archive of the data that will be overwritten.
    pub undo: Option<PathBuf>,
    /// Whether others may be able to change that archive.
    pub trust: Trust,
    /// Start even if the target seems to lack space: for file systems that compress.
    pub ignore_space: bool,
    /// Threads that read and digest; `None` for one per core.
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
    /// The kind of the target.
    pub target_kind: TargetKind,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Bytes written; the others were correct already.
    pub written_bytes: u64,
    /// In how many extents they are.
    pub written_extents: u64,
    /// Extents that could not be read correctly and were filled with zeros, ascending.
    pub unreadable: Vec<Extent>,
    /// Whether the digests of the revision were correct as a whole. If not, more than the unreadable extents
    /// may be wrong.
    pub digests_checked: bool,
    /// Extents that an undo archive does not hold, because its restore did not overwrite them, and that have
    /// changed since then. They stay as they are. Ascending.
    pub changed_since: Vec<Extent>,
    /// Where the overwritten data is kept.
    pub undo: Option<UndoReport>,
    /// How long it took, in seconds.
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

    /// Whether the target now equals the revision exactly.
    pub fn is_exact(&self) -> bool {
        self.is_complete() && self.changed_since.is_empty()
    }

    /// Whether everything that the archive has of the revision is now in the target, and correct. For an undo
    /// archive that may be less than the revision.
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

/// Refuses to recreate a revision of which an undo archive holds only a part.
pub(crate) fn check_whole(chain: &Chain) -> Result<()> {
    match chain.is_partial() {
        true => Err(Error::Specification { message: undo::PARTIAL.to_owned() }),
        false => Ok(()),
    }
}

/// Restores to a path: checks it, saves existing data if requested, and writes.
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

/// The report on a file that equals the revision already, so that nothing has to be written: repeating a
/// restore overwrites nothing. `None` for any other file.
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

/// Writes the revision to an open target.
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
