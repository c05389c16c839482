//! Where the partitions of an image are: GPT, or else MBR with its logical partitions, as Linux takes them.
//!
//! The image is somebody else's: whatever its sectors say, this ends soon, takes little memory and panics nowhere. The two
//! crates that know the layouts are given single headers to parse; sizes and numbers that come out are checked here before
//! anything is allocated or followed. What is no table is no error: then there are no partitions. Only a read that fails is
//! an error, because nobody knows what would have been there.

use std::collections::HashSet;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use gptman::GPTHeader;
use mbrman::{MBRHeader, MBRPartitionEntry};
use rustix::io::Errno;

use crate::extent::Extent;

/// The size of a GPT entry that everybody uses, and the only one that Linux takes.
const GPT_ENTRY_BYTES: u32 = 128;

/// A GPT with more entries is not read; usual are 128.
const GPT_ENTRIES_LIMIT: u32 = 4096;

/// The type of the entry in an MBR that says that there is a GPT.
const PROTECTIVE: u8 = 0xee;

/// The unit of an MBR.
const MBR_SECTOR_BYTES: u64 = 512;

/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

/// So many links of the chain of logical partitions are followed.
const LOGICAL_LIMIT: usize = 256;

/// The unit of reading: the entries of a table are read a few bytes at a time.
const BUFFER_BYTES: u64 = 16 << 10;

/// A partition of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Partition {
    /// Its number in the table, from 1.
    pub(super) number: u32,
    /// Where it is in the image; never empty, never past the end.
    pub(super) extent: Extent,
}

/// How the image is read: fills the buffer from the offset, or fails.
pub(super) type ReadImage<'a> = &'a dyn Fn(&mut [u8], u64) -> Result<(), Errno>;

/// The partitions of an image, by number.
///
/// # Errors
/// That of the read that failed.
pub(super) fn read(image: ReadImage, size_bytes: u64) -> Result<Vec<Partition>, Errno> {
    let mut disk = Disk::new(image, size_bytes);
    let Some(first) = disk.mbr(0)? else { return Ok(Vec::new()) };
    let primary = [&first.partition_1, &first.partition_2, &first.partition_3, &first.partition_4];
    let mut found = if primary.iter().any(|entry| entry.sys == PROTECTIVE) {
        read_gpt(&mut disk)?
    } else {
        read_mbr(&mut disk, &primary)?
    };
    for (_, extent) in &mut found {
        *extent = Extent::between(extent.offset, extent.end().min(size_bytes));
    }
    found.retain(|(_, extent)| extent.len > 0);
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(number, extent)| Partition { number, extent }).collect())
}

type Found = Vec<(u32, Extent)>;

fn read_gpt(disk: &mut Disk) -> Result<Found, Errno> {
    for sector_bytes in [512, 4096] {
        let last = (disk.size_bytes / sector_bytes).saturating_sub(1);
        // The second header, in the last sector, is there for when the first is broken.
        for sector in [1, last] {
            if let Some(found) = read_gpt_at(disk, sector, sector_bytes)? {
                return Ok(found);
            }
        }
    }
    Ok(Vec::new())
}

fn read_gpt_at(disk: &mut Disk, sector: u64, sector_bytes: u64) -> Result<Option<Found>, Errno> {
    let sectors = disk.size_bytes / sector_bytes;
    disk.position = sector.saturating_mul(sector_bytes);
    let header = GPTHeader::read_from(disk);
    let Some(header) = disk.parsed(header)? else { return Ok(None) };
    let plausible = header.primary_lba == sector
        && header.size_of_partition_entry == GPT_ENTRY_BYTES
        && (1..=GPT_ENTRIES_LIMIT).contains(&header.number_of_partition_entries)
        && header.partition_entry_lba < sectors;
    if !plausible {
        return Ok(None);
    }
    let entries = header.read_partitions(disk, sector_bytes);
    let Some(entries) = disk.parsed(entries)? else { return Ok(None) };
    let used = entries.iter().zip(1..).filter(|(entry, _)| entry.is_used());
    let found = used.filter_map(|(entry, number)| {
        let start = entry.starting_lba.checked_mul(sector_bytes)?;
        let end = entry.ending_lba.checked_add(1)?.checked_mul(sector_bytes)?;
        Some((number, Extent::between(start, end)))
    });
    Ok(Some(found.collect()))
}

