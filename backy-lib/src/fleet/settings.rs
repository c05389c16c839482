//! Reads `fleet.toml`. It names programs to run and disks to read, so nobody else may be able to change it.

use std::path::Path;

use crate::base::error::Result;
use crate::policy::config::{CONFIG_LIMIT_BYTES, FleetSettings};
use crate::storage::{Behalf, Trust, staged};

impl FleetSettings {
    /// Reads the file.
    ///
    /// # Errors
    /// [`crate::Error::Config`] with line and column; [`crate::Error::Untrusted`] if others than the caller and root
    /// can change it; [`crate::Error::Io`].
    pub fn read(path: &Path, trust: Trust) -> Result<Self> {
        let file = trust.open_included(path, Behalf::Acting)?.file;
        let content = staged::read_file(&*file, CONFIG_LIMIT_BYTES)?;
        Self::parse_bytes(&content, path)
    }
}
