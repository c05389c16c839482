//! Making a revision standalone: its delta takes over all that it reads from newer revisions.
//!
//! Every block is read and checked on the way, so that rot in the chain does not get into the standalone revision
//! unnoticed: a block that does not read right is stored as bad, and reported.

use std::sync::Arc;

use super::{Appended, stored_bytes};
use crate::base::digest::TableEntry;
use crate::base::error::{ErrorKind, Result};
use crate::base::limits::limits;
use crate::base::pipeline;
use crate::base::progress::{self, Observer, Phase};
use crate::format::manifest::Manifest;
use crate::format::qcow2::{Compressor, Decompressor};
use crate::image::append::DeltaExtension;
use crate::image::chain::{Chain, Place};
use crate::image::delta::{OldBlock, StoredBlock};
use crate::image::walk::{Blocks, Walk};
use crate::storage::Storage;

/// Appends to the delta of revision `number` everything that it reads from newer revisions, so that it needs none of
/// them.
pub(crate) fn make_standalone(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    number: usize,
    level: i32,
    threads: Option<usize>,
    observer: &dyn Observer,
) -> Result<Appended> {
    let chain = Chain::open(storage, manifest, number)?;
    chain.verify_digests(observer)?;
    let size = manifest.block_size;
    let counters = progress::begin_work(observer, Phase::Merge, chain.revision().size_bytes)?;
    let mut extension = DeltaExtension::open(&**storage, chain.revision(), size)?;
    let workers = (0..pipeline::threads(threads))
        .map(|_| Ok((Compressor::new(level)?, Decompressor::new()?)))
        .collect::<Result<Vec<_>>>()?;
    let mut walk = Walk::new(&chain);
    pipeline::run(
        workers,
        || {
            progress::check(observer)?;
            walk.next_piece(limits().piece_blocks)
        },
        |(compressor, decompressor), piece| {
            let stored = store_piece(&chain, &piece, compressor, decompressor)?;
            Ok((piece.end(), stored))
        },
        |(end, stored)| {
            for (block, entry, bad) in stored {
                extension.push(block, entry, bad)?;
            }
            let done = size.offset(end).min(chain.revision().size_bytes);
            counters.add(done.saturating_sub(counters.done_bytes()));
            Ok(())
        },
    )?;
    counters.finish();
    extension.finish(None)
}

/// The stored form of the blocks that the revision's own delta does not hold.
fn store_piece(
    chain: &Chain,
    piece: &Blocks,
    compressor: &mut Compressor,
    decompressor: &mut Decompressor,
) -> Result<Vec<(OldBlock, TableEntry, bool)>> {
    let size = chain.block_size();
    let mut stored = Vec::new();
    for (block, located) in piece.iter() {
        if matches!(located.place, Place::Zero | Place::Layer(0, _)) {
            continue;
        }
        let mut cluster = vec![0; size.len()];
        let bytes = size.extent(block, chain.revision().size_bytes).len as usize;
        let part = cluster.get_mut(..bytes).unwrap_or_default();
        let read = chain.read(block, std::slice::from_ref(located), decompressor, part);
        let (content, bad) = match read {
            Ok(()) => (compressor.store(&cluster), false),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                (StoredBlock::Compressed(compressor.compress_as_bad(&cluster)?), true)
            }
            Err(error) => return Err(error),
        };
        stored.push((OldBlock { block, content }, located.entry, bad));
    }
    Ok(stored)
}

/// About how many bytes would be appended to make a revision standalone; blocks of the image count in full.
pub(crate) fn standalone_bytes(
    storage: &Arc<dyn Storage>,
    manifest: &Manifest,
    number: usize,
    observer: &dyn Observer,
) -> Result<u64> {
    let chain = Chain::open(storage, manifest, number)?;
    let size = manifest.block_size;
    let mut walk = Walk::new(&chain);
    let mut bytes = 0;
    while let Some(piece) = walk.next_window()? {
        progress::check(observer)?;
        let stored = piece.located.iter().map(|located| match located.place {
            Place::Zero | Place::Layer(0, _) | Place::Lost => 0,
            Place::Layer(_, cluster) => stored_bytes(size, cluster),
            Place::Image => size.bytes(),
        });
        bytes += stored.sum::<u64>();
    }
    Ok(bytes)
}
