//! `hole-less MAX_FILE_BYTES MOUNTPOINT [short] [interrupted]`: a file system in memory that supports no more than
//! FAT. It has no holes: extending a file writes zeros, which take space. It has no punching, no search for holes, no
//! allocation in advance, no clones, no files without a name, no renaming without replacing, no permissions that can
//! be set, and a limit to the length of a file. The tests use it because not every kernel has FAT. Ends with
//! `umount`.
//!
//! It does what the manual pages allow and hardly any file system does: with `short`, reads and writes end early;
//! with `interrupted`, every third call is interrupted.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

const TTL: Duration = Duration::from_secs(1);
const UNIT: u64 = 4096;
/// Total space, in units.
const UNITS: u64 = 1 << 18;

enum Node {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, u64>),
}

/// The nodes by their numbers. The first is 1, the root. None is ever freed.
struct Fat {
    nodes: Mutex<Vec<Node>>,
    max_file_bytes: u64,
    short: bool,
    interrupted: bool,
    calls: AtomicU64,
}

type Done<T> = Result<T, Errno>;

impl Fat {
    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this call is to be interrupted.
    fn mood(&self) -> Done<()> {
        match self.interrupted && self.calls.fetch_add(1, Ordering::Relaxed) % 3 == 1 {
            true => Err(Errno::EINTR),
            false => Ok(()),
        }
    }

    /// How much of so many bytes is read or written at once: at least one.
    fn most(&self, bytes: usize) -> usize {
        match self.short {
            true => {
                bytes.min(1 + 7919 * self.calls.fetch_add(1, Ordering::Relaxed) as usize % 60_000)
            }
            false => bytes,
        }
    }

    /// Past the page cache, which would retry by itself.
    fn flags(&self) -> FopenFlags {
        if self.short || self.interrupted {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::empty()
        }
    }

    fn look_up(&self, folder: INodeNo, name: &OsStr) -> Done<FileAttr> {
        let mut nodes = self.nodes();
        let number = *entries(&mut nodes, folder)?.get(name).ok_or(Errno::ENOENT)?;
        attributes(&mut nodes, number)
    }

    fn make(&self, folder: INodeNo, name: &OsStr, node: Node) -> Done<FileAttr> {
        let mut nodes = self.nodes();
        let number = nodes.len() as u64 + 1;
        let entries = entries(&mut nodes, folder)?;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.to_owned(), number);
        nodes.push(node);
        attributes(&mut nodes, number)
    }

    fn remove(&self, folder: INodeNo, name: &OsStr) -> Done<()> {
        let mut nodes = self.nodes();
        let removed = entries(&mut nodes, folder)?.remove(name);
        removed.map(drop).ok_or(Errno::ENOENT)
    }

    fn set_len(&self, file: INodeNo, len: u64) -> Done<()> {
        self.mood()?;
        if len > self.max_file_bytes {
            return Err(Errno::EFBIG);
        }
        content(&mut self.nodes(), file)?.resize(len as usize, 0);
        Ok(())
    }

    fn read(&self, file: INodeNo, offset: u64, len: usize) -> Done<Vec<u8>> {
        self.mood()?;
        let mut nodes = self.nodes();
        let rest = content(&mut nodes, file)?.get(offset as usize..).unwrap_or_default();
        Ok(rest[..rest.len().min(self.most(len))].to_vec())
    }

    fn write(&self, file: INodeNo, offset: u64, data: &[u8]) -> Done<u32> {
        self.mood()?;
        let data = &data[..self.most(data.len())];
        let (start, end) = (offset as usize, offset as usize + data.len());
        if end as u64 > self.max_file_bytes {
            return Err(Errno::EFBIG);
        }
        let mut nodes = self.nodes();
        let content = content(&mut nodes, file)?;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data);
        Ok(data.len() as u32)
    }

    fn rename(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> Done<()> {
        let mut nodes = self.nodes();
        let number = entries(&mut nodes, from.0)?.remove(from.1).ok_or(Errno::ENOENT)?;
        entries(&mut nodes, to.0)?.insert(to.1.to_owned(), number);
        Ok(())
    }
}

