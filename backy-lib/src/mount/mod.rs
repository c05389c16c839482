//! Every revision as a file, by FUSE: whatever reads files then reads backups.
//!
//! [`tree`](self) and the modules below it know names, bytes and what was written, and nothing of a kernel; `fuse` translates
//! between the two; `place` takes the mountpoint and gives it back; `watch` follows the archive; `holding` keeps it open only as long
//! as a file is. A mount takes no lock and changes nothing in the archive. What is read is right because its digest is: a block that is not costs an input/output
//! error for those who read it, and a finding for the observer.

mod closing;
mod findings;
mod fuse;
mod holding;
mod nodes;
mod open;
mod place;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod watch;
mod writable;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::archive::Archive;
use crate::base::error::{Error, Result, describe_io};
use crate::base::fork::{Entry, Maker};
use crate::base::progress::{Event, Observer};

use place::Place;
use tree::Tree;

/// How many bytes of blocks are kept in memory unless told otherwise.
const CACHE_BYTES: u64 = 64 << 20;

/// How a mount behaves.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Whether the kernel lets users in other than the one who mounts. What they may do there, the modes of the files decide, and
    /// those are for the one who mounts alone, and `gid`.
    pub allow_other: bool,
    /// A group whose members may read everything, and write where that may be done; lets them in as `allow_other` does.
    pub gid: Option<u32>,
    /// Folder for the temporary files that take what is written; `None`: read-only.
    pub writable: Option<PathBuf>,
    /// Limit of what is kept in memory of blocks, in bytes.
    pub cache_bytes: u64,
    /// How many requests are worked on at a time; `None`: as many as there are cores, at least 2.
    pub threads: Option<usize>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            allow_other: false,
            gid: None,
            writable: None,
            cache_bytes: CACHE_BYTES,
            threads: None,
        }
    }
}

impl MountOptions {
    /// Whether the kernel has to let others in.
    fn lets_others_in(&self) -> bool {
        self.allow_other || self.gid.is_some()
    }
}

/// The number of a group, for [`MountOptions::gid`], from its name or its number in decimal digits.
///
/// # Errors
/// Why there is none.
pub fn group_number(group: &str) -> std::result::Result<u32, String> {
    if let Ok(number) = group.parse() {
        // The kernel's word for no group at all.
        return if number == u32::MAX { Err(format!("{number} is no group")) } else { Ok(number) };
    }
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => {
            Err(format!("there is no group '{group}'; give a name of /etc/group, or a number"))
        }
        Err(errno) => {
            Err(format!("cannot look up the group '{group}': {}", describe_io(&errno.into())))
        }
    }
}

/// Mounts an archive's revisions; returns when the mount is usable. It keeps nothing of `archive`, and nothing on the archive's
/// file system open unless a file is: when `umount` returns, that file system can be unmounted.
///
/// # Errors
/// [`Error::Mount`] when the mountpoint cannot be used; then nothing is left behind.
pub fn mount(
    archive: &Archive,
    mountpoint: &Path,
    options: &MountOptions,
    observer: Arc<dyn Observer + Send + Sync>,
) -> Result<Mounted> {
    let place = Place::prepare(mountpoint)?;
    check_apart(&place, archive, options.writable.as_deref())?;
    let writable = options.writable.as_deref();
    let tree = Tree::new(archive, writable, options.cache_bytes, Arc::clone(&observer));
    let tree = Arc::new(tree);
    let wishes = place::Wishes {
        name: archive.folder().canonicalize().unwrap_or_else(|_| archive.folder()),
        read_only: writable.is_none(),
        allow_other: options.lets_others_in(),
    };
    let device = place.take(&wishes)?;
    let place = Arc::new(place);
    let started = start(&tree, device, options, &place, &observer);
    if started.is_err() {
        // Nobody can be using it yet.
        let _ = place.detach();
    }
    started
}

