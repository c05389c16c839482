//! The files that a reader keeps open, and which blocks of the image it has found right.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::ReadCache;
use crate::base::error::{Error, Result};
use crate::base::progress::Silent;
use crate::base::units::BlockIndex;
use crate::image::chain::Chain;
use crate::storage::manifest::{self, ManifestFile};
use crate::storage::{Stamp, Storage};

/// How often to open a chain again when a writer changes the archive meanwhile. Not by `manifest::look`: a reader keeps
/// the open manifest, which later shows that nothing has changed since the chain was opened.
const OPEN_ATTEMPTS: u32 = 16;

/// The revision as it was stored when somebody last looked.
pub(super) struct Held {
    /// The number of the chain, in the cache.
    pub(super) number: u64,
    pub(super) chain: Arc<Chain>,
    /// Which blocks of the image have been right, if that proves anything for the next time.
    pub(super) checked: Option<Checked>,
    /// The problem with the digests as a whole. Then a block that should be zero cannot be read.
    pub(super) doubt: Option<Arc<Error>>,
    /// `None` if no writer can change what is read.
    manifest: Option<ManifestFile>,
}

/// The blocks of an image that have been right since its last change.
pub(super) struct Checked {
    /// A bit for each block.
    bits: Vec<AtomicU64>,
    pub(super) count: AtomicU64,
    /// The stamp of the image before any of them was read; `None` if no writer can reach the image.
    stamp: Option<Stamp>,
}

impl Checked {
    pub(super) fn new(chain: &Chain, stamp: Option<Stamp>) -> Self {
        let words = chain.blocks().div_ceil(64);
        let bits = (0..words).map(|_| AtomicU64::new(0)).collect();
        Checked { bits, count: AtomicU64::new(0), stamp }
    }

    pub(super) fn has(&self, block: BlockIndex) -> bool {
        let word = self.bits.get((block.0 / 64) as usize);
        word.is_some_and(|word| word.load(Relaxed) & (1 << (block.0 % 64)) != 0)
    }

    pub(super) fn set(&self, block: BlockIndex) {
        let bit = 1 << (block.0 % 64);
        if let Some(word) = self.bits.get((block.0 / 64) as usize)
            && word.fetch_or(bit, Relaxed) & bit == 0
        {
            self.count.fetch_add(1, Relaxed);
        }
    }
}

impl Held {
    /// Opens the files of the revision of `chain`, for the first time.
    pub(super) fn first(storage: &dyn Storage, chain: Chain, cache: &ReadCache) -> Result<Self> {
        Self::take(storage, Self::new(chain, cache)?, cache)
    }

    /// Opens the files in which the newest manifest stores the revision.
    pub(super) fn take(storage: &dyn Storage, before: Held, cache: &ReadCache) -> Result<Self> {
        for _ in 0..OPEN_ATTEMPTS {
            let manifest = manifest::open(storage)?;
            let followed = match before.chain.is_stored_by(&manifest.manifest) {
                true => Ok(None),
                false => before.chain.follow(&manifest.manifest),
            };
            let followed = followed.and_then(|now| now.map(|c| Self::new(c, cache)).transpose());
            let mut now = match followed {
                // It is where it was, or only the open files are left of it.
                Ok(now) => now.unwrap_or(before),
                // The archive was being changed.
                Err(_) if !manifest.is_current()? => continue,
                Err(error) => return Err(error),
            };
            if !now.chain.is_settled() {
                // A writer may have begun with the image since the manifest was read: then the manifest is not
                // current.
                let stamp = now.chain.image_stamp()?;
                now.checked = stamp.map(|stamp| Checked::new(&now.chain, Some(stamp)));
                now.manifest = Some(manifest);
            }
            return Ok(now);
        }
        let message = format!(
            "revision {} cannot be held on to: the archive is changed all the time",
            before.chain.revision().uuid
        );
        Err(Error::NoSuchRevision { message })
    }

    /// The state of a chain that nobody can change. Checks the digests of its blocks: if they are right, a zero entry
    /// means a zero block, and a block that matches its digest is the right one. If the digests are not right as a
    /// whole, a matching block of the image is still the right one, but one of a delta may not be, because the delta
    /// may have lost that it holds a block. Then no block is known to be zero: lost parts of a digest table read as
    /// zeros, and so do lost parts of an image.
    pub(super) fn new(chain: Chain, cache: &ReadCache) -> Result<Self> {
        let doubt = match chain.verify_digests(&Silent) {
            Err(error) if error.is_damage() && chain.is_image() => Some(Arc::new(error)),
            verified => verified.map(|()| None)?,
        };
        Ok(Self::unchecked(Arc::new(chain), cache.next_chain(), doubt))
    }

    pub(super) fn unchecked(chain: Arc<Chain>, number: u64, doubt: Option<Arc<Error>>) -> Self {
        Held { number, chain, checked: None, doubt, manifest: None }
    }

    /// The same, with no block checked.
    pub(super) fn again(&self) -> Self {
        Self::unchecked(Arc::clone(&self.chain), self.number, self.doubt.clone())
    }

    /// Whether the archive is unchanged; if it cannot be looked up, it may have changed.
    pub(super) fn is_current(&self) -> bool {
        self.manifest.as_ref().is_none_or(|file| file.is_current().unwrap_or(false))
    }

    /// Whether all of these blocks of the image were right. That counts if [`Held::is_as_checked`] holds after they
    /// have been read again.
    pub(super) fn has_checked(&self, blocks: Range<u64>) -> bool {
        // While somebody is changing the image, the manifest proves nothing.
        let is_quiet =
            self.manifest.as_ref().is_none_or(|file| file.manifest.in_progress.is_none());
        let checked = self.checked.as_ref().filter(|_| is_quiet);
        checked
            .is_some_and(|checked| blocks.into_iter().all(|block| checked.has(BlockIndex(block))))
    }

    /// Whether nothing has been written to the image since its blocks were checked, up to this moment.
    pub(super) fn is_as_checked(&self) -> bool {
        let Some(checked) = &self.checked else { return false };
        let is_as_it_was =
            |then: &Stamp| self.chain.image_stamp().is_ok_and(|now| now == Some(*then));
        checked.stamp.as_ref().is_none_or(|then| is_as_it_was(then) && self.is_current())
    }

    pub(super) fn set_checked(&self, block: BlockIndex) {
        if let Some(checked) = &self.checked {
            checked.set(block);
        }
    }
}
