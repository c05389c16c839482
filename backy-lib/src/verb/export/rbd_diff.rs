//! `export --rbd-diff`: writes a revision, or how it differs from another one, in Ceph's format "rbd diff v1".
//!
//! `rbd import-diff` makes a snapshot of it, whose name is the UUID of the revision. The digests of both revisions are
//! checked as a whole before anything is written, and every block against its digest. The format itself has no
//! checksums, so the report has the SHA-256 of the stream. After an error the stream lacks its last record.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::check_target;
use super::rbd_changes::{Change, Changes, Piece};
use super::rbd_records::{Records, Totals};
use crate::archive::Archive;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Observer, Phase};
use crate::base::report_path::ReportPath;
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::qcow2::Decompressor;
use crate::image::chain::{Chain, Located};
use crate::image::sequential::check_digests;
use crate::target::{FileTarget, Target};
use crate::verb::restore;

/// How a revision is written for Ceph.
#[derive(Debug, Clone, Default)]
pub struct RbdDiffOptions {
    /// The revision that Ceph has already, as a snapshot with its UUID as name; the stream then has only what differs.
    /// `None` for a stream that has all data, for an empty image.
    pub since: Option<RevisionId>,
    /// Threads that read; `None` for one per core.
    pub threads: Option<usize>,
}

/// What was written for Ceph.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RbdDiffReport {
    /// The revision.
    pub revision: RevisionId,
    /// The revision that it is compared with.
    pub since: Option<RevisionId>,
    /// The new file; `-` for a stream.
    pub file: ReportPath,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Length of the stream in bytes.
    pub stream_bytes: u64,
    /// Bytes of the revision that are in the stream.
    pub data_bytes: u64,
    /// Bytes that the stream sets to zero.
    pub zero_bytes: u64,
    /// SHA-256 of the stream, which has no checksum of its own.
    pub sha256: Digest,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Writes a revision for Ceph to a file that does not exist yet.
///
/// # Errors
/// [`Error::Target`] if the file exists or would be in the archive; [`Error::Specification`] if the two revisions are
/// the same.
pub fn rbd_diff(
    archive: &Archive,
    id: RevisionId,
    path: &Path,
    options: &RbdDiffOptions,
    observer: &dyn Observer,
) -> Result<RbdDiffReport> {
    let diff = Diff::open(archive, id, options, observer)?;
    check_target(archive, &diff.chain, path, observer)?;
    diff.check()?;
    let target = FileTarget::create(path)?;
    let mut offset = 0;
    let report = diff.write(path.into(), &mut |bytes| {
        target.write_at(bytes, offset)?;
        offset += bytes.len() as u64;
        Ok(())
    })?;
    target.finish(report.stream_bytes)?;
    Ok(RbdDiffReport { seconds: diff.began.elapsed().as_secs_f64(), ..report })
}

/// Writes a revision for Ceph to a stream.
///
/// # Errors
/// [`Error::Specification`] if the two revisions are the same.
pub fn rbd_diff_to_stream(
    archive: &Archive,
    id: RevisionId,
    stream: &mut dyn Write,
    options: &RbdDiffOptions,
    observer: &dyn Observer,
) -> Result<RbdDiffReport> {
    let diff = Diff::open(archive, id, options, observer)?;
    diff.check()?;
    let failed = |len: usize| Error::io("standard output", format!("write {len} bytes"));
    let report =
        diff.write("-".into(), &mut |bytes| stream.write_all(bytes).map_err(failed(bytes.len())))?;
    stream.flush().map_err(Error::io("standard output", "flush"))?;
    Ok(RbdDiffReport { seconds: diff.began.elapsed().as_secs_f64(), ..report })
}

struct Diff<'a> {
    began: Instant,
    chain: Chain,
    since: Option<Chain>,
    threads: Option<usize>,
    observer: &'a dyn Observer,
}

/// The content of a piece.
struct Content {
    /// The block after the piece.
    end: BlockIndex,
    buffer: Vec<u8>,
    /// What to write, with its place in the buffer; `None` for zeros.
    stretches: Vec<(Extent, Option<Range<usize>>)>,
}

