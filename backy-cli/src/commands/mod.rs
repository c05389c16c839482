//! The commands, one file each: arguments, then what they do.

use std::path::{Path, PathBuf};

use crate::errors::Failure;
use crate::output::environment;

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod complete;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod drill;
pub(crate) mod export;
mod far;
pub(crate) mod find;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod maintenance;
pub(crate) mod man;
mod man_config;
pub(crate) mod mount;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod receive;
pub(crate) mod report;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod scrub;
pub(crate) mod serve;
pub(crate) mod source;
pub(crate) mod status;
pub(crate) mod tag;

/// The folder for temporary files: the one of --dir, or the one of the environment. Absolute.
fn temporary_folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => environment("TMPDIR")
            .filter(|folder| !folder.is_empty())
            .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from),
    };
    absolute("--dir", &folder)
}

/// A path that the argument `name` gives, made absolute.
fn absolute(name: &str, path: &Path) -> Result<PathBuf, Failure> {
    let message =
        |error| Failure::message(format!("{name} '{}': {error}; give a path", path.display()));
    std::path::absolute(path).map_err(message)
}
