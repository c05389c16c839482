//! The tree for the kernel: translates requests and answers of FUSE, and nothing else.
//!
//! The kernel caches the content of a file for as long as it likes, because it never changes, but looks up
//! each name anew, because names do change. In a writable mount, it keeps only what it has read since a file
//! was opened: to the kernel, an image and the partitions in it are different files, and a write to one has
//! to show in the other.
//!
//! If a revision is stored as it is in a file that nothing writes to, the kernel gets that file and reads it directly.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackingId, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;
use rustix::process::{getegid, geteuid};

use super::MountOptions;
use super::closing::Closing;
use super::tree::{Attributes, Kind, Reply, Tree};
use crate::base::extent::Extent;
use crate::base::pipeline;

/// How long the kernel may cache the attributes of a file.
const FILE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest write request, and about the largest read request.
const REQUEST_BYTES: u32 = 1 << 20;

/// How many requests the kernel may send on its own, such as for reading ahead.
const BACKGROUND_REQUESTS: u16 = 64;

/// `lseek` as the kernel passes it on.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

const LONGEST_NAME: u32 = 255;

/// How long a request for the state of the file system waits for files that are being closed.
const CLOSING_LIMIT: Duration = Duration::from_millis(200);

/// The unit of sizes that are reported in blocks.
const BLOCK_BYTES: u32 = 4096;

/// A connection with the kernel.
pub(super) struct Connection(Session<Adapter>);

/// Answers the kernel's greeting on a device that has been mounted.
pub(super) fn connect(
    tree: Arc<Tree>,
    device: OwnedFd,
    options: &MountOptions,
) -> io::Result<Connection> {
    let cores = || std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let mut config = Config::default();
    // The file system ends if one of them cannot be started.
    let threads = pipeline::startable(options.threads.unwrap_or_else(cores).max(1))?;
    config.n_threads = Some(threads);
    let acl = if options.lets_others_in() { SessionACL::All } else { SessionACL::Owner };
    let adapter = Adapter {
        may_pass_through: false,
        owner: (geteuid().as_raw(), options.gid.unwrap_or(getegid().as_raw())),
        for_group: options.gid.is_some(),
        opened: Mutex::default(),
        closing: Closing::default(),
        buffers: Mutex::default(),
        tree,
    };
    Session::from_fd(adapter, device, acl, config).map(Connection)
}

impl Connection {
    /// Serves requests until the file system is unmounted.
    pub(super) fn run(self) -> io::Result<()> {
        self.0.run()
    }
}

