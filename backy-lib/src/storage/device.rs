//! Reading and writing a block device past its page cache.
//!
//! A block device has a page cache of its own. Writes by a file system on it, by a partition of it, or by a program
//! on the disk below do not pass through that cache, so it may hold what the device had long ago. All reading and
//! writing here is `O_DIRECT`: whole sectors, to and from page-aligned buffers. Before a read, the kernel writes the
//! dirty pages of the device's own cache; after a write, it drops what that cache held there.
//! [`Device::sync_relatives`] and [`Device::drop_relatives`] deal with the caches of the partitions, or of the disk
//! that this is a partition of.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    Advice, FallocateFlags, Mode, OFlags, SeekFrom, fadvise, fallocate, fcntl_getfl, fcntl_setfl,
    ioctl_blksszget, major, minor, seek,
};
use rustix::io::{Errno, retry_on_intr};

use super::dir::read_full;
use crate::base::extent::Extent;
use crate::base::fork::Withheld;

/// Alignment of buffers in memory that every device accepts.
const ALIGNMENT: usize = 4096;
/// The most bytes that one call reads or writes.
const STEP_BYTES: u64 = 1 << 20;

/// An open block device.
#[derive(Debug)]
pub(crate) struct Device {
    direct: Withheld<File>,
    sector_bytes: u64,
    len: u64,
    buffers: Mutex<Vec<Aligned>>,
}

impl Device {
    /// Takes over a device that was opened for reading, or for both.
    ///
    /// # Errors
    /// Also if it cannot be read past the cache: then nobody could know what is on it.
    pub(crate) fn over(file: File) -> io::Result<Self> {
        let flags = fcntl_getfl(&file)?;
        let sector_bytes = u64::from(ioctl_blksszget(&file)?).max(512);
        let len = seek(&file, SeekFrom::End(0))?;
        if !len.is_multiple_of(sector_bytes) {
            // A loop device over a file of any length can be like this; the kernel does not return its end.
            let message = format!("it has {len} bytes and ends within a sector of {sector_bytes}");
            return Err(io::Error::other(message));
        }
        fcntl_setfl(&file, flags | OFlags::DIRECT)?;
        Ok(Device {
            direct: Withheld::new(file),
            sector_bytes,
            len,
            buffers: Mutex::new(Vec::new()),
        })
    }

    /// The size of its sectors in bytes.
    pub(crate) fn sector_bytes(&self) -> u64 {
        self.sector_bytes
    }

    /// The open device.
    pub(crate) fn file(&self) -> &File {
        &self.direct
    }

