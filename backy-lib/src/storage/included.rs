//! Opening the files that `backy.toml` includes, which may lie anywhere.
//!
//! An included file decides as much as `backy.toml` does: what backy reads, where a restore writes, which programs
//! run. So before backy acts, the rules of `trust` apply to each of them and to all folders and links on the way.
//!
//! Reading an archive needs no trust, but whoever may write its `backy.toml` must not choose which files backy reads
//! with rights that they lack: messages about a file show words of it. So on behalf of such a config backy
//! reads only what they could read.

use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::dir::{DirFile, not_in_time};
use super::follow::{Place, Refusal, describe_open};
use super::trust::{Keepers, WithoutPermissions};
use super::{StorageFile, Trust};
use crate::base::error::{Error, Result};

/// On whose behalf backy opens a file that a config includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behalf {
    /// The caller's, who acts on what the config says. Nobody but the caller and root may be able to change the file,
    /// unless the caller decided that this does not matter.
    Acting,
    /// The caller's, who only reads, for a config that nobody but the caller and root can change.
    Reading,
    /// That of others, who can change the config, while the caller only reads. The user, if it is one's own.
    Others(Option<u32>),
}

impl Behalf {
    /// On whose behalf backy opens what a file of this owner includes, when the caller only reads.
    pub(super) fn of_reader(owner: u32, is_trusted: bool) -> Self {
        // Of a file of the caller or of root in the reach of others, nobody knows who put it there.
        let is_own = owner == 0 || owner == geteuid().as_raw();
        match is_trusted {
            true => Behalf::Reading,
            false => Behalf::Others((!is_own).then_some(owner)),
        }
    }
}

/// Finds out on whose behalf backy opens what a config includes.
pub type AskBehalf<'a> = Box<dyn FnOnce() -> Result<Behalf> + 'a>;

/// An open file that a config includes.
pub struct Included {
    /// The file, for reading.
    pub file: Box<dyn StorageFile>,
    /// Its path without symbolic links.
    pub real: PathBuf,
    /// On whose behalf backy opens what it includes in turn.
    pub behalf: Behalf,
}

impl Trust {
    /// Opens a file that the config of an archive includes.
    ///
    /// # Errors
    /// As those of [`super::Storage::open_included`].
    pub(crate) fn open_included(self, path: &Path, behalf: Behalf) -> Result<Included> {
        open(path, behalf, self)
    }
}

/// Opens a file without waiting for anything. Refuses whatever is not a regular file before it opens it.
fn open(path: &Path, behalf: Behalf, trust: Trust) -> Result<Included> {
    let keepers = Keepers::caller().on(WithoutPermissions::Accepted);
    let must_be_trusted = behalf == Behalf::Acting && trust == Trust::Checked;
    let mut is_trusted = true;
    let place = Place::find(path, &mut |place, is_last| match keepers.judge(place, is_last) {
        Err(Refusal::Foreign { .. }) if !must_be_trusted => {
            is_trusted = false;
            Ok(())
        }
        judged => judged,
    });
    let place = place.map_err(|refusal| match refusal {
        Refusal::Io(error) => Error::io(path, "open")(error),
        refusal => keepers.error(path, refusal),
    })?;
    let other = |message: String| Err(Error::io(path, "read")(std::io::Error::other(message)));
    if let Some(kind) = describe(place.kind()) {
        return other(format!("found {kind}, expected a regular file"));
    }
    let owner = place.found().st_uid;
    if let (Behalf::Others(user), Trust::Checked) = (behalf, trust)
        && user != Some(owner)
        && !is_open_to_everybody(&place)
    {
        let why =
            "others can change the file that includes it, and not all users may read this one";
        return other(why.to_owned());
    }
    let file = place.open(OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| match errno {
        Errno::STALE => Error::io(path, "open")(std::io::Error::other(describe_open(errno))),
        errno => Error::io(path, "open")(not_in_time(errno)),
    })?;
    if must_be_trusted {
        // Where inode numbers mean nothing, it may not be the file that was judged.
        keepers.check_file(path, &file)?;
    }
    let behalf = match behalf {
        Behalf::Acting => Behalf::Acting,
        _ => Behalf::of_reader(owner, is_trusted),
    };
    let real = place.path().to_owned();
    Ok(Included { file: Box::new(DirFile::over(path.to_owned(), file)), real, behalf })
}

/// What a file is that is not regular.
fn describe(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        _ => Some("a device"),
    }
}

/// Whether every user may read a file by its path without links. That path need not be the one that was followed,
/// which may lead through the archive, as `../standard.toml` does.
fn is_open_to_everybody(file: &Place) -> bool {
    let mut is_open = !file.is_beyond_proc();
    let found = Place::find(file.path(), &mut |place, is_last| {
        let mode = Mode::from_raw_mode(place.found().st_mode);
        is_open &= mode.contains(if is_last { Mode::ROTH } else { Mode::XOTH });
        Ok(())
    });
    let id = |place: &Place| (place.found().st_dev, place.found().st_ino);
    is_open && found.is_ok_and(|found| id(&found) == id(file))
}
