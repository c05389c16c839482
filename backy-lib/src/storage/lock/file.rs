//! The file `lock`: who may hold it, and what happens to one that others than the archive's writers can lock or would
//! see changed.
//!
//! Anybody who can open a file can lock it, and can still do so after permissions have been withdrawn. So a file that
//! others could open, that has other names (hard links) or belongs to a stranger is not used but replaced, by one of
//! mode 0600. The replaced file stays locked if possible, so that a process that has opened it before does not find
//! it free.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Stat, fchmod, flock, fstat, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use super::note::Note;
use super::{Busy, NAME, Place, read_note};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::fork::{PerProcess, Withheld};
use crate::storage::FileName;
use crate::storage::dir::{give_to_owner, open_regular};
use crate::storage::holders::{Kind, Who, who};

/// The result of trying to lock the file.
pub(super) enum Taken {
    Held {
        /// `None` if there is no space to create it.
        file: Option<Withheld<File>>,
        /// The file that it has replaced; to be held for as long.
        replaced: Option<Withheld<File>>,
    },
    Busy(Busy),
}

/// Opens the file, creating it if necessary, and locks it, whatever locks users hold who may only read.
pub(super) fn take(place: &Place<'_>) -> Result<Taken> {
    let path = place.path.join(NAME);
    let Some(file) = open(place)? else { return Ok(Taken::Held { file: None, replaced: None }) };
    let is_held = match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => {
            let seen = who(&file, Kind::Flock, place.found.st_uid);
            if !place.are_readers(seen) {
                let text = read_note(&file).ok().filter(|text| !text.is_empty());
                let holder = text.map(|text| Note::parse(&text).holder);
                return Ok(Taken::Busy(Busy { holder, may_be_ending: seen == Who::Unknown }));
            }
            false
        }
        Err(errno) => return Err(Error::io(&path, "lock")(errno.into())),
    };
    let text = read_note(&file).map_err(Error::io(&path, "read"))?;
    if let Some(holder) = Note::parse(&text).held_by(place.reach) {
        let holder = format!(
            "{holder}, says {}, perhaps of another machine; if nothing runs there any more, delete that file",
            path.display()
        );
        return Ok(Taken::Busy(Busy { holder: Some(holder), may_be_ending: false }));
    }
    let failed = |errno: Errno| Error::io(&path, "create it again")(errno.into());
    if is_held && place.is_local() && !has_name(place, NAME, &file).map_err(failed)? {
        // Somebody has replaced it since it was opened: the next attempt finds the other one.
        return Ok(Taken::Busy(Busy::default()));
    }
    if is_held && is_ours_alone(place, &file).map_err(failed)? {
        return Ok(Taken::Held { file: Some(file), replaced: None });
    }
    match replace(place, &file, is_held).map_err(failed) {
        Ok(Some(new)) => Ok(Taken::Held { file: Some(new), replaced: Some(file) }),
        Ok(None) => Ok(Taken::Busy(Busy::default())),
        // Maintenance must be able to make some.
        Err(error) if error.kind() == ErrorKind::NoSpace => {
            Ok(Taken::Held { file: None, replaced: Some(file) })
        }
        Err(error) => Err(error),
    }
}

fn open(place: &Place<'_>) -> Result<Option<Withheld<File>>> {
    if let Ok(made) = make(place, NAME) {
        return Ok(Some(made));
    }
    let (path, mode) = (place.path.join(NAME), Mode::RUSR | Mode::WUSR);
    match open_regular(place.fd, path, FileName::Lock, OFlags::RDWR | OFlags::CREATE, mode) {
        Err(error) if error.kind() == ErrorKind::NoSpace => Ok(None),
        opened => opened.map(Withheld::new).map(Some),
    }
}

/// A new file, for the archive's owner alone.
fn make(place: &Place<'_>, name: &str) -> rustix::io::Result<Withheld<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = retry_on_intr(|| openat(place.fd, name, flags, Mode::RUSR | Mode::WUSR))?;
    give_to_owner(place.fd, &made);
    Ok(Withheld::new(File::from(made)))
}

/// Whether the file, which is locked, is ours alone: nobody else could have opened it, or would see it changed.
fn is_ours_alone(place: &Place<'_>, file: &File) -> rustix::io::Result<bool> {
    let others = Mode::RWXG | Mode::RWXO;
    let is_open = |found: &Stat| Mode::from_raw_mode(found.st_mode).intersects(others);
    let found = fstat(file)?;
    let ours = [0, place.found.st_uid, geteuid().as_raw()];
    if found.st_nlink > 1 || !ours.contains(&found.st_uid) {
        return Ok(false);
    }
    if !is_open(&found) {
        return Ok(true);
    }
    // If that does not help, there are no permissions, and a new file would have no others.
    let closed = fchmod(file, Mode::RUSR | Mode::WUSR).and_then(|()| fstat(file));
    Ok(closed.map_or(true, |found| is_open(&found)))
}

/// Puts a new file, which is locked, in place of `old`; `None` if somebody else was faster. `is_held`: we hold the
/// lock on `old`.
fn replace(
    place: &Place<'_>,
    old: &File,
    is_held: bool,
) -> rustix::io::Result<Option<Withheld<File>>> {
    // Threads would take the same name.
    static ONE_AT_A_TIME: PerProcess<Mutex<()>> = PerProcess::new();
    let _one = ONE_AT_A_TIME.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let aside = format!(".{NAME}.{}.own", rustix::process::getpid());
    let aside = aside.as_str();
    let remove = || unlinkat(place.fd, aside, AtFlags::empty());
    // A process that had this number and was killed may have left it.
    let _ = remove();
    let new = make(place, aside)?;
    let exchange = || renameat_with(place.fd, aside, place.fd, NAME, RenameFlags::EXCHANGE);
    let replaced = retry_on_intr(|| flock(&new, FlockOperation::NonBlockingLockExclusive))
        .and_then(|()| match exchange() {
            // Anybody else who wants to replace it would have to hold its lock.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if is_held => {
                renameat(place.fd, aside, place.fd, NAME).map(|()| true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
            Ok(()) if has_name(place, aside, old)? => Ok(true),
            // That file is another process's, which has its name back when it looks for it.
            Ok(()) => exchange().map(|()| false),
        });
    let _ = remove();
    replaced.map(|done| done.then_some(new))
}

/// Whether a name in the folder is that of an open file.
fn has_name(place: &Place<'_>, name: &str, file: impl AsFd) -> rustix::io::Result<bool> {
    let own = retry_on_intr(|| fstat(&file))?;
    match retry_on_intr(|| statat(place.fd, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
