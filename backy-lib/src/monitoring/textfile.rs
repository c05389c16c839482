//! The file that node_exporter's textfile collector reads: replaced as a whole, readable by everybody.
//!
//! It is no file of the archive. Where it is says `[monitoring] textfile`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fchmod, open, rename, unlink};

use super::prometheus;
use crate::archive::trusted_config;
use crate::canary::{Bug, planted};
use crate::check::check_one;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::storage::dir::DirStorage;
use crate::storage::{Storage, Trust};

/// Writes the figures of the archive in a folder to the file that its config names; whether it names one. For the end of each
/// command that changes the archive, however it ended. An archive whose config cannot be read, or not be trusted, names none.
pub fn write_textfile(folder: &Path, trust: Trust, clock: &dyn Clock) -> Result<bool> {
    let config = DirStorage::open(folder).and_then(|storage| {
        let storage = storage.with_trust(trust);
        storage.check_trust().and_then(|()| trusted_config(&storage))
    });
    let Some(path) = config.ok().and_then(|config| config.monitoring.textfile) else {
        return Ok(false);
    };
    replace(&path, prometheus([&check_one(folder, clock)]).as_bytes())?;
    Ok(true)
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