fn start(
    tree: &Arc<Tree>,
    device: std::os::fd::OwnedFd,
    options: &MountOptions,
    place: &Arc<Place>,
    observer: &Arc<dyn Observer + Send + Sync>,
) -> Result<Mounted> {
    // A child that still had it would keep the file system from ending with this process, and whoever looks there
    // waiting.
    let withheld = Entry::of_another(device.as_fd());
    let session = fuse::connect(Arc::clone(tree), device, options)
        .map_err(|error| place.failed("get the kernel to take up the file system", error))?;
    place.read_far_ahead();
    let watch = watch::start(Arc::clone(tree))
        .map_err(|error| place.failed("start to watch the archive", error))?;
    let (place_of_thread, observer) = (Arc::clone(place), Arc::clone(observer));
    let (until_its_end, ended) = channel();
    let serve = move || {
        let _until_its_end = until_its_end;
        let result = session.run();
        drop(withheld);
        drop(watch);
        if let Err(error) = &result {
            let text = format!(
                "mountpoint {}: the file system has ended: {}",
                place_of_thread.path().display(),
                describe_io(error)
            );
            observer.event(&Event::Note(text));
        }
        place_of_thread.clear();
        result
    };
    let thread = std::thread::Builder::new()
        .name("mount".to_owned())
        .spawn(serve)
        .map_err(|error| place.failed("start a thread", error))?;
    Ok(Mounted { place: Arc::clone(place), maker: Maker::this(), thread: Some(thread), ended })
}

/// A file system that hides the archive, or what is written to itself, could not work.
fn check_apart(place: &Place, archive: &Archive, writable: Option<&Path>) -> Result<()> {
    let folder = archive.folder();
    let folder = folder.canonicalize().map_err(Error::io(&folder, "find the folder"))?;
    if place.path().starts_with(&folder) {
        let message = "it is in the archive itself; choose a folder elsewhere";
        return Err(place.error(message.to_owned()));
    }
    if folder.starts_with(place.path()) {
        let message = "it holds the archive, which would be hidden; choose a folder elsewhere";
        return Err(place.error(message.to_owned()));
    }
    let Some(writable) = writable else { return Ok(()) };
    let refused = |why: &dyn std::fmt::Display| {
        place.error(format!("{} cannot take what is written: {why}", writable.display()))
    };
    let real = writable.canonicalize().map_err(|error| refused(&describe_io(&error)))?;
    if real.starts_with(place.path()) || real.starts_with(&folder) {
        return Err(refused(&"choose a folder outside of the archive and of the mountpoint"));
    }
    match writable::nameless(&real) {
        Ok(_) => Ok(()),
        Err(errno) => Err(refused(&describe_io(&errno.into()))),
    }
}

/// A mount that is being served by threads of this process. When dropped, it is taken from its place.
///
/// A child that this process forks has no such threads, and the mount is not its own: dropping it there does nothing,
/// and what would take it away is an error.
#[derive(Debug)]
pub struct Mounted {
    place: Arc<Place>,
    maker: Maker,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    /// Nothing is ever sent; the other end goes with the thread.
    ended: Receiver<()>,
}

impl Mounted {
    /// Whether the file system is still in its place: not after `umount`.
    pub fn is_mounted(&self) -> bool {
        self.is_served() && self.place.is_ours()
    }

    /// Whether it was made by this process, and not by one that it was forked from.
    pub fn is_own(&self) -> bool {
        self.maker.is_this()
    }

    fn check_own(&self) -> Result<()> {
        if self.is_own() {
            return Ok(());
        }
        let message = format!("it belongs to process {}; unmount it there", self.maker);
        Err(self.place.error(message))
    }

    fn is_served(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits, but not longer than `limit`, until the file system has ended. After [`Mounted::detach`], or a lazy `umount`,
    /// that is when the last user has closed the last file. Whether it has.
    pub fn wait(&self, limit: Duration) -> bool {
        if !self.is_own() {
            return false;
        }
        self.ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// Takes the mount away.
    ///
    /// # Errors
    /// [`Error::Mount`] when it is in use, or another process's; then it stays as it was.
    pub fn unmount(&self) -> Result<()> {
        self.check_own()?;
        // What is in its place when nobody serves it is another's.
        if self.is_served() { self.place.unmount() } else { Ok(()) }
    }

    /// Takes the mount away from its place at once. Whoever uses it goes on until closing what is open.
    ///
    /// # Errors
    /// [`Error::Mount`] when it is another process's.
    pub fn detach(&self) -> Result<()> {
        self.check_own()?;
        if self.is_served() { self.place.detach() } else { Ok(()) }
    }

    /// Waits until the file system is gone and its threads have ended.
    ///
    /// # Errors
    /// [`Error::Mount`] when it ended by itself, or is another process's.
    pub fn join(mut self) -> Result<()> {
        self.check_own()?;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        match thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(self.place.error(format!("the file system ended: {}", describe_io(&error))))
            }
            Err(_) => Err(self.place.error("the thread of the file system has failed".to_owned())),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.is_own() {
            // There is no such thread here; its memory may be another one's.
            std::mem::forget(self.thread.take());
            return;
        }
        // Nobody could take it away any more.
        let _ = self.detach();
    }
}
