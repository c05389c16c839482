//! The settings of an archive that apply, and which file and line each comes from; for people who share settings
//! between archives.

use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::archive::folders;
use crate::base::error::{Error, Result, judged};
use crate::base::report_path::ReportPath;
use crate::policy::config::Config;
use crate::policy::config::setting::settings;
use crate::storage::FileName;

pub use crate::policy::config::setting::{DefaultWord, FileLine, Origin, Setting, SettingValue};

/// Version of the JSON of a report; `doc/scripting.md` has the promise.
pub const CONFIG_SCHEMA: u32 = 1;

/// The settings of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfigReport {
    /// Version of this structure: fields may be added within a version, but never removed or changed.
    pub schema: u32,
    /// The archive's folder, without symbolic links, whatever path was given.
    pub archive: ReportPath,
    /// `backy.toml`, then the files that it includes, in the order in which they are read: later ones lie over
    /// earlier ones, and `backy.toml` over all.
    pub files: Vec<ConfigFile>,
    /// The settings, in the order of the manual page. Keys without a value are left out. If there are errors, defaults
    /// are left out as well.
    pub settings: Vec<Setting>,
    /// Why the settings cannot be used: one sentence for each problem.
    pub errors: Vec<String>,
}

/// A file with settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Its path, as it is given where it is included.
    pub file: ReportPath,
    /// Where it is included; null for `backy.toml`.
    pub included_by: Option<FileLine>,
}

/// The settings of an archive, and all problems with them.
///
/// # Errors
/// Those of the process alone: problems with the settings are in the report.
pub fn config(archive: &Archive) -> Result<ConfigReport> {
    let own =
        ConfigFile { file: archive.storage().path(FileName::CONFIG).into(), included_by: None };
    let mut report = ConfigReport {
        schema: CONFIG_SCHEMA,
        archive: folders::label(&archive.folder()),
        files: vec![own],
        settings: Vec::new(),
        errors: Vec::new(),
    };
    let found = match judged(archive.settings())? {
        Ok(found) => found,
        Err(error) => {
            report.errors.push(error.to_string());
            return Ok(report);
        }
    };
    let mut errors: Vec<Error> = found.problems;
    // Without all files, more errors may only follow from that.
    if errors.is_empty() {
        errors.extend(Config::of_files(&found.files).err());
    }
    report.files.extend(found.files.included().map(|(path, place)| ConfigFile {
        file: path.into(),
        included_by: Some(FileLine { file: place.path.into(), line: place.line }),
    }));
    report.settings = settings(&found.files, errors.is_empty());
    for error in errors {
        if error.is_of_process() {
            return Err(error);
        }
        report.errors.push(error.to_string());
    }
    Ok(report)
}