struct Adapter {
    tree: Arc<Tree>,
    /// User and group.
    owner: (u32, u32),
    /// Whether the group has the user's permissions.
    for_group: bool,
    /// Whether the kernel accepts files to read directly.
    may_pass_through: bool,
    /// By node number.
    opened: Mutex<HashMap<u64, Openings>>,
    closing: Closing,
    /// Read buffers, soon one for each thread.
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// How a node has been opened: the kernel does not accept both ways at once.
#[derive(Default)]
struct Openings {
    count: usize,
    /// The file that the kernel reads directly, if any.
    backing: Option<Arc<BackingId>>,
}

impl Adapter {
    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let time = SystemTime::from(attributes.time);
        let writable = self.tree.is_writable();
        let (kind, mine) = match attributes.kind {
            Kind::Folder => (FileType::Directory, 0o500),
            Kind::Link => (FileType::Symlink, 0o777),
            Kind::File if writable => (FileType::RegularFile, 0o600),
            Kind::File => (FileType::RegularFile, 0o400),
        };
        // One block less than the size makes programs look for holes, which they do not do in a file that
        // seems fully allocated.
        let blocks = attributes.size_bytes.div_ceil(512);
        let group = if self.for_group { mine >> 3 & 0o070 } else { 0 };
        FileAttr {
            ino: INodeNo(attributes.number),
            size: attributes.size_bytes,
            blocks: if writable { blocks } else { blocks.saturating_sub(1) },
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: mine | group,
            nlink: attributes.links,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    fn ttl(attributes: &Attributes) -> Duration {
        if attributes.kind == Kind::File { FILE_TTL } else { Duration::ZERO }
    }

    /// Answers an open request, with a file that the kernel can read directly if there is one.
    fn answer_open(&self, number: u64, handle: u64, reply: ReplyOpen) {
        let mut opened = self.opened();
        let openings = opened.entry(number).or_default();
        if openings.count == 0 && self.may_pass_through {
            let file = self.tree.file(handle).ok();
            let file = file.as_ref().and_then(|file| file.whole_file());
            openings.backing = file.and_then(|file| reply.open_backing(file).ok()).map(Arc::new);
        }
        openings.count += 1;
        let backing = openings.backing.clone();
        drop(opened);
        let flags = if self.tree.is_writable() {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        };
        match backing {
            Some(id) => {
                reply.opened_passthrough(FileHandle(handle), FopenFlags::empty(), &id);
            }
            None => reply.opened(FileHandle(handle), flags),
        }
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<u64, Openings>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

fn done(result: Reply<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A setting that the kernel refuses keeps its default.
        let _ = config.set_max_write(REQUEST_BYTES);
        let _ = config.set_max_background(BACKGROUND_REQUESTS);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let wanted = !self.tree.is_writable() && geteuid().is_root();
        self.may_pass_through = wanted
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(parent.0, name) {
            Ok(found) => reply.entry_with_ttls(
                &Self::ttl(&found),
                &Duration::ZERO,
                &self.attr(&found),
                Generation(0),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.tree.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.attributes(ino.0) {
            Ok(found) => reply.attr(&Self::ttl(&found), &self.attr(&found)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if !self.tree.is_writable() {
            return reply.error(Errno::EROFS);
        }
        if mode.is_some() || uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        // Times stay those of the revision, but a program that sets them must not fail.
        match size.map_or(Ok(()), |size| self.tree.resize(ino.0, size)) {
            Ok(()) => self.getattr(request, ino, handle, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.tree.link_target(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writing = flags.acc_mode() != OpenAccMode::O_RDONLY;
        match self.tree.open(ino.0, writing) {
            Ok(handle) => self.answer_open(ino.0, handle, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = size as usize;
        let pooled = self.buffers().pop();
        let mut buffer = pooled.unwrap_or_default();
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let read = match buffer.get_mut(..size) {
            Some(part) => self.tree.read(handle.0, offset, part),
            None => Ok(0),
        };
        match read {
            Ok(count) => reply.data(buffer.get(..count).unwrap_or_default()),
            Err(error) => reply.error(errno(error)),
        }
        self.buffers().push(buffer);
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.tree.write(handle.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    // Nothing waits to be written, and written data is discarded in the end, so `flush` and `fsync` are not
    // needed. The kernel stops sending requests that are not implemented, and takes them as done.

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.closing.begin(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.tree.release(handle.0);
        let mut opened = self.opened();
        if let Some(openings) = opened.get_mut(&ino.0) {
            openings.count = openings.count.saturating_sub(1);
            if openings.count == 0 {
                opened.remove(&ino.0);
            }
        }
        drop(opened);
        self.closing.end(handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.tree.open_folder(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = match self.tree.entries(ino.0, handle.0, offset == 0) {
            Ok(entries) => entries,
            Err(error) => return reply.error(errno(error)),
        };
        let own = [".", ".."].map(|name| (ino.0, FileType::Directory, name));
        let listed = entries.iter().map(|entry| {
            let kind = match entry.kind {
                Kind::Folder => FileType::Directory,
                Kind::File => FileType::RegularFile,
                Kind::Link => FileType::Symlink,
            };
            // A node without a number gets this one, which means just that; 0 would hide it.
            (entry.number.unwrap_or(u64::from(u32::MAX)), kind, entry.name.as_str())
        });
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (position, (number, kind, name)) in own.into_iter().chain(listed).enumerate().skip(from)
        {
            if reply.add(INodeNo(number), position as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.tree.close_folder(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // `umount` asks before it unmounts; after this, nothing of the archive is open.
        self.closing.settle(CLOSING_LIMIT);
        // Nothing here fills up: as with /proc, `df` prints '-', and disk monitoring has no percentage to
        // raise an alarm for.
        reply.statfs(0, 0, 0, 0, 0, BLOCK_BYTES, LONGEST_NAME, BLOCK_BYTES);
    }

    fn lseek(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            // The kernel handles the others itself.
            _ => return reply.error(Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| rustix::io::Errno::NXIO);
        match offset.and_then(|offset| self.tree.seek(handle.0, offset, hole)) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let keep = FallocateFlags::KEEP_SIZE;
        let zeroing = [keep | FallocateFlags::PUNCH_HOLE, keep | FallocateFlags::ZERO_RANGE];
        if !zeroing.contains(&mode) {
            return reply.error(errno(rustix::io::Errno::OPNOTSUPP));
        }
        done(self.tree.zero(handle.0, Extent::new(offset, length)), reply);
    }
}
