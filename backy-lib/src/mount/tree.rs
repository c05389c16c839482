//! The archive as a tree of files: names, attributes, content. It knows no kernel, so that any file server
//! can serve it.
//!
//! The outside knows a node by its number, which [`Tree::lookup`] gives out and [`Tree::forget`] takes back,
//! and an open file by its handle. The names follow the archive: a lookup uses the current manifest. Open
//! files stay open: [`Tree::refresh`], to be called after the manifest was replaced, makes every open
//! revision switch to the files that it is in now.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use jiff::Timestamp;
use rustix::io::Errno;

use super::findings::Findings;
use super::holding::{Hold, Holding};
use super::nodes::Nodes;
use super::open::{OpenFile, OpenRevision, errno_of};
use super::view::{Facts, Folder, Node, View, facts};
use super::writable::Layers;
use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::progress::Observer;
use crate::base::revision::RevisionId;
use crate::format::partitions::{self, Partition};
use crate::image::reader::ReadCache;

/// An answer for callers that only know error numbers.
pub(super) type Reply<T> = std::result::Result<T, Errno>;

/// The kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Link,
}

/// The attributes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) size_bytes: u64,
    pub(super) links: u32,
    pub(super) time: Timestamp,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The number of the node, if the outside knows it.
    pub(super) number: Option<u64>,
    pub(super) kind: Kind,
    pub(super) name: String,
}

/// The tree of one archive.
pub(super) struct Tree {
    holding: Arc<Holding>,
    view: RwLock<Arc<View>>,
    /// Held while `view` is being replaced.
    reloading: Mutex<()>,
    /// Whether open revisions may not have followed the manifest yet.
    behind: AtomicBool,
    nodes: Mutex<Nodes>,
    revisions: Mutex<HashMap<RevisionId, Weak<OpenRevision>>>,
    /// `None` if the mount is read-only.
    layers: Option<Layers>,
    tables: Mutex<HashMap<RevisionId, Arc<Vec<Partition>>>>,
    files: RwLock<HashMap<u64, Arc<OpenFile>>>,
    folders: Mutex<HashMap<u64, Arc<Vec<Entry>>>>,
    next_handle: AtomicU64,
    cache: Arc<ReadCache>,
    findings: Findings,
}

impl Tree {
    /// The tree of an archive. `writable`: the folder for written data, if writes are allowed.
    pub(super) fn new(
        archive: &Archive,
        writable: Option<&Path>,
        cache_bytes: u64,
        observer: Arc<dyn Observer + Send + Sync>,
    ) -> Self {
        Tree {
            holding: Arc::new(Holding::new(archive)),
            view: RwLock::new(Arc::new(View::new(archive.manifest()))),
            reloading: Mutex::default(),
            behind: AtomicBool::new(false),
            nodes: Mutex::new(Nodes::new()),
            revisions: Mutex::default(),
            layers: writable.map(Layers::new),
            tables: Mutex::default(),
            files: RwLock::default(),
            folders: Mutex::default(),
            next_handle: AtomicU64::new(1),
            cache: ReadCache::new(cache_bytes),
            findings: Findings::new(observer),
        }
    }

    /// The archive's folder, to be watched.
    pub(super) fn archive_folder(&self) -> &Path {
        self.holding.folder()
    }

    /// Where to report problems.
    pub(super) fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Whether writes are allowed.
    pub(super) fn is_writable(&self) -> bool {
        self.layers.is_some()
    }

    /// Follows the archive, if its manifest was replaced. Call it again if it fails.
    pub(super) fn refresh(&self) -> Result<()> {
        self.reload()?;
        if !self.behind.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        // Without open files, nothing has to follow.
        let Some(_hold) = self.holding.hold_if_open() else { return Ok(()) };
        let open: Vec<_> = lock(&self.revisions).values().filter_map(Weak::upgrade).collect();
        let mut failed = Ok(());
        for revision in open {
            // Each one is refreshed, whatever happens to the others.
            failed = failed.and(revision.reader.refresh());
        }
        if failed.is_err() {
            self.behind.store(true, Ordering::Release);
        }
        failed
    }

    /// Reads the manifest, if it was replaced.
    fn reload(&self) -> Result<()> {
        let _one = lock(&self.reloading);
        let Some(archive) = self.holding.newer_than(&self.view().checksum)? else {
            return Ok(());
        };
        let view = Arc::new(View::new(archive.manifest()));
        drop(archive);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        // After the view is replaced: an opening file uses the view to decide whether it may still be kept.
        self.holding.forget_recent();
        lock(&self.tables).retain(|id, _| view.number(*id).is_some());
        if let Some(layers) = &self.layers {
            layers.drop_unused(|id| view.number(id).is_some());
        }
        self.behind.store(true, Ordering::Release);
        Ok(())
    }

