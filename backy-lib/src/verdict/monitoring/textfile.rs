//! The file for node_exporter's textfile collector: replaced as a whole, and readable by every user.
//!
//! It is not part of the archive; `[monitoring] textfile` names it. A copy of an archive names the same file,
//! and must not hide the figures of the original: if the file has figures of another archive, it stays, and
//! the copy writes to another name beside it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod, open, rename, unlink};

use super::owner::{Owner, owner};
use super::prometheus;
use crate::archive::trusted_config;
use crate::base::canary::{Bug, planted};
use crate::base::clock::Clock;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result, judged};
use crate::storage::dir::DirStorage;
use crate::storage::{Storage, Trust};
use crate::verdict::check::check_one;

/// How many digits of the digest of an archive's folder go into that name.
const DIGITS: usize = 8;

/// Where the figures are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Textfile {
    /// The config names no file.
    Unwanted,
    /// They are in the configured file.
    Written(PathBuf),
    /// The configured file has the figures of another archive; these are in another file.
    Beside {
        /// The other file.
        path: PathBuf,
        /// The configured file.
        taken: PathBuf,
        /// The archive whose figures it has.
        archive: String,
    },
}

impl Textfile {
    /// What the user has to correct, in one line.
    pub fn warning(&self) -> Option<String> {
        let Textfile::Beside { path, taken, archive } = self else { return None };
        Some(format!(
            "{} has the figures of {archive}, so those of this archive are in {}; if this archive is a copy, set \
             another textfile in its backy.toml; if it was moved, delete {0}",
            taken.display(),
            path.display()
        ))
    }
}

/// Writes the figures of the archive in a folder to the file in its config. Called at the end of each command
/// that changes the archive, whatever its result. Does nothing if the config cannot be read or trusted.
///
/// # Errors
/// Errors of writing; also if backy did not write the existing file.
pub fn write_textfile(folder: &Path, trust: Trust, clock: &dyn Clock) -> Result<Textfile> {
    let config = DirStorage::open(folder).and_then(|storage| {
        let storage = storage.with_trust(trust);
        storage.check_trust().and_then(|()| trusted_config(&storage))
    });
    let wanted = judged(config)?.ok().and_then(|config| config.monitoring.textfile);
    let Some(wanted) = wanted else { return Ok(Textfile::Unwanted) };
    let checked = check_one(folder, clock)?;
    let text = prometheus([&checked]);
    let written = match owner(&wanted, &checked.archive)? {
        Owner::Ours => Textfile::Written(wanted),
        Owner::Other(archive) => {
            let path = beside(&wanted, &checked.archive);
            if let Owner::Other(archive) = owner(&path, &checked.archive)? {
                let error = std::io::Error::other(format!("it has the figures of {archive}"));
                return Err(Error::io(&path, "write the figures")(error));
            }
            Textfile::Beside { path, taken: wanted, archive }
        }
    };
    match &written {
        Textfile::Written(path) | Textfile::Beside { path, .. } => {
            replace(path, text.as_bytes())?;
        }
        Textfile::Unwanted => {}
    }
    Ok(written)
}

/// A name in the same folder that is always the same for one archive.
fn beside(wanted: &Path, archive: &str) -> PathBuf {
    let stem = wanted.file_stem().unwrap_or_default().to_string_lossy();
    let digits: String = Digest::of(archive.as_bytes()).to_string().chars().take(DIGITS).collect();
    wanted.with_file_name(format!("{stem}-{digits}.prom"))
}

/// A reader gets the old or the new content, even after a power cut.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let process = rustix::process::getpid().as_raw_nonzero();
    // The collector ignores this name.
    let staged = path.with_extension(format!("prom.{process}.tmp"));
    let written = write(&staged, content).and_then(|()| {
        rename(&staged, path).map_err(|errno| Error::io(path, "replace the file")(errno.into()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io(folder, "sync the folder"))
    });
    if written.is_err() {
        // Nothing else can be done about it.
        let _ = unlink(&staged);
    }
    written
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(path, "write the figures")(error);
    // A process with the same number may have left it.
    let _ = unlink(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
    let mut file = File::from(file);
    file.write_all(content).map_err(failed)?;
    // Whatever the umask: node_exporter runs as another user.
    let readable = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    fchmod(&file, readable).map_err(|errno| failed(errno.into()))?;
    // Without this, a power cut could leave an empty file.
    if planted(Bug::UnsyncedTextfile) { Ok(()) } else { file.sync_data().map_err(failed) }
}
