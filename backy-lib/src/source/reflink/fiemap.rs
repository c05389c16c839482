//! Asking the kernel where a file is stored.
//!
//! Source: `Documentation/filesystems/fiemap.rst` of Linux, and `linux/fiemap.h`, `linux/fs.h`.

use std::fs::File;
use std::io;

use rustix::io::retry_on_intr;
use rustix::ioctl::{Opcode, Updater, ioctl};

use super::extents::{Flags, Mapped, Maps};

/// Extents that are asked for at a time.
const BATCH: usize = 512;

/// By how many extents it is known whether a file is compressed.
const MOST_LOOKED_AT: usize = 8 * BATCH;

/// What may still be in memory is written to the disk first.
const FLAG_SYNC: u32 = 1;

/// `_IOWR('f', 11, struct fiemap)`
const FS_IOC_FIEMAP: Opcode = 0xc020_660b;

/// `_IOR('X', 31, struct fsxattr)`
const FS_IOC_FSGETXATTR: Opcode = 0x801c_581f;

/// `FS_XFLAG_REALTIME`: the data are on another device.
const REALTIME: u32 = 1;

/// `struct fiemap`, with its extents.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// `struct fiemap_extent`
#[repr(C)]
#[derive(Clone, Copy)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved_64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const NO_EXTENT: RawExtent = RawExtent {
    logical: 0,
    physical: 0,
    length: 0,
    reserved_64: [0; 2],
    flags: 0,
    reserved: [0; 3],
};

/// Two open clones.
pub(super) struct Files<'a> {
    pub(super) old: &'a File,
    pub(super) new: &'a File,
}

impl Maps for Files<'_> {
    fn of_old(&mut self, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()> {
        for_each(self.old, take)
    }

    fn of_new(&mut self, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()> {
        for_each(self.new, take)
    }
}

/// Whether a file is compressed or encrypted, as far as its first extents show.
pub(super) fn is_encoded(file: &File) -> io::Result<bool> {
    let (mut looked, mut is_encoded) = (0, false);
    for_each(file, &mut |found| {
        looked += 1;
        is_encoded = found.flags.0 & Flags::ENCODED != 0;
        !is_encoded && looked < MOST_LOOKED_AT
    })?;
    Ok(is_encoded)
}

fn for_each(file: &File, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()> {
    let mut request = Box::new(Request {
        start: 0,
        length: u64::MAX,
        flags: FLAG_SYNC,
        mapped_extents: 0,
        extent_count: BATCH as u32,
        reserved: 0,
        extents: [NO_EXTENT; BATCH],
    });
    loop {
        request.length = u64::MAX - request.start;
        request.mapped_extents = 0;
        ask(file, &mut request)?;
        let found = request.extents.iter().take(request.mapped_extents as usize);
        let Some(last) = found.clone().next_back().copied() else { return Ok(()) };
        for extent in found {
            let RawExtent { logical, physical, length: len, flags, .. } = *extent;
            if !take(Mapped { logical, physical, len, flags: Flags(flags) }) {
                return Ok(());
            }
        }
        let next = last.logical.saturating_add(last.length);
        if last.flags & Flags::LAST != 0 || next <= request.start {
            return Ok(());
        }
        request.start = next;
    }
}

#[expect(unsafe_code, reason = "only this call says where a file is stored")]
fn ask(file: &File, request: &mut Request) -> io::Result<()> {
    let mut asked = || {
        // SAFETY: the number is that of the call for this structure, and the kernel writes at most `extent_count`
        // extents, for which there is space; all fields are plain numbers.
        unsafe { ioctl(file, Updater::<FS_IOC_FIEMAP, Request>::new(request)) }
    };
    Ok(retry_on_intr(&mut asked)?)
}

/// Whether the data of a file are on the real-time device of XFS, where the same place is another one.
#[expect(unsafe_code, reason = "only this call says on which device a file is stored")]
pub(super) fn is_realtime(file: &File) -> bool {
    // `struct fsxattr`, which begins with the flags.
    let mut attributes = [0_u32; 7];
    // SAFETY: the number is that of the call for a structure of 28 bytes, all of which are plain numbers.
    let asked =
        unsafe { ioctl(file, Updater::<FS_IOC_FSGETXATTR, [u32; 7]>::new(&mut attributes)) };
    asked.is_ok() && attributes.first().is_some_and(|flags| flags & REALTIME != 0)
}
