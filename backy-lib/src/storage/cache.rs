//! Reading and writing a large file without filling the page cache with it.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use super::dir::read_all;
use super::{Access, Storage};
use crate::base::canary::{Bug, planted};
use crate::base::error::Result;
use crate::base::progress::{self, Observer};

/// `RWF_DONTCACHE` of `preadv2(2)` and `pwritev2(2)`, since Linux 6.14: pages that the call brings into the cache
/// leave it once they have been copied, or written to the disk, which begins at once.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// The part of an offset that fits 32 bits.
const CUT: u64 = u32::MAX as u64;

/// Drops what memory holds of every file of an archive. Memory may be right where the disk is not: after a failed
/// sync it still has the data that never reached the disk. A file that cannot be opened is left to its next reader.
pub(crate) fn drop_all(storage: &dyn Storage, observer: &dyn Observer) -> Result<()> {
    for name in storage.list()? {
        progress::check(observer)?;
        match storage.open(name, Access::Read) {
            Ok(file) => file.drop_cache(),
            Err(error) if error.is_loss() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How one open file uses the page cache.
#[derive(Debug)]
pub(crate) struct PageCache {
    bypass: AtomicBool,
}

impl PageCache {
    /// Uses the cache as usual.
    pub(crate) fn new() -> Self {
        PageCache { bypass: AtomicBool::new(false) }
    }

    /// From now on leaves the cache as it was, as far as the system can.
    pub(crate) fn bypass(&self, file: &File) {
        // Where pages cannot be dropped at once, as those of block devices, they are the first to be evicted.
        let _ = fadvise(file, 0, None, Advice::NoReuse);
        self.bypass.store(true, Ordering::Relaxed);
    }

    /// Reads until `buffer` is full or the file ends; returns the number of bytes.
    pub(crate) fn read_full(
        &self,
        file: &File,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        read_all(buffer, |rest, done| {
            let at = if planted(Bug::CutRead) { (offset + done) & CUT } else { offset + done };
            let bypassing =
                self.bypassing(|| preadv2(file, &mut [IoSliceMut::new(rest)], at, DONT_CACHE));
            bypassing.unwrap_or_else(|| file.read_at(rest, at))
        })
    }

    /// Writes all of `data`.
    pub(crate) fn write_all(&self, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let at = if planted(Bug::CutWrite) { at & CUT } else { at };
            let bypassing =
                self.bypassing(|| pwritev2(file, &[IoSlice::new(rest)], at, DONT_CACHE));
            match bypassing.unwrap_or_else(|| file.write_at(rest, at)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Calls the system past the cache; `None` if nobody wants that, or this system cannot do it.
    fn bypassing(
        &self,
        call: impl FnOnce() -> std::result::Result<usize, Errno>,
    ) -> Option<io::Result<usize>> {
        if !self.bypass.load(Ordering::Relaxed) {
            return None;
        }
        match call() {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                self.bypass.store(false, Ordering::Relaxed);
                None
            }
            result => Some(result.map_err(Into::into)),
        }
    }
}
