//! Complete system calls on files and block devices: a signal does not cut them short, and what a file system cannot
//! do is done another way.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate, ftruncate, seek};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Opcode, Setter, ioctl};

use crate::base::extent::Extent;

/// `_IOW(0x94, 13, struct file_clone_range)`; `ioctl_ficlonerange(2)`.
const FICLONERANGE: Opcode = 0x4020_940d;

/// `struct file_clone_range`
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    /// 0: to the end.
    source_bytes: u64,
    offset: u64,
}

/// Lets an empty file share the blocks of another one from an offset on, which is not behind its end. What is before it
/// is a hole.
#[expect(unsafe_code, reason = "only this call shares a part of a file")]
pub(super) fn clone_behind(empty: &File, source: &File, offset: u64) -> rustix::io::Result<()> {
    let source_number = i64::from(source.as_raw_fd());
    retry_on_intr(|| ftruncate(empty, offset))?;
    retry_on_intr(|| {
        let range =
            CloneRange { source: source_number, source_offset: offset, source_bytes: 0, offset };
        // SAFETY: the kernel only reads this struct, which has the layout of its header.
        unsafe { ioctl(empty, Setter::<FICLONERANGE, CloneRange>::new(range)) }
    })
}

/// The same as std's own function, which does not retry after a signal.
pub(crate) fn metadata(file: &File) -> io::Result<std::fs::Metadata> {
    loop {
        match file.metadata() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            found => return found,
        }
    }
}

/// Reads until `buffer` is full or the file ends.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    read_all(buffer, |rest, done| file.read_at(rest, offset + done))
}

/// Calls `read` for the missing part, with the count of bytes that are there, until none is missing or no more come.
pub(in crate::storage) fn read_all(
    buffer: &mut [u8],
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read(rest, done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Frees an extent of a file or a block device; writes zeros if that is not supported. A file keeps its length.
pub(crate) fn punch_hole(file: &File, extent: Extent) -> io::Result<()> {
    if extent.len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match retry_on_intr(|| fallocate(file, flags, extent.offset, extent.len)) {
        Ok(()) => Ok(()),
        // INVAL: not whole sectors of a block device, as at the end of an image.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => {
            let found = file.metadata()?;
            // A block device reports no length here, and cannot grow.
            let end = if found.is_file() { extent.end().min(found.len()) } else { extent.end() };
            write_zeros(file, Extent::between(extent.offset, end.max(extent.offset)))
        }
        Err(errno) => Err(errno.into()),
    }
}

pub(super) fn write_zeros(file: &File, extent: Extent) -> io::Result<()> {
    static ZEROS: [u8; 65536] = [0; 65536];
    let mut offset = extent.offset;
    while offset < extent.end() {
        let step = (extent.end() - offset).min(ZEROS.len() as u64);
        file.write_all_at(ZEROS.get(..step as usize).unwrap_or(&ZEROS), offset)?;
        offset += step;
    }
    Ok(())
}

/// The first stretch of a file of `len` bytes, at or after `offset`, that may hold data.
pub(crate) fn next_data(file: &File, len: u64, offset: u64) -> io::Result<Option<Extent>> {
    if offset >= len {
        return Ok(None);
    }
    let start = match retry_on_intr(|| seek(file, rustix::fs::SeekFrom::Data(offset))) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No support for holes: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(Extent::between(offset, len))),
        Err(errno) => return Err(errno.into()),
    };
    let end = match retry_on_intr(|| seek(file, rustix::fs::SeekFrom::Hole(start))) {
        Ok(end) => end,
        // Somebody else has cut it short in between.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok((start < len).then(|| Extent::between(start, end.min(len))))
}