fn read_mbr(disk: &mut Disk, primary: &[&MBRPartitionEntry]) -> Result<Found, Errno> {
    let mut found = Vec::new();
    let mut logical = FIRST_LOGICAL;
    for (entry, number) in primary.iter().zip(1..).filter(|(entry, _)| entry.sectors > 0) {
        if entry.is_extended() {
            // It is no partition itself: it holds the logical ones.
            read_logical(disk, u64::from(entry.starting_lba), &mut logical, &mut found)?;
        } else {
            found.push((number, sectors(entry.starting_lba.into(), entry)));
        }
    }
    Ok(found)
}

/// Follows the chain of an extended partition. Each link has an MBR of its own, whose entries say where the partition is
/// from there, and where the next link is from the start of the extended partition.
fn read_logical(
    disk: &mut Disk,
    extended: u64,
    number: &mut u32,
    found: &mut Found,
) -> Result<(), Errno> {
    let mut seen = HashSet::new();
    let mut link = extended;
    while seen.len() < LOGICAL_LIMIT && seen.insert(link) {
        let Some(header) = disk.mbr(link.saturating_mul(MBR_SECTOR_BYTES))? else { break };
        let entries = [&header.partition_1, &header.partition_2];
        let mut entries = entries.into_iter().filter(|entry| entry.sectors > 0);
        let mut next = None;
        for entry in &mut entries {
            if entry.is_extended() {
                next = next.or(Some(extended + u64::from(entry.starting_lba)));
            } else {
                found.push((*number, sectors(link + u64::from(entry.starting_lba), entry)));
                *number += 1;
            }
        }
        match next {
            Some(next) => link = next,
            None => break,
        }
    }
    Ok(())
}

/// The stretch of an MBR's entry that starts at `sector` of the image.
fn sectors(sector: u64, entry: &MBRPartitionEntry) -> Extent {
    let len = u64::from(entry.sectors) * MBR_SECTOR_BYTES;
    Extent::new(sector.saturating_mul(MBR_SECTOR_BYTES), len)
}

/// The image as a stream.
struct Disk<'a> {
    image: ReadImage<'a>,
    size_bytes: u64,
    position: u64,
    /// What was read last, and from where on.
    buffer: Vec<u8>,
    buffer_offset: u64,
    /// Set when the image could not be read; the crates' own errors do not say so reliably.
    failed: Option<Errno>,
}

impl<'a> Disk<'a> {
    fn new(image: ReadImage<'a>, size_bytes: u64) -> Self {
        Disk { image, size_bytes, position: 0, buffer: Vec::new(), buffer_offset: 0, failed: None }
    }

    /// The MBR at an offset, where there is one.
    fn mbr(&mut self, offset: u64) -> Result<Option<MBRHeader>, Errno> {
        let mut sector = [0; MBR_SECTOR_BYTES as usize];
        self.position = offset;
        let read = self.read_exact(&mut sector);
        let Some(()) = self.parsed(read)? else { return Ok(None) };
        Ok(MBRHeader::read_from(&mut Cursor::new(&sector)).ok())
    }

    /// What a parser made of this stream; `None` when that was not what it expected.
    fn parsed<T, E>(&mut self, result: Result<T, E>) -> Result<Option<T>, Errno> {
        match self.failed.take() {
            Some(errno) => Err(errno),
            None => Ok(result.ok()),
        }
    }

    fn fill(&mut self) -> Result<(), Errno> {
        let start = self.position - self.position % BUFFER_BYTES;
        let len = BUFFER_BYTES.min(self.size_bytes.saturating_sub(start));
        self.buffer.clear();
        self.buffer.resize(len as usize, 0);
        self.buffer_offset = start;
        (self.image)(&mut self.buffer, start)
    }
}

impl Read for Disk<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size_bytes {
            return Ok(0);
        }
        let buffered = Extent::new(self.buffer_offset, self.buffer.len() as u64);
        if !(buffered.offset..buffered.end()).contains(&self.position)
            && let Err(errno) = self.fill()
        {
            self.buffer.clear();
            self.failed = Some(errno);
            return Err(errno.into());
        }
        let from = (self.position - self.buffer_offset) as usize;
        let read = self.buffer.get(from..).unwrap_or_default().read(to)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.size_bytes.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