    /// The current names, or the last known ones if the manifest cannot be read right now.
    fn view_now(&self) -> Arc<View> {
        if let Err(error) = self.reload() {
            // The thread that watches the manifest retries, and reports if that keeps failing.
            drop(error);
        }
        self.view()
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn node(&self, number: u64) -> Reply<Arc<Node>> {
        lock(&self.nodes).get(number).ok_or(Errno::NOENT)
    }

    fn folder(&self, number: u64) -> Reply<Folder> {
        match &*self.node(number)? {
            Node::Folder(folder) => Ok(folder.clone()),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The node with this name in a folder. Gives its number out, for [`Tree::forget`] to take back.
    pub(super) fn lookup(&self, folder: u64, name: &OsStr) -> Reply<Attributes> {
        let name = name.to_str().ok_or(Errno::NOENT)?;
        let folder = self.folder(folder)?;
        let view = self.view_now();
        let node = match &folder {
            Folder::Partitions(facts) => {
                let wanted = |partition: &&Partition| partition.number.to_string() == name;
                let table = self.table(*facts)?;
                table.iter().find(wanted).map(|&partition| Node::Partition(*facts, partition))
            }
            _ => view.child(&folder, name),
        };
        let node = node.ok_or(Errno::NOENT)?;
        let number = lock(&self.nodes).give_out(node.clone());
        Ok(attributes(&view, number, &node))
    }

    /// Takes back a number that was given out `count` times.
    pub(super) fn forget(&self, number: u64, count: u64) {
        lock(&self.nodes).give_back(number, count);
    }

    /// The attributes of a node, whether or not it still has a name.
    pub(super) fn attributes(&self, number: u64) -> Reply<Attributes> {
        let node = self.node(number)?;
        Ok(attributes(&self.view(), number, &node))
    }

    /// The target of a link, relative to its own folder.
    pub(super) fn link_target(&self, number: u64) -> Reply<String> {
        match &*self.node(number)? {
            Node::Link { target, .. } => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    /// Opens a folder: its current names, until it is closed.
    pub(super) fn open_folder(&self, number: u64) -> Reply<u64> {
        let entries = self.list(number)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.folders).insert(handle, Arc::new(entries));
        Ok(handle)
    }

    /// The names of an open folder. `anew`: reads them again, after a rewind.
    pub(super) fn entries(&self, number: u64, handle: u64, anew: bool) -> Reply<Arc<Vec<Entry>>> {
        if anew {
            let entries = Arc::new(self.list(number)?);
            lock(&self.folders).insert(handle, Arc::clone(&entries));
            return Ok(entries);
        }
        lock(&self.folders).get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// Closes a folder.
    pub(super) fn close_folder(&self, handle: u64) {
        lock(&self.folders).remove(&handle);
    }

    fn list(&self, number: u64) -> Reply<Vec<Entry>> {
        let folder = self.folder(number)?;
        let view = self.view_now();
        let children = match &folder {
            Folder::Partitions(facts) => {
                let table = self.table(*facts)?;
                let child = |&partition: &Partition| {
                    (partition.number.to_string(), Node::Partition(*facts, partition))
                };
                table.iter().map(child).collect()
            }
            _ => view.children(&folder),
        };
        let nodes = lock(&self.nodes);
        let entry = |(name, node): (String, Node)| Entry {
            number: nodes.number(&node),
            kind: kind(&node),
            name,
        };
        Ok(children.into_iter().map(entry).collect())
    }

    /// The partitions of a revision, read on first use.
    fn table(&self, facts: Facts) -> Reply<Arc<Vec<Partition>>> {
        if let Some(table) = lock(&self.tables).get(&facts.id) {
            return Ok(Arc::clone(table));
        }
        let hold = self.hold(facts)?;
        let revision = self.open_revision(facts, &hold)?;
        // From the backed-up content, whatever was written since: the names of the partitions stay.
        let read =
            |buffer: &mut [u8], offset| revision.read_original(buffer, offset, &self.findings);
        let table = Arc::new(partitions::read(read, facts.size_bytes)?);
        lock(&self.tables).insert(facts.id, Arc::clone(&table));
        Ok(table)
    }

    /// Opens an image or a partition.
    pub(super) fn open(&self, number: u64, writing: bool) -> Reply<u64> {
        let (facts, window) = match *self.node(number)? {
            Node::Image(facts) => (facts, Extent::new(0, facts.size_bytes)),
            Node::Partition(facts, partition) => (facts, partition.extent),
            Node::Folder(_) => return Err(Errno::ISDIR),
            Node::Link { .. } => return Err(Errno::LOOP),
        };
        if writing && !self.is_writable() {
            return Err(Errno::ROFS);
        }
        let hold = self.hold(facts)?;
        let revision = self.open_revision(facts, &hold)?;
        let file = Arc::new(OpenFile { revision, window, writing, _hold: hold });
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(handle, file);
        Ok(handle)
    }

    /// An open file.
    pub(super) fn file(&self, handle: u64) -> Reply<Arc<OpenFile>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// Closes a file. What was written to it stays.
    pub(super) fn release(&self, handle: u64) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
    }

    /// Keeps the archive open, for a revision in it.
    fn hold(&self, facts: Facts) -> Reply<Hold> {
        self.holding.hold().map_err(|error| {
            self.findings.report(facts.id, &error);
            errno_of(&error)
        })
    }

    fn open_revision(&self, wanted: Facts, hold: &Hold) -> Reply<Arc<OpenRevision>> {
        // Locked until the revision is open, so that it is never opened twice.
        let mut revisions = lock(&self.revisions);
        if let Some(open) = revisions.get(&wanted.id).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let failed = |error: &Error| {
            self.findings.report(wanted.id, error);
            errno_of(error)
        };
        let view = self.view_now();
        let archive = hold.archive().map_err(|error| failed(&error))?;
        // Another archive in the same place may have a different revision with this name.
        let found = archive.revision(wanted.id).map_err(|_| Errno::NOENT)?;
        if facts(found) != wanted {
            return Err(Errno::NOENT);
        }
        let reader = archive.open_reader(wanted.id, &self.cache).map_err(|error| failed(&error))?;
        if let Some(doubt) = reader.doubt() {
            self.findings.report(wanted.id, &doubt);
        }
        let layer = self.layers.as_ref().map(|layers| layers.of(wanted.id, wanted.size_bytes));
        let open = Arc::new(OpenRevision { reader, layer });
        revisions.retain(|_, open| open.strong_count() > 0);
        revisions.insert(wanted.id, Arc::downgrade(&open));
        if !hold.keep(&open, || Arc::ptr_eq(&view, &self.view())) {
            // The manifest was replaced before this revision was among those that follow it.
            self.behind.store(true, Ordering::Release);
        }
        Ok(open)
    }

    /// Reads until `buffer` is full or the file ends, and returns the number of bytes. Everything that was
    /// requested, or an error.
    pub(super) fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Reply<usize> {
        self.file(handle)?.read_at(buffer, offset, &self.findings)
    }

    /// Writes all of `data`.
    pub(super) fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Reply<()> {
        self.file(handle)?.write_at(data, offset, &self.findings)
    }

    /// Makes an extent read as zeros, up to the end of the file.
    pub(super) fn zero(&self, handle: u64, extent: Extent) -> Reply<()> {
        self.file(handle)?.zero(extent, &self.findings)
    }

    /// The next data, or the next hole with `hole`; see [`OpenFile::seek`].
    pub(super) fn seek(&self, handle: u64, offset: u64, hole: bool) -> Reply<u64> {
        self.file(handle)?.seek(offset, hole, &self.findings)
    }

    /// Sets the size of a file; only its current size is allowed.
    pub(super) fn resize(&self, number: u64, size_bytes: u64) -> Reply<()> {
        let now = self.attributes(number)?;
        match now.kind {
            _ if !self.is_writable() => Err(Errno::ROFS),
            Kind::Folder => Err(Errno::ISDIR),
            Kind::Link => Err(Errno::INVAL),
            Kind::File if size_bytes == now.size_bytes => Ok(()),
            Kind::File if size_bytes > now.size_bytes => Err(Errno::FBIG),
            Kind::File => Err(Errno::PERM),
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        lock(&self.nodes).len()
    }
}

fn kind(node: &Node) -> Kind {
    match node {
        Node::Folder(_) => Kind::Folder,
        Node::Image(_) | Node::Partition(..) => Kind::File,
        Node::Link { .. } => Kind::Link,
    }
}

fn attributes(view: &View, number: u64, node: &Node) -> Attributes {
    let (size_bytes, links, time) = match node {
        Node::Folder(Folder::Partitions(facts)) => (0, 2, facts.time),
        Node::Folder(folder) => (0, 2 + view.folders_in(folder), view.time()),
        Node::Image(facts) => (facts.size_bytes, 1, facts.time),
        Node::Partition(facts, partition) => (partition.extent.len, 1, facts.time),
        Node::Link { target, time, .. } => (target.len() as u64, 1, *time),
    };
    let links = u32::try_from(links).unwrap_or(u32::MAX);
    Attributes { number, kind: kind(node), size_bytes, links, time }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
