//! What the readers of an archive remember together, in bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::base::digest::DIGEST_BYTES;
use crate::base::limits::limits;
use crate::base::units::BlockSize;
use crate::image::chain::Located;

pub(super) type Window = Arc<[Located]>;
pub(super) type Block = Arc<[u8]>;

/// The common cache of the readers of an archive: places and blocks that were looked up lately, up to a limit.
pub struct ReadCache {
    /// By the number of the opened chain and that of the window.
    pub(super) windows: Cache<(u64, u64), Window, Bytes>,
    /// Blocks by their digests, with which they were right.
    pub(super) blocks: Cache<[u8; DIGEST_BYTES], Block, Bytes>,
    chains: AtomicU64,
}

/// Weighs cached values by the memory that they take.
#[derive(Clone)]
pub(super) struct Bytes;

impl Weighter<(u64, u64), Window> for Bytes {
    fn weight(&self, _key: &(u64, u64), window: &Window) -> u64 {
        size_of_val::<[Located]>(window) as u64
    }
}

impl Weighter<[u8; DIGEST_BYTES], Block> for Bytes {
    fn weight(&self, key: &[u8; DIGEST_BYTES], block: &Block) -> u64 {
        (key.len() + block.len()) as u64
    }
}

impl ReadCache {
    /// A cache that holds about `limit_bytes` at most.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        let (windows, blocks) = (limit_bytes / 4, limit_bytes - limit_bytes / 4);
        let window_bytes = limits().reader_window_blocks * size_of::<Located>() as u64;
        let items = |limit: u64, each: u64| (limit / each) as usize + 1;
        Arc::new(ReadCache {
            windows: Cache::with_weighter(items(windows, window_bytes), windows, Bytes),
            blocks: Cache::with_weighter(items(blocks, BlockSize::DEFAULT.bytes()), blocks, Bytes),
            chains: AtomicU64::new(0),
        })
    }

    pub(super) fn next_chain(&self) -> u64 {
        self.chains.fetch_add(1, Relaxed)
    }
}
