//! `plain-fuse FILE MOUNTPOINT`: one file by FUSE, read and passed on, nothing else. It shows the limit of FUSE on
//! this machine, and the benchmark compares with it. Ends with `umount`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request,
};

const TTL: Duration = Duration::from_secs(3600);
const IMAGE: INodeNo = INodeNo(2);

struct Plain {
    file: File,
    size_bytes: u64,
}

impl Plain {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            IMAGE => (FileType::RegularFile, 0o400, self.size_bytes),
            _ => (FileType::Directory, 0o500, 0),
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Plain {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("image") => reply.entry(&TTL, &self.attr(IMAGE), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(1), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        match self.file.read_at(&mut buffer, offset) {
            Ok(count) => reply.data(&buffer[..count]),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let [_, file, mountpoint] = arguments.as_slice() else {
        return Err(std::io::Error::other("usage: plain-fuse FILE MOUNTPOINT"));
    };
    let file = File::open(file)?;
    let size_bytes = file.metadata()?.len();
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.mount_options = vec![MountOption::RO, MountOption::FSName("plain".to_owned())];
    fuser::mount(Plain { file, size_bytes }, mountpoint, &config)
}
