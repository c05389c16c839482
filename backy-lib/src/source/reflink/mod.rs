//! A file on XFS or btrfs: its mark is a clone, and the file system itself shows what has changed since.
//!
//! A clone is made at a moment: it is flushed and complete, also while a virtual machine writes to the file. Backups
//! read the clone, never the file. The clone stays beside the file, as the mark, until the next revision has its own;
//! meanwhile it keeps the blocks that it shares with nobody else. What the old and the new clone store at the same
//! place on the disk is the same: a file system that clones does not overwrite a block that two files share
//! (`extents::unchanged` has the conditions).
//! Of what btrfs has compressed that place says too little: there root has `btrfs send` compare both clones.
//!
//! The clone belongs to whoever runs backy and has mode 0400. Its inode, size and time of change are in the bookmark,
//! so that another file, or one that somebody has written to, is not taken for it.

#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "public for tests"))]
mod extents;
mod fiemap;
mod marks;
mod send_stream;
mod subvolumes;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::base::error::{Error, Result, limit};
use crate::base::extent::{Extent, gaps, rest_after};
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::{Bookmark, SourceIdentity};
use crate::source::tracking::{Marked, Opened, Tracker, check_identity};
use crate::source::{DeviceSource, Source};

#[cfg(feature = "testing")]
pub use extents::{Flags, Mapped, Maps, unchanged};
use fiemap::Files;
use marks::Folder;

/// Its name in bookmarks.
const TRACKER: &str = "reflink";

/// Opens a file, of which `live` is already open, with its marks.
///
/// # Errors
/// [`Error::Source`] if it is no file, or its folder cannot be opened.
pub(crate) fn open(path: &Path, live: DeviceSource) -> Result<Opened<'static>> {
    check(path, &live)?;
    let real = path.canonicalize().map_err(Error::io(path, "follow its links"))?;
    let folder = Folder::above(&real)?;
    let shared = Arc::new(Shared { path: path.to_owned(), live, marked: OnceLock::new() });
    let source = Box::new(ReflinkSource { shared: Arc::clone(&shared) });
    Ok(Opened { source, tracker: Some(Box::new(ReflinkTracker { shared, folder, note: None })) })
}

/// Checks that it is a file.
///
/// # Errors
/// [`Error::Source`].
pub(crate) fn check(path: &Path, live: &DeviceSource) -> Result<()> {
    if live.file().is_some() {
        return Ok(());
    }
    let message = "found a block device, expected a file; omit 'reflink:'".to_owned();
    Err(Error::Source { path: path.to_owned(), message })
}

/// Whether the file system of a file can make clones, and tell where they are stored. Makes none that stays.
pub(crate) fn is_possible(path: &Path, live: &DeviceSource) -> bool {
    let folder = path.canonicalize().ok().and_then(|real| Folder::above(&real).ok());
    live.file().zip(folder).is_some_and(|(live, folder)| folder.can_clone(live))
}

/// What `btrfs send` has printed, for tests that print anything.
#[cfg(feature = "testing")]
pub(super) fn read_differences(
    printed: &[u8],
    size_bytes: u64,
) -> std::result::Result<Vec<Extent>, String> {
    send_stream::differences(printed, subvolumes::FILE, size_bytes).map_err(|misread| misread.why)
}

struct Shared {
    path: PathBuf,
    live: DeviceSource,
    marked: OnceLock<AtMark>,
}

/// The file as it was at the mark.
struct AtMark {
    clone: DeviceSource,
    /// What may have changed, ascending; `None` if that is not known.
    changed: Option<Vec<Extent>>,
}

impl Shared {
    fn now(&self) -> &DeviceSource {
        self.marked.get().map_or(&self.live, |marked| &marked.clone)
    }

    fn changed(&self) -> Option<&[Extent]> {
        self.marked.get()?.changed.as_deref()
    }
}

struct ReflinkSource {
    shared: Arc<Shared>,
}

impl Source for ReflinkSource {
    /// That of the file, not of its clone.
    fn identity(&self) -> SourceIdentity {
        self.shared.live.identity()
    }

    fn size_bytes(&self) -> u64 {
        self.shared.now().size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.shared.now().current_size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.shared.now().read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.now().next_data(offset)
    }

    fn knows_holes(&self) -> bool {
        true
    }

    fn gives_hints(&self) -> bool {
        self.shared.changed().is_some()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let Some(changed) = self.shared.changed() else {
            let size_bytes = self.size_bytes();
            return Ok((offset < size_bytes).then(|| Extent::between(offset, size_bytes)));
        };
        Ok(rest_after(changed, offset))
    }
}

struct ReflinkTracker {
    shared: Arc<Shared>,
    folder: Folder,
    /// What there is to say about the comparison.
    note: Option<String>,
}