fn node(nodes: &mut [Node], number: u64) -> Done<&mut Node> {
    nodes.get_mut(number as usize - 1).ok_or(Errno::ENOENT)
}

fn entries(nodes: &mut [Node], number: INodeNo) -> Done<&mut BTreeMap<OsString, u64>> {
    match node(nodes, number.0)? {
        Node::Folder(entries) => Ok(entries),
        Node::File(_) => Err(Errno::ENOTDIR),
    }
}

fn content(nodes: &mut [Node], number: INodeNo) -> Done<&mut Vec<u8>> {
    match node(nodes, number.0)? {
        Node::File(content) => Ok(content),
        Node::Folder(_) => Err(Errno::EISDIR),
    }
}

fn attributes(nodes: &mut [Node], number: u64) -> Done<FileAttr> {
    let (kind, perm, size) = match node(nodes, number)? {
        Node::File(content) => (FileType::RegularFile, 0o755, content.len() as u64),
        Node::Folder(_) => (FileType::Directory, 0o755, 0),
    };
    let time = SystemTime::UNIX_EPOCH;
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        // All of it, whatever it holds.
        blocks: size.div_ceil(UNIT) * (UNIT / 512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: UNIT as u32,
        flags: 0,
    })
}

impl Filesystem for Fat {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&mut self.nodes(), ino.0) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = match (size, mode.or(uid).or(gid)) {
            (_, Some(_)) => Err(Errno::EPERM),
            (Some(size), None) => self.set_len(ino, size),
            (None, None) => Ok(()),
        };
        match set.and_then(|()| attributes(&mut self.nodes(), ino.0)) {
            Ok(found) => reply.attr(&TTL, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make(parent, name, Node::Folder(BTreeMap::new())) {
            Ok(made) => reply.entry(&TTL, &made, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, Node::File(Vec::new())) {
            Ok(made) => {
                reply.created(&TTL, &made, Generation(0), FileHandle(0), self.flags());
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.remove(parent, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match flags.is_empty() {
            true => done(Fat::rename(self, (parent, name), (newparent, newname)), reply),
            false => reply.error(Errno::EINVAL),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match Fat::read(self, ino, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match Fat::write(self, ino, offset, data) {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), self.flags());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.mood(), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.mood(), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut nodes = self.nodes();
        let found: Vec<(OsString, u64)> = match entries(&mut nodes, ino) {
            Ok(entries) => entries.iter().map(|(name, &number)| (name.clone(), number)).collect(),
            Err(error) => return reply.error(error),
        };
        for (at, (name, number)) in (1..).zip(found).skip(offset as usize) {
            let kind = match nodes.get(number as usize - 1) {
                Some(Node::Folder(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(number), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let used = |node: &Node| match node {
            Node::File(content) => (content.len() as u64).div_ceil(UNIT),
            Node::Folder(_) => 1,
        };
        let free = UNITS.saturating_sub(self.nodes().iter().map(used).sum());
        reply.statfs(UNITS, free, free, 0, 0, UNIT as u32, 255, UNIT as u32);
    }
}

fn done(result: Done<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let usage = "usage: hole-less MAX_FILE_BYTES MOUNTPOINT [short] [interrupted]";
    let usage = || std::io::Error::other(usage);
    let [_, max_file_bytes, mountpoint, rest @ ..] = arguments.as_slice() else {
        return Err(usage());
    };
    let max_file_bytes = max_file_bytes.to_str().and_then(|text| text.parse().ok());
    let max_file_bytes = max_file_bytes.ok_or_else(usage)?;
    let [short, interrupted] =
        ["short", "interrupted"].map(|word| rest.iter().any(|is| is == word));
    if rest.len() != usize::from(short) + usize::from(interrupted) {
        return Err(usage());
    }
    let nodes = Mutex::new(vec![Node::Folder(BTreeMap::new())]);
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.mount_options = vec![MountOption::FSName("hole-less".to_owned())];
    let calls = AtomicU64::new(0);
    fuser::mount(Fat { nodes, max_file_bytes, short, interrupted, calls }, mountpoint, &config)
}