    /// Its size in bytes when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads until `buffer` is full or the device ends; returns the number of bytes.
    pub(crate) fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64).min(self.len);
        let mut aligned = self.take_buffer();
        let read = self.read(&mut aligned, buffer, offset, end);
        self.give_buffer(aligned);
        read
    }

    fn read(
        &self,
        aligned: &mut Aligned,
        buffer: &mut [u8],
        offset: u64,
        end: u64,
    ) -> io::Result<usize> {
        let mut at = offset;
        while at < end {
            let step = self.step(at, end);
            let bytes = aligned.part(step.len);
            let found = read_full(&self.direct, bytes, step.offset)? as u64;
            let step_end = (step.offset + found).min(end);
            copy(buffer, at - offset, bytes, at - step.offset, step_end.saturating_sub(at));
            at = at.max(step_end);
            if found < step.len {
                break;
            }
        }
        Ok(at.saturating_sub(offset) as usize)
    }

    /// Writes all of `data`. The rest of a sector that is only partly written stays.
    pub(crate) fn write_all(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut aligned = self.take_buffer();
        let written = self.write(&mut aligned, data, offset);
        self.give_buffer(aligned);
        written
    }

    fn write(&self, aligned: &mut Aligned, data: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let mut at = offset;
        if end > self.len {
            return Err(io::ErrorKind::StorageFull.into());
        }
        while at < end {
            let step = self.step(at, end);
            let bytes = aligned.part(step.len);
            let stop = step.end().min(end);
            if at > step.offset || stop < step.end() {
                let found = read_full(&self.direct, bytes, step.offset)?;
                if found < bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            copy(bytes, at - step.offset, data, at - offset, stop - at);
            self.direct.write_all_at(bytes, step.offset)?;
            at = stop;
        }
        Ok(())
    }

    /// The whole sectors from that of `at` up to that of `end`, as many as one call takes.
    fn step(&self, at: u64, end: u64) -> Extent {
        let start = at - at % self.sector_bytes;
        let end = end.next_multiple_of(self.sector_bytes);
        Extent::between(start, end.min(start + STEP_BYTES.max(self.sector_bytes)))
    }

    /// Makes an extent zero; does not write it if the device can do without.
    pub(crate) fn clear(&self, extent: Extent) -> io::Result<()> {
        let start = extent.offset.next_multiple_of(self.sector_bytes);
        let end = extent.end() - extent.end() % self.sector_bytes;
        if start < end {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match retry_on_intr(|| fallocate(&self.direct, flags, start, end - start)) {
                Ok(()) => {
                    self.write_zeros(Extent::between(extent.offset, start))?;
                    return self.write_zeros(Extent::between(end, extent.end()));
                }
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.write_zeros(extent)
    }

    fn write_zeros(&self, extent: Extent) -> io::Result<()> {
        let zeros = vec![0; extent.len.min(STEP_BYTES) as usize];
        let mut at = extent.offset;
        while at < extent.end() {
            let step = (extent.end() - at).min(STEP_BYTES);
            self.write_all(zeros.get(..step as usize).unwrap_or_default(), at)?;
            at += step;
        }
        Ok(())
    }

    /// Makes all writes durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.direct.sync_all()
    }

    /// Writes what programs have left in the caches of its partitions, or of the disk that it is on. Otherwise it
    /// would not be read, and would later overwrite what is going to be written. Skips those that cannot be opened.
    pub(crate) fn sync_relatives(&self) {
        for relative in self.relatives() {
            let _ = relative.sync_all();
        }
    }

    /// Drops what these caches hold, so that nobody reads the previous content of the device there.
    pub(crate) fn drop_relatives(&self) {
        for relative in self.relatives() {
            let _ = relative.sync_all();
            let _ = fadvise(&relative, 0, None, Advice::DontNeed);
        }
    }

    fn relatives(&self) -> Vec<File> {
        let number = self.direct.metadata().map(|found| found.rdev()).unwrap_or_default();
        let others = family(number).into_iter().filter(|other| other.number != number);
        others.filter_map(|other| other.open()).collect()
    }

    fn take_buffer(&self) -> Aligned {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.pop().unwrap_or_default()
    }

    fn give_buffer(&self, buffer: Aligned) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Copies `len` bytes, or as many as there are.
fn copy(to: &mut [u8], to_offset: u64, from: &[u8], from_offset: u64, len: u64) {
    let to = to.get_mut(to_offset as usize..).and_then(|to| to.get_mut(..len as usize));
    let from = from.get(from_offset as usize..).and_then(|from| from.get(..len as usize));
    if let (Some(to), Some(from)) = (to, from) {
        to.copy_from_slice(from);
    }
}

/// A buffer of which the page-aligned part is used.
#[derive(Debug, Default)]
struct Aligned {
    bytes: Vec<u8>,
}

impl Aligned {
    fn part(&mut self, len: u64) -> &mut [u8] {
        let needed = len as usize + ALIGNMENT;
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        let start = self.bytes.as_ptr().align_offset(ALIGNMENT);
        self.bytes
            .get_mut(start..)
            .and_then(|rest| rest.get_mut(..len as usize))
            .unwrap_or_default()
    }
}

/// A disk, or a partition of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As in `st_rdev`.
    pub(crate) number: u64,
    /// Its name in `/dev`.
    pub(crate) name: String,
    /// The kernel's folder about it.
    pub(crate) folder: PathBuf,
}

impl Member {
    fn at(folder: PathBuf) -> Option<Self> {
        let (major, minor) =
            super::system::read(&folder.join("dev"))?
                .trim_end()
                .split_once(':')
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))?;
        // The kernel writes '!' for the '/' in a name.
        let name = folder.file_name()?.to_str()?.replace('!', "/");
        Some(Member { number: rustix::fs::makedev(major, minor), name, folder })
    }

    /// Opens it for reading, if `/dev` has it.
    fn open(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = Path::new("/dev").join(&self.name);
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        file.metadata().is_ok_and(|found| found.rdev() == self.number).then_some(file)
    }
}

/// The disk that a device is, or is a partition of, and all its partitions. None if the kernel does not say.
pub(crate) fn family(number: u64) -> Vec<Member> {
    let place = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let Ok(own) = Path::new(&place).canonicalize() else { return Vec::new() };
    let disk = match own.join("partition").exists() {
        true => own.parent().map_or(own.clone(), Path::to_owned),
        false => own,
    };
    let entries = disk.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = entries.filter(|entry| entry.join("partition").exists());
    let partitions: Vec<_> = partitions.filter_map(Member::at).collect();
    Member::at(disk).into_iter().chain(partitions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer begins at a whole page, however often it grows.
    #[test]
    fn buffers_begin_at_whole_pages() {
        let mut aligned = Aligned::default();
        for len in [512, 1 << 20, 4096, (1 << 20) + 4096] {
            let part = aligned.part(len);
            assert_eq!((part.len() as u64, part.as_ptr().align_offset(ALIGNMENT)), (len, 0));
        }
    }

    /// A device that the kernel does not know has no relatives.
    #[test]
    fn what_is_no_device_has_no_family() {
        assert_eq!(family(rustix::fs::makedev(0xfff, 0xfffff)), []);
    }
}
