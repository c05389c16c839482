//! Reads `fleet.toml`, and makes a request of it. It names programs to run and disks to read, so nobody else may be
//! able to change it.

use std::path::{Path, PathBuf};

use super::plan::FleetRequest;
use crate::base::error::{Error, Result};
use crate::policy::config::{CONFIG_LIMIT_BYTES, FLEET_PATH, FleetSettings};
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

    fn names_archives(&self) -> bool {
        !(self.archives.is_empty() && self.declared.is_empty() && self.archives_from.is_empty())
    }
}

impl FleetRequest {
    /// The request for these folders, with the settings of the file `fleet`. Without folders, for what the file
    /// names; without both, for what [`FLEET_PATH`] names.
    ///
    /// # Errors
    /// Those of [`FleetSettings::read`]; [`crate::Error::Specification`] if nothing names an archive.
    pub fn of(folders: Vec<PathBuf>, fleet: Option<&Path>, trust: Trust) -> Result<Self> {
        let default = Path::new(FLEET_PATH);
        let settings = match fleet {
            Some(path) => FleetSettings::read(path, trust)?,
            None if !folders.is_empty() => FleetSettings::default(),
            None if !default.exists() => {
                let message = format!(
                    "no archive was given, and there is no {FLEET_PATH}; name archives, or folders that hold \
                     archives (DIR), or write that file: fleet.toml(5)"
                );
                return Err(Error::Specification { message });
            }
            None => FleetSettings::read(default, trust)?,
        };
        if folders.is_empty() && !settings.names_archives() {
            let path = fleet.unwrap_or(default).display();
            let message = format!(
                "{path}: names no archive; set archives, archives_from or [[archive]]: fleet.toml(5)"
            );
            return Err(Error::Specification { message });
        }
        Ok(FleetRequest { folders, settings, trust, ..FleetRequest::default() })
    }
}
