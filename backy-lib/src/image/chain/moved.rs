//! Blocks that are no longer where the chain had them when it was opened, because a writer has changed the archive.

use std::sync::{Arc, PoisonError};

use super::{Chain, Image, Place};
use crate::base::canary::{Bug, planted};
use crate::base::digest::TableEntry;
use crate::base::error::{ErrorKind, Result, judged};
use crate::base::units::BlockIndex;
use crate::format::manifest::Manifest;
use crate::format::qcow2::{Cluster, Decompressor};
use crate::image::delta::{Delta, read_cut};
use crate::storage::manifest;
use crate::storage::{Access, FileName};

/// How often to look for a block that another process keeps moving. A backup moves blocks to the overlay under one and
/// the same manifest, so `manifest::look` would not look again.
const ATTEMPTS: u32 = 8;

impl Chain {
    /// Whether another manifest has the revision in the same files.
    pub(crate) fn is_stored_by(&self, manifest: &Manifest) -> bool {
        let held = self.layers.iter().map(|layer| (layer.revision, layer.standalone, false));
        let held = held.chain(self.image.iter().map(|image| (image.revision, false, true)));
        let number = manifest.number_of(self.revision.uuid);
        let Some(number) = number else { return false };
        let stored = manifest.revisions.get(..=number).unwrap_or_default().iter().rev();
        let stored = stored.map(|r| (r.uuid, r.is_standalone(), r.is_image()));
        let count = self.layers.len() + usize::from(self.image.is_some());
        held.eq(stored.take(count))
    }

    /// The revision as it is stored by another manifest. If that no longer has it: the files of it that are open
    /// here, over the first revision of this chain that still exists. `None` if none does.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the archive is being changed at this moment.
    pub(crate) fn follow(&self, manifest: &Manifest) -> Result<Option<Chain>> {
        let held = self.layers.iter().map(|layer| layer.revision);
        let held = held.chain(self.image.iter().map(|image| image.revision));
        for (depth, id) in held.enumerate() {
            let Some(number) = manifest.number_of(id) else { continue };
            let mut chain = Chain::open(&self.storage, manifest, number)?;
            let own = self.layers.iter().take(depth).cloned();
            chain.layers.splice(..0, own);
            chain.revision = self.revision.clone();
            return Ok(Some(chain));
        }
        Ok(None)
    }

    /// Finds a block of the revision that was newest when the chain was opened, after the image has changed.
    pub(super) fn read_overwritten(
        &self,
        image: &Image,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.read_overlay(image, block, entry, decompressor, bytes)?
                || self.read_reopened(block, entry, decompressor, bytes)?
            {
                return Ok(());
            }
        }
        Err(self.wrong_block(FileName::IMAGE, block))
    }

    /// Reads a block of the image that an unfinished backup may be overwriting.
    fn read_overlay(
        &self,
        image: &Image,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<bool> {
        match Delta::open_any_size(&*self.storage, image.revision, self.block_size) {
            Ok(overlay) => {
                let cluster = overlay.clusters(block, 1)?.first().copied();
                let cluster = cluster.filter(|cluster| *cluster != Cluster::Unallocated);
                if let Some(cluster) = cluster {
                    let read = read_cut(&overlay, cluster, self.block_size, decompressor, bytes);
                    if judged(read)?.is_ok() && entry.matches(bytes) {
                        return Ok(true);
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // The backup may have been undone in between: then the image has the block again. Or a new image has been
        // renamed over the one that is open here.
        let offset = self.block_size.offset(block);
        image.file.read_padded_at(bytes, offset)?;
        if entry.matches(bytes) {
            return Ok(true);
        }
        self.storage.open(FileName::IMAGE, Access::Read)?.read_padded_at(bytes, offset)?;
        Ok(entry.matches(bytes))
    }

    /// Reads a block of the revision as it is stored now, if that has changed.
    pub(super) fn read_reopened(
        &self,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<bool> {
        let last = self.reopened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(chain) = last
            && chain.read_once(block, entry, decompressor, bytes)?
        {
            return Ok(true);
        }
        if planted(Bug::StaleManifest) {
            return Ok(false);
        }
        let manifest = manifest::read(&*self.storage)?;
        if manifest.checksum() == self.manifest_checksum {
            return self.read_once(block, entry, decompressor, bytes);
        }
        let chain = match self.follow(&manifest) {
            Ok(Some(chain)) => Arc::new(chain),
            Ok(None) => return Ok(false),
            // It is being changed at this moment.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let read = chain.read_once(block, entry, decompressor, bytes)?;
        if read {
            *self.reopened.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
        }
        Ok(read)
    }

    /// Whether the block reads right from where this chain has it, without looking any further.
    fn read_once(
        &self,
        block: BlockIndex,
        entry: TableEntry,
        decompressor: &mut Decompressor,
        bytes: &mut [u8],
    ) -> Result<bool> {
        let located = self.locate(block, 1)?;
        let Some(located) = located.first().filter(|located| located.entry == entry) else {
            return Ok(false);
        };
        match (located.place, &self.image) {
            (Place::Zero, _) => bytes.fill(0),
            (Place::Layer(layer, cluster), _) => {
                let Some(layer) = self.layers.get(layer) else { return Ok(false) };
                let read = read_cut(&layer.delta, cluster, self.block_size, decompressor, bytes);
                if judged(read)?.is_err() {
                    return Ok(false);
                }
            }
            (Place::Image, Some(image)) => {
                return self.read_overlay(image, block, entry, decompressor, bytes);
            }
            (Place::Image, None) | (Place::Lost, _) => return Ok(false),
        }
        Ok(entry.matches(bytes))
    }
}
