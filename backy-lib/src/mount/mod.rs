//! Every revision as a file, by FUSE, so that any program can read backups.
//!
//! [`tree`](self) and the modules below it know names, bytes and written data, and nothing of a kernel;
//! `fuse` translates between the two; `place` mounts and unmounts; `watch` follows the archive; `holding`
//! keeps it open only while a file is. A mount takes no lock and changes nothing in the archive. Every block
//! that is read matches its digest: a block that does not is an input/output error for its reader, and a
//! finding for the observer.

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

/// Default limit of blocks cached in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// Options of a mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Whether the kernel admits users other than the one who mounts. The modes of the files then decide what
    /// they may do, and give permissions only to the user who mounts and to `gid`.
    pub allow_other: bool,
    /// A group whose members may read everything, and write in a writable mount; admits them as `allow_other` does.
    pub gid: Option<u32>,
    /// Folder for the temporary files with written data; `None`: read-only.
    pub writable: Option<PathBuf>,
    /// Limit of blocks cached in memory, in bytes.
    pub cache_bytes: u64,
    /// How many requests to handle at a time; `None`: the number of cores, at least 2.
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
    /// Whether the kernel has to admit other users.
    fn lets_others_in(&self) -> bool {
        self.allow_other || self.gid.is_some()
    }
}

/// The group ID for [`MountOptions::gid`], from its name or its decimal number.
///
/// # Errors
/// Why there is no such group.
pub fn group_number(group: &str) -> std::result::Result<u32, String> {
    if let Ok(number) = group.parse() {
        // The kernel's value for no group.
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

/// Mounts an archive's revisions; returns when the mount is usable. It keeps nothing of `archive`, and keeps
/// nothing on the archive's file system open unless a file is open: when `umount` returns, that file system
/// can be unmounted.
///
/// # Errors
/// [`Error::Mount`] if the mountpoint cannot be used; nothing is left mounted then.
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
    // A child with this descriptor would keep the file system alive after this process ends, and every access
    // to it would hang.
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

/// A file system that hides the archive, or the folder for its own written data, could not work.
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

/// A mount served by threads of this process. Dropping it detaches the mount.
///
/// A forked child does not have these threads, and does not own the mount: dropping it there does nothing,
/// and unmounting it is an error.
#[derive(Debug)]
pub struct Mounted {
    place: Arc<Place>,
    maker: Maker,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    /// Nothing is ever sent; the other end closes when the thread ends.
    ended: Receiver<()>,
}

impl Mounted {
    /// Whether the file system is still mounted: false after `umount`.
    pub fn is_mounted(&self) -> bool {
        self.is_served() && self.place.is_ours()
    }

    /// Whether this process made it, and not a parent of it.
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

    /// Waits for at most `limit` until the file system has ended, and returns whether it has. After
    /// [`Mounted::detach`] or a lazy `umount`, that is when the last file is closed.
    pub fn wait(&self, limit: Duration) -> bool {
        if !self.is_own() {
            return false;
        }
        self.ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// [`Error::Mount`] if it is in use or belongs to another process; it stays mounted then.
    pub fn unmount(&self) -> Result<()> {
        self.check_own()?;
        // If this one is no longer served, another file system may be in its place.
        if self.is_served() { self.place.unmount() } else { Ok(()) }
    }

    /// Detaches the mount at once. Programs that use it continue until they close their files.
    ///
    /// # Errors
    /// [`Error::Mount`] if it belongs to another process.
    pub fn detach(&self) -> Result<()> {
        self.check_own()?;
        if self.is_served() { self.place.detach() } else { Ok(()) }
    }

    /// Waits until the file system is unmounted and its threads have ended.
    ///
    /// # Errors
    /// [`Error::Mount`] if it ended by itself or belongs to another process.
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
            // This process does not have the thread; its memory may belong to another one.
            std::mem::forget(self.thread.take());
            return;
        }
        // Nothing else could detach it later.
        let _ = self.detach();
    }
}
