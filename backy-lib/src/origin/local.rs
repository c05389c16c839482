//! An archive in a folder of this machine as an origin.

use super::{Fetched, Listing, Offered, Origin, TablePiece};
use crate::archive::Archive;
use crate::base::error::Result;
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;

/// An archive that can be read here.
pub struct LocalOrigin {
    archive: Archive,
}

impl LocalOrigin {
    /// Takes no lock; the archive may change meanwhile.
    pub fn new(archive: Archive) -> Self {
        LocalOrigin { archive }
    }
}

impl Origin for LocalOrigin {
    fn name(&self) -> String {
        self.archive.folder().display().to_string()
    }

    fn listing(&mut self) -> Result<Listing> {
        (self.archive, _) = self.archive.reload()?;
        let manifest = self.archive.manifest();
        let revisions = manifest.revisions.iter().map(Offered::from).collect();
        Ok(Listing { block_size: manifest.block_size, revisions })
    }

    fn table(
        &mut self,
        _revision: RevisionId,
        _since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece> {
        Ok(TablePiece { runs: Vec::new(), next: from })
    }

    fn fetch(
        &mut self,
        _revision: RevisionId,
        _wanted: &[BlockIndex],
        _take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        Ok(())
    }
}
