//! An import as the command and Python ask for one: into an archive that may not exist yet.

use std::path::PathBuf;

use super::{ImportReport, prepare};
use crate::base::error::Result;
use crate::base::units::BlockSize;
use crate::storage::Trust;
use crate::verb::caller::{Caller, interrupted};

/// An archive of 2014 to import.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// Its folder.
    pub old: PathBuf,
    /// The folder of the new archive, which is created if there is none.
    pub folder: PathBuf,
    /// Block size of a new archive, if not the usual one.
    pub block_size: Option<BlockSize>,
    /// Whether to act on a new archive that others can change.
    pub trust: Trust,
}

impl ImportRequest {
    /// Imports what the new archive does not have yet, oldest first.
    ///
    /// # Errors
    /// As those of [`prepare`] and [`ArchiveWriter::import`](crate::ArchiveWriter::import).
    pub fn run(&self, caller: &Caller<'_>) -> Result<ImportReport> {
        let archive = prepare(&self.old, &self.folder, self.block_size, self.trust)?;
        let mut writer = caller.writer(archive, "import")?;
        writer
            .import(&self.old, None, caller.clock, caller.observer)
            .map_err(interrupted("the imported revisions are complete"))
    }
}
