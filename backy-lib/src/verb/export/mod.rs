//! `export`: writes a revision as a single qcow2 file that needs no other file, or for Ceph (`rbd_diff`).
//!
//! The qcow2 file has version 3, the archive's block size as cluster size, and zstd compression; it omits zero
//! blocks. It is written under another name in the same folder, and gets its own name when it is complete and
//! durable.

mod rbd_changes;
mod rbd_diff;
mod rbd_records;

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::base::pipeline::{self, BufferPool};
use crate::base::progress::{self, Observer, Phase};
use crate::base::report_path::ReportPath;
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::qcow2::{Compressor, Decompressor};
use crate::image::chain::{Chain, Located};
use crate::image::delta::{DeltaWriter, OldBlock};
use crate::image::sequential::{Chunk, Chunks, check_digests};
use crate::image::walk::Blocks;
use crate::policy::config::DEFAULT_LEVEL;
use crate::storage::dir::DirFile;
use crate::target::safety::Guard;
use crate::target::{FileTarget, Target};
use crate::verb::restore;

pub use rbd_diff::{RbdDiffOptions, RbdDiffReport, rbd_diff, rbd_diff_to_stream};

/// Bytes of stored blocks written at a time.
const BATCH_BYTES: usize = 4 << 20;

/// How a revision is exported.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// zstd level, 1 to 19; `None` for the config's, or 1 if the config cannot be read.
    pub level: Option<i32>,
    /// Threads that read and compress; `None` for one per core.
    pub threads: Option<usize>,
}

/// What an export did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportReport {
    /// The revision.
    pub revision: RevisionId,
    /// The new file.
    pub file: ReportPath,
    /// Size of the revision in bytes.
    pub size_bytes: u64,
    /// Bytes that the file takes up on disk.
    pub stored_bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Writes a revision to a qcow2 file that does not exist yet.
///
/// # Errors
/// [`Error::Target`] if the file exists or would be in the archive.
pub fn export(
    archive: &Archive,
    id: RevisionId,
    path: &Path,
    options: &ExportOptions,
    observer: &dyn Observer,
) -> Result<ExportReport> {
    let began = Instant::now();
    let level = match options.level {
        Some(level) => level,
        // Nothing else in the config is needed: an archive without one can be exported, too.
        None => archive.config().map_or(DEFAULT_LEVEL, |config| config.compression_level),
    };
    let chain = archive.open_revision(id)?;
    restore::check_whole(&chain)?;
    check_target(archive, &chain, path, observer)?;
    check_digests(&chain, false, observer)?;
    let target = FileTarget::create(path)?;
    let size_bytes = chain.revision().size_bytes;
    let file = target.file().try_clone().map_err(Error::io(path, "open it a second time"))?;
    let file = Box::new(DirFile::over(path.to_owned(), file));
    let mut writer = DeltaWriter::create_in(file, chain.block_size(), size_bytes, None)?;
    let export = Export { chain: &chain, level, threads: options.threads, observer };
    export.write(&mut writer)?;
    let stored_bytes = writer.finish()?.stored_bytes()?;
    target.finish(size_bytes)?;
    Ok(ExportReport {
        revision: chain.revision().uuid,
        file: path.into(),
        size_bytes,
        stored_bytes,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn check_target(
    archive: &Archive,
    chain: &Chain,
    path: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        let message = "it exists already; expected a new file".to_owned();
        return Err(Error::Target { path: path.to_owned(), message, forcible: false });
    }
    let guard = Guard {
        archive: &archive.folder(),
        source: None,
        size_bytes: chain.revision().size_bytes,
        force: false,
        observer,
    };
    guard.check(path).map(drop)
}

struct Export<'a> {
    chain: &'a Chain,
    level: i32,
    threads: Option<usize>,
    observer: &'a dyn Observer,
}

/// Tools of one thread.
struct Worker {
    decompressor: Decompressor,
    compressor: Compressor,
}

impl Export<'_> {
    /// Reads and compresses on all cores, writes in one thread.
    fn write(&self, writer: &mut DeltaWriter) -> Result<()> {
        let chain = self.chain;
        let total_bytes = chain.revision().size_bytes;
        let counters = progress::begin_work(self.observer, Phase::Export, total_bytes)?;
        let buffers = BufferPool::new();
        let mut chunks = Chunks::new(chain, u64::MAX, self.observer);
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        pipeline::run(
            self.workers()?,
            || chunks.next_chunk(),
            |worker, chunk| {
                let len = chunk.extent(chain).len;
                let Chunk::Data(Blocks { first, located }) = chunk else {
                    return Ok((len, Vec::new()));
                };
                let mut buffer = buffers.take(len as usize);
                chain.read(first, &located, &mut worker.decompressor, &mut buffer)?;
                let blocks = self.store(worker, first, &located, &buffer);
                buffers.give(buffer);
                Ok((len, blocks))
            },
            |(len, blocks)| {
                batch_bytes += blocks.iter().map(|block| block.content.bytes()).sum::<usize>();
                batch.extend(blocks);
                if batch_bytes >= BATCH_BYTES {
                    write_batch(writer, &mut batch)?;
                    batch_bytes = 0;
                }
                counters.add(len);
                Ok(())
            },
        )?;
        write_batch(writer, &mut batch)
    }

    fn workers(&self) -> Result<Vec<Worker>> {
        (0..pipeline::threads(self.threads))
            .map(|_| {
                Ok(Worker {
                    decompressor: Decompressor::new()?,
                    compressor: Compressor::new(self.level)?,
                })
            })
            .collect()
    }

    /// The stored form of the blocks that are not zero.
    fn store(
        &self,
        worker: &mut Worker,
        first: BlockIndex,
        located: &[Located],
        bytes: &[u8],
    ) -> Vec<OldBlock> {
        let block_bytes = self.chain.block_size().len();
        let blocks = located.iter().zip(bytes.chunks(block_bytes)).zip(first.0..);
        blocks
            .filter(|((located, _), _)| !located.entry.is_zero_block())
            .map(|((_, bytes), number)| {
                // A cluster is stored whole: a short last block is padded with zeros.
                let mut whole = bytes.to_vec();
                whole.resize(block_bytes, 0);
                OldBlock { block: BlockIndex(number), content: worker.compressor.store(&whole) }
            })
            .collect()
    }
}

/// Nobody reads the file before it is complete, so nothing is synced in between.
fn write_batch(writer: &mut DeltaWriter, batch: &mut Vec<OldBlock>) -> Result<()> {
    if !batch.is_empty() {
        writer.append(batch)?;
        writer.enter()?;
        batch.clear();
    }
    Ok(())
}
