//! Comparing where two clones are stored.
//!
//! A range of the new clone equals that of the old one if both are stored at the same place, because the file system
//! neither frees nor overwrites a block that another file shares. This holds on these conditions:
//!
//! - Both are clones that nobody writes to: a file that is written to still shows its old place before the data reaches
//!   the disk.
//! - The old clone's map is read now, and never remembered: balancing moves files, and their old place may hold
//!   anything by then. It is read before and after that of the new clone, so that a move in between shows.
//! - The place is that of the bytes: [`Flags::UNTRUSTED`] lists what says otherwise. With compression, for instance, it
//!   is where the compressed extent begins, whatever the offset in it.
//! - The new clone shares the blocks, as it must if the old one has them as well.

use std::io;

use crate::base::canary::{Bug, planted};
use crate::base::extent::Extent;

/// More extents are not compared.
const MAX_EXTENTS: usize = 1 << 20;

/// Flags of an extent. Source: `linux/fiemap.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The last extent of the file.
    pub const LAST: u32 = 0x1;
    /// Nobody knows where it is.
    pub const UNKNOWN: u32 = 0x2;
    /// Not on the disk yet.
    pub const DELALLOC: u32 = 0x4;
    /// Compressed or encrypted: the place is not that of its bytes.
    pub const ENCODED: u32 = 0x8;
    /// Encrypted.
    pub const ENCRYPTED: u32 = 0x80;
    /// Does not begin at a block.
    pub const NOT_ALIGNED: u32 = 0x100;
    /// Within the metadata.
    pub const INLINE: u32 = 0x200;
    /// Several files in one block.
    pub const TAIL: u32 = 0x400;
    /// Allocated and zero.
    pub const UNWRITTEN: u32 = 0x800;
    /// Other files have it as well.
    pub const SHARED: u32 = 0x2000;

    /// Any of these means that the place says nothing about the bytes.
    pub const UNTRUSTED: u32 = Self::UNKNOWN
        | Self::DELALLOC
        | Self::ENCODED
        | Self::ENCRYPTED
        | Self::NOT_ALIGNED
        | Self::INLINE
        | Self::TAIL
        | Self::UNWRITTEN;

    fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }

    fn is_trusted(self) -> bool {
        let untrusted = match planted(Bug::TrustedEncoding) {
            true => Self::UNTRUSTED & !Self::ENCODED,
            false => Self::UNTRUSTED,
        };
        !self.has(untrusted)
    }
}

/// A part of a file, and where it is stored, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Offset in the file.
    pub logical: u64,
    /// Offset on the disk.
    pub physical: u64,
    /// Length.
    pub len: u64,
    /// Its flags.
    pub flags: Flags,
}

/// Where two clones are stored. Each call asks the file system anew.
pub trait Maps {
    /// Calls `take` with each extent of the old clone, ascending, until it returns false.
    ///
    /// # Errors
    /// Those of the system.
    fn of_old(&mut self, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()>;

    /// The same for the new clone.
    ///
    /// # Errors
    /// Those of the system.
    fn of_new(&mut self, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()>;
}

/// Two clones have the same bytes in these parts, because they share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Same {
    logical: u64,
    physical: u64,
    len: u64,
}

/// The parts in which the new clone has what the old one has, ascending; `None` if there are too many.
///
/// # Errors
/// Those of the system.
pub fn unchanged(maps: &mut dyn Maps) -> io::Result<Option<Vec<Extent>>> {
    let mut old = Vec::new();
    let mut fits = true;
    maps.of_old(&mut |found| {
        if found.flags.is_trusted() {
            let Mapped { logical, physical, len, .. } = found;
            push(&mut old, Same { logical, physical, len });
        }
        fits = old.len() <= MAX_EXTENTS;
        fits
    })?;
    let mut same = Intersection::of(&old);
    maps.of_new(&mut |found| {
        if found.flags.is_trusted() && found.flags.has(Flags::SHARED) {
            same.take(found);
        }
        fits &= same.found.len() <= MAX_EXTENTS;
        fits
    })?;
    let same = same.found;
    drop(old);
    let mut still = Intersection::of(&same);
    if planted(Bug::RememberedMap) {
        still.found.clone_from(&same);
    } else {
        maps.of_old(&mut |found| {
            if found.flags.is_trusted() {
                still.take(found);
            }
            fits &= still.found.len() <= MAX_EXTENTS;
            fits
        })?;
    }
    let extents = still.found.iter().map(|same| Extent::new(same.logical, same.len));
    Ok(fits.then(|| joined(extents)))
}

/// Adds a part; one that continues the last one is joined with it. What is not ascending is left out.
fn push(parts: &mut Vec<Same>, part: Same) {
    let ends_at = |last: &Same| last.logical.saturating_add(last.len);
    match parts.last_mut() {
        Some(last) if part.logical < ends_at(last) => {}
        Some(last)
            if part.logical == ends_at(last)
                && last.physical.checked_add(last.len) == Some(part.physical) =>
        {
            last.len = last.len.saturating_add(part.len);
        }
        _ if part.len == 0 => {}
        _ => parts.push(part),
    }
}

fn joined(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    for extent in extents {
        match all.last_mut() {
            Some(last) if last.end() == extent.offset => {
                *last = Extent::between(last.offset, extent.end());
            }
            _ => all.push(extent),
        }
    }
    all
}

/// What parts, which ascend, have in common with the extents that are taken, which ascend as well.
struct Intersection<'a> {
    rest: &'a [Same],
    found: Vec<Same>,
}

impl<'a> Intersection<'a> {
    fn of(parts: &'a [Same]) -> Self {
        Intersection { rest: parts, found: Vec::new() }
    }

    fn take(&mut self, extent: Mapped) {
        let end = extent.logical.saturating_add(extent.len);
        while let Some((part, rest)) = self.rest.split_first() {
            let part_end = part.logical.saturating_add(part.len);
            let (from, to) = (extent.logical.max(part.logical), end.min(part_end));
            let place = |start: u64, physical: u64| physical.checked_add(from.checked_sub(start)?);
            if from < to {
                let (here, there) =
                    (place(part.logical, part.physical), place(extent.logical, extent.physical));
                if let (Some(physical), true) = (here, here == there) {
                    push(&mut self.found, Same { logical: from, physical, len: to - from });
                }
            }
            if part_end > end {
                break;
            }
            self.rest = rest;
        }
    }
}