impl<'a> Diff<'a> {
    fn open(
        archive: &Archive,
        id: RevisionId,
        options: &RbdDiffOptions,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let began = Instant::now();
        if options.since == Some(id) {
            let message = format!("both revisions are {id}; name two different ones");
            return Err(Error::Specification { message });
        }
        let chain = archive.open_revision(id)?;
        let since = options.since.map(|since| archive.open_revision(since)).transpose()?;
        for chain in [&chain].into_iter().chain(&since) {
            restore::check_whole(chain)?;
        }
        Ok(Diff { began, chain, since, threads: options.threads, observer })
    }

    /// Proves the digests of both revisions: they alone decide which blocks differ.
    fn check(&self) -> Result<()> {
        for chain in [&self.chain].into_iter().chain(&self.since) {
            check_digests(chain, false, self.observer)?;
        }
        Ok(())
    }

    /// Reads on all cores, and passes the stream to `put` in one thread.
    fn write(
        &self,
        file: ReportPath,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<RbdDiffReport> {
        let revision = self.chain.revision();
        let size_bytes = revision.size_bytes;
        let since = self.since.as_ref().map(|since| since.revision().uuid);
        let counters = progress::begin_work(self.observer, Phase::Export, size_bytes)?;
        self.chain.bypass_cache();
        let mut records = Records::begin(put, since, revision.uuid, size_bytes)?;
        let buffers = BufferPool::new();
        let mut changes = Changes::new(&self.chain, self.since.as_ref(), self.observer);
        let mut done_bytes = 0;
        let threads = 0..pipeline::threads(self.threads);
        pipeline::run(
            threads.map(|_| Decompressor::new()).collect::<Result<Vec<_>>>()?,
            || changes.next_piece(),
            |decompressor, piece| self.read(decompressor, &piece, &buffers),
            |Content { end, buffer, stretches }| {
                for (extent, place) in stretches {
                    match place {
                        None => records.zeros(extent)?,
                        Some(place) => {
                            records.data(extent.offset, buffer.get(place).unwrap_or_default())?;
                        }
                    }
                }
                buffers.give(buffer);
                let end_bytes = self.chain.block_size().offset(end).min(size_bytes);
                counters.add(end_bytes - done_bytes);
                done_bytes = end_bytes;
                Ok(())
            },
        )?;
        let Totals { stream_bytes, data_bytes, zero_bytes, sha256 } = records.end()?;
        counters.add(size_bytes - done_bytes);
        let revision = revision.uuid;
        Ok(RbdDiffReport {
            revision,
            since,
            file,
            size_bytes,
            stream_bytes,
            data_bytes,
            zero_bytes,
            sha256,
            seconds: 0.0,
        })
    }

    /// Reads the blocks of a piece that have changed, and checks them against their digests.
    fn read(
        &self,
        decompressor: &mut Decompressor,
        piece: &Piece,
        buffers: &BufferPool,
    ) -> Result<Content> {
        let size = self.chain.block_size();
        let size_bytes = self.chain.revision().size_bytes;
        let start = size.offset(piece.first);
        let end_bytes = size.offset(piece.end()).min(size_bytes);
        let mut buffer = buffers.take((end_bytes - start) as usize);
        let mut stretches = Vec::new();
        let mut first = piece.first;
        for run in piece.blocks.chunk_by(|(_, one), (_, other)| one == other) {
            let next = first.plus(run.len() as u64);
            let extent = Extent::between(size.offset(first), size.offset(next).min(size_bytes));
            match run.first().map_or(Change::Same, |(_, change)| *change) {
                Change::Same => {}
                Change::Zero => stretches.push((extent, None)),
                Change::Data => {
                    let place = (extent.offset - start) as usize..(extent.end() - start) as usize;
                    let located: Vec<Located> = run.iter().map(|(located, _)| *located).collect();
                    let part = buffer.get_mut(place.clone()).unwrap_or_default();
                    self.chain.read(first, &located, decompressor, part)?;
                    stretches.push((extent, Some(place)));
                }
            }
            first = next;
        }
        Ok(Content { end: piece.end(), buffer, stretches })
    }
}
