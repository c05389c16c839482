//! The file that node_exporter's textfile collector reads: replaced as a whole, readable by everybody.
//!
//! It is no file of the archive. Where it is says `[monitoring] textfile`. A copy of an archive says the same, and must not make the
//! figures of the original disappear: a file that has those of another archive is left alone, and a name beside it is taken.

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

/// Digits of the digest of its folder that tell the file of an archive from that of another.
const DIGITS: usize = 8;

/// What became of the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Textfile {
    /// The archive names no file for them.
    Unwanted,
    /// They are in the file that the archive names.
    Written(PathBuf),
    /// That file has the figures of another archive; they are in another one.
    Beside {
        /// Where they are.
        path: PathBuf,
        /// The file that the archive names.
        taken: PathBuf,
        /// The archive whose figures that has.
        archive: String,
    },
}

impl Textfile {
    /// What somebody has to put right, in one line.
    pub fn warning(&self) -> Option<String> {
        let Textfile::Beside { path, taken, archive } = self else { return None };
        Some(format!(
            "{} has the figures of {archive}, so those of this archive are in {}; if this archive is a copy, set another textfile \
             in its backy.toml; if it was moved, delete {0}",
            taken.display(),
            path.display()
        ))
    }
}

/// Writes the figures of the archive in a folder to the file that its config names. For the end of each command that changes
/// the archive, however it ended. An archive whose config cannot be read, or not be trusted, names none.
///
/// # Errors
/// Those of writing; and when what is there was not written by backy.
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

/// A name in the same folder that is always the same for an archive.
fn beside(wanted: &Path, archive: &str) -> PathBuf {
    let stem = wanted.file_stem().unwrap_or_default().to_string_lossy();
    let digits: String = Digest::of(archive.as_bytes()).to_string().chars().take(DIGITS).collect();
    wanted.with_file_name(format!("{stem}-{digits}.prom"))
}

/// A reader finds the old content or the new one, also after a power cut.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let process = rustix::process::getpid().as_raw_nonzero();
    // Not to be taken for one that is to be read.
    let staged = path.with_extension(format!("prom.{process}.tmp"));
    let written = write(&staged, content).and_then(|()| {
        rename(&staged, path).map_err(|errno| Error::io(path, "replace the file")(errno.into()))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io(folder, "sync the folder"))
    });
    if written.is_err() {
        // Nothing more can be done about it.
        let _ = unlink(&staged);
    }
    written
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(path, "write the figures")(error);
    // One of a process that had this number and ended in between.
    let _ = unlink(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
    let mut file = File::from(file);
    file.write_all(content).map_err(failed)?;
    // Whatever the umask says: node_exporter runs as somebody else.
    let readable = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    fchmod(&file, readable).map_err(|errno| failed(errno.into()))?;
    // Or a power cut could leave an empty one.
    if planted(Bug::UnsyncedTextfile) { Ok(()) } else { file.sync_data().map_err(failed) }
}