impl ReflinkTracker {
    /// What distinguishes the file from another one in its place.
    fn identity(&self, live: &File) -> Result<String> {
        let found = live.metadata().map_err(Error::io(&self.shared.path, "look it up"))?;
        let place = if fiemap::is_realtime(live) { ", realtime" } else { "" };
        Ok(format!("inode {}{place}", found.ino()))
    }

    /// The clone of an earlier mark; or why it cannot be relied on.
    fn earlier(
        &self,
        name: MarkName,
        bookmark: &Bookmark,
    ) -> Result<std::result::Result<File, String>> {
        let Some(live) = self.shared.live.file() else {
            return Ok(Err("it is no file".to_owned()));
        };
        let identity = self.identity(live)?;
        if let Err(why) = check_identity("file", &identity, bookmark) {
            return Ok(Err(why));
        }
        let Some(old) = self.folder.open(name)? else {
            return Ok(Err(format!("the clone {name} is missing")));
        };
        let id = marks::id(&old).map_err(self.error("look up its clone"))?;
        if id != bookmark.id {
            let expected = bookmark.id.escape_debug();
            return Ok(Err(format!(
                "the clone {name} has changed: found {id}, expected {expected}"
            )));
        }
        Ok(Ok(old))
    }

    /// What has changed between two clones; or why that is not known.
    fn compare(
        &mut self,
        (since, bookmark): (MarkName, &Bookmark),
        (name, new): (MarkName, &File),
    ) -> Result<std::result::Result<Vec<Extent>, String>> {
        let old = match self.earlier(since, bookmark)? {
            Ok(old) => old,
            Err(doubt) => return Ok(Err(doubt)),
        };
        let size = new.metadata().map_err(self.error("look up its clone"))?.len();
        let changed = match self.by_btrfs(name, &old, new) {
            Some(changed) => changed,
            None => match self.by_place(&old, new)? {
                Ok(same) => gaps(&same, size),
                Err(doubt) => return Ok(Err(doubt)),
            },
        };
        // Whatever was done to the old clone meanwhile would show now.
        match marks::id(&old).is_ok_and(|now| now == bookmark.id) {
            true => Ok(Ok(changed)),
            false => Ok(Err(format!("the clone {since} changed while it was compared"))),
        }
    }

    /// What has changed between two clones on btrfs that are compressed; `None` if they are not, or btrfs does not say.
    fn by_btrfs(&mut self, name: MarkName, old: &File, new: &File) -> Option<Vec<Extent>> {
        if !self.folder.is_on_btrfs() || !fiemap::is_encoded(new).unwrap_or(false) {
            return None;
        }
        match self.folder.differences(name, old, new) {
            Ok(changed) => Some(changed),
            Err(why) => {
                self.note = Some(format!(
                    "parts of it that are compressed are read, whether or not they have changed: {why}"
                ));
                None
            }
        }
    }

    /// What is stored at the same place in two clones, and so has not changed; or why that is not known.
    fn by_place(&self, old: &File, new: &File) -> Result<std::result::Result<Vec<Extent>, String>> {
        match extents::unchanged(&mut Files { old, new }) {
            Ok(Some(same)) => Ok(Ok(same)),
            Ok(None) => Ok(Err("it is in too many pieces to compare".to_owned())),
            Err(error) if limit(&error).is_some() => {
                Err(self.error("find out where it is stored")(error))
            }
            Err(error) => {
                Ok(Err(format!("the file system does not say where it is stored: {error}")))
            }
        }
    }

    fn error(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        Error::io(&self.shared.path, action)
    }
}

impl Tracker for ReflinkTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        let Some(live) = self.shared.live.file() else {
            return Ok(Marked::none("it is no file".to_owned()));
        };
        let clone = match self.folder.clone_of(live, name)? {
            Ok(clone) => clone,
            Err(why) => return Ok(Marked::none(why)),
        };
        let id = marks::id(&clone).map_err(self.error("look up its clone"))?;
        let bookmark = Bookmark::new(TRACKER, id, self.identity(live)?, self.folder.block_bytes());
        let compared = match since {
            Some(since) => self.compare(since, (name, &clone))?,
            None => Err("there is no earlier mark".to_owned()),
        };
        let (changed, doubt) = match compared {
            Ok(changed) => (Some(changed), None),
            Err(doubt) => (None, Some(doubt)),
        };
        let clone = DeviceSource::of_file(&self.folder.path(name), clone)?;
        // It is the first mark of this open file.
        let _ = self.shared.marked.set(AtMark { clone, changed });
        Ok(Marked { bookmark: Some(bookmark), doubt })
    }

    fn note(&self) -> Option<String> {
        self.note.clone()
    }

    fn obstacle(&self) -> Option<String> {
        let can = self.shared.live.file().is_some_and(|live| self.folder.can_clone(live));
        (!can).then(|| marks::CANNOT_CLONE.to_owned())
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        Ok(self.earlier(name, bookmark)?.err())
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        self.folder.marks(archive)
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.folder.settle(archive, keep)
    }
}
