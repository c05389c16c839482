//! Partition tables: GPT (UEFI specification 2.10, section 5.3), otherwise MBR with its logical partitions, with the
//! numbers that Linux gives them.
//!
//! The image is somebody else's. Whatever its sectors contain, reading it takes a bounded number of short reads and
//! little memory, and every resulting partition lies inside the image. An image without a table has no partitions.
//! Only a failed read is an error, because nobody knows what was there.

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use flate2::Crc;

use crate::base::extent::Extent;

/// The size of a GPT entry that everybody uses, and the only one that Linux takes.
const GPT_ENTRY_BYTES: usize = 128;

/// A GPT with more entries is not read; 128 are usual.
const GPT_ENTRIES_LIMIT: u32 = 4096;

/// The length of a GPT header without what later versions may append.
const GPT_HEADER_BYTES: usize = 92;

/// The only version of GPT: 1.0.
const GPT_REVISION: u32 = 0x1_0000;

/// The unit of an MBR.
const MBR_SECTOR_BYTES: u64 = 512;

/// The type of the MBR entry that announces a GPT.
const PROTECTIVE: u8 = 0xee;

/// The types of the entry that holds logical partitions.
const EXTENDED: [u8; 5] = [0x05, 0x0f, 0x85, 0xc5, 0xd5];

/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

/// How many links of the chain of logical partitions to follow.
const LOGICAL_LIMIT: usize = 256;

/// A partition of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition {
    /// Its number in the table, from 1.
    pub number: u32,
    /// Where it is in the image; never empty, never past the end.
    pub extent: Extent,
}

/// The partitions of an image, by number. `image` fills its buffer from an offset.
///
/// # Errors
/// The error of the read that failed.
pub fn read<E>(
    image: impl FnMut(&mut [u8], u64) -> Result<(), E>,
    size_bytes: u64,
) -> Result<Vec<Partition>, E> {
    let mut disk = Disk { image, size_bytes };
    let Some(primary) = disk.mbr(0)? else { return Ok(Vec::new()) };
    let mut found = if primary.iter().any(|entry| entry.kind == PROTECTIVE) {
        read_gpt(&mut disk)?
    } else {
        read_mbr(&mut disk, &primary)?
    };
    for partition in &mut found {
        let Extent { offset, .. } = partition.extent;
        partition.extent = Extent::between(offset, partition.extent.end().min(size_bytes));
    }
    found.retain(|partition| partition.extent.len > 0);
    found.sort_by_key(|partition| partition.number);
    Ok(found)
}

fn read_gpt<F, E>(disk: &mut Disk<F>) -> Result<Vec<Partition>, E>
where
    F: FnMut(&mut [u8], u64) -> Result<(), E>,
{
    for sector_bytes in [512, 4096] {
        let last = (disk.size_bytes / sector_bytes).saturating_sub(1);
        // The second header, in the last sector, counts if the first is broken.
        for sector in [1, last] {
            let Some(bytes) = disk.bytes(sector * sector_bytes, sector_bytes as usize)? else {
                continue;
            };
            let Some(header) = GptHeader::parse(&bytes, sector) else { continue };
            let offset = header.entries_sector.checked_mul(sector_bytes);
            let len = header.entries as usize * GPT_ENTRY_BYTES;
            let Some(offset) = offset else { continue };
            let Some(bytes) = disk.bytes(offset, len)? else { continue };
            if checksum(&[&bytes]) == header.entries_checksum {
                return Ok(gpt_partitions(&bytes, sector_bytes));
            }
        }
    }
    Ok(Vec::new())
}

fn gpt_partitions(entries: &[u8], sector_bytes: u64) -> Vec<Partition> {
    let entries = entries.as_chunks::<GPT_ENTRY_BYTES>().0.iter().zip(1..);
    let partition = |(entry, number): (&[u8; GPT_ENTRY_BYTES], u32)| {
        // An entry of no type is not used.
        if field::<16>(entry, 0)? == [0; 16] {
            return None;
        }
        let start = u64_at(entry, 32)?.checked_mul(sector_bytes)?;
        let end = u64_at(entry, 40)?.checked_add(1)?.checked_mul(sector_bytes)?;
        Some(Partition { number, extent: Extent::between(start, end) })
    };
    entries.filter_map(partition).collect()
}

/// What a GPT header says about its entries.
struct GptHeader {
    entries_sector: u64,
    entries: u32,
    entries_checksum: u32,
}

impl GptHeader {
    /// The header in the sector with this number; `None` unless it is whole, belongs there, and is nothing unusual.
    fn parse(bytes: &[u8], sector: u64) -> Option<Self> {
        let len = u32_at(bytes, 12)? as usize;
        let is_header = field::<8>(bytes, 0)? == *b"EFI PART"
            && u32_at(bytes, 8)? == GPT_REVISION
            && len >= GPT_HEADER_BYTES
            && u64_at(bytes, 24)? == sector;
        // The checksum covers the header with zeros in its own place.
        let header = bytes.get(..len)?;
        let around = [header.get(..16)?, &[0; 4], header.get(20..)?];
        let entries = u32_at(header, 80)?;
        let is_usual = u32_at(header, 84)? as usize == GPT_ENTRY_BYTES
            && (1..=GPT_ENTRIES_LIMIT).contains(&entries);
        let is_right = is_header && is_usual && checksum(&around) == u32_at(header, 16)?;
        is_right.then_some(GptHeader {
            entries_sector: u64_at(header, 72)?,
            entries,
            entries_checksum: u32_at(header, 88)?,
        })
    }
}

fn read_mbr<F, E>(disk: &mut Disk<F>, primary: &[MbrEntry; 4]) -> Result<Vec<Partition>, E>
where
    F: FnMut(&mut [u8], u64) -> Result<(), E>,
{
    let mut found = Vec::new();
    let mut logical = FIRST_LOGICAL;
    for (entry, number) in primary.iter().zip(1..).filter(|(entry, _)| entry.sectors > 0) {
        if entry.is_extended() {
            // It is not a partition itself: it holds the logical ones.
            read_logical(disk, u64::from(entry.start), &mut logical, &mut found)?;
        } else {
            found.push(entry.partition(number, 0));
        }
    }
    Ok(found)
}

/// Follows the chain of an extended partition. Each link has an MBR of its own, whose entries give the place of the
/// partition relative to this link, and the place of the next link relative to the start of the extended partition.
fn read_logical<F, E>(
    disk: &mut Disk<F>,
    extended: u64,
    number: &mut u32,
    found: &mut Vec<Partition>,
) -> Result<(), E>
where
    F: FnMut(&mut [u8], u64) -> Result<(), E>,
{
    let mut seen = HashSet::new();
    let mut link = extended;
    while seen.len() < LOGICAL_LIMIT && seen.insert(link) {
        let Some([first, second, ..]) = disk.mbr(link * MBR_SECTOR_BYTES)? else { break };
        let mut next = None;
        for entry in [first, second].iter().filter(|entry| entry.sectors > 0) {
            if entry.is_extended() {
                next = next.or(Some(extended + u64::from(entry.start)));
            } else {
                found.push(entry.partition(*number, link));
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

/// An entry of an MBR.
#[derive(Clone, Copy)]
struct MbrEntry {
    kind: u8,
    /// The first sector, relative to where the entry counts from.
    start: u32,
    /// 0 for an unused entry.
    sectors: u32,
}

impl MbrEntry {
    /// `None` if the flag is not one that an entry may have: then this is no MBR, but perhaps the boot sector of a
    /// file system.
    fn parse(entry: &[u8]) -> Option<Self> {
        let [flag, _, _, _, kind] = field(entry, 0)?;
        let is_entry = flag == 0 || flag == 0x80;
        let (start, sectors) = (u32_at(entry, 8)?, u32_at(entry, 12)?);
        is_entry.then_some(MbrEntry { kind, start, sectors })
    }

    fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind)
    }

    /// The partition, for an entry that counts from `sector`.
    fn partition(&self, number: u32, sector: u64) -> Partition {
        // No more than 34 bits of sectors, so 43 of bytes.
        let offset = (sector + u64::from(self.start)) * MBR_SECTOR_BYTES;
        let extent = Extent::new(offset, u64::from(self.sectors) * MBR_SECTOR_BYTES);
        Partition { number, extent }
    }
}

/// The image, and its length.
struct Disk<F> {
    image: F,
    size_bytes: u64,
}

impl<F, E> Disk<F>
where
    F: FnMut(&mut [u8], u64) -> Result<(), E>,
{
    /// Bytes of the image; `None` if it is not that long.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<Option<Vec<u8>>, E> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size_bytes) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        (self.image)(&mut bytes, offset).map(|()| Some(bytes))
    }

    /// The entries of the MBR at an offset, if there is one.
    fn mbr(&mut self, offset: u64) -> Result<Option<[MbrEntry; 4]>, E> {
        let sector = self.bytes(offset, MBR_SECTOR_BYTES as usize)?;
        let entries = |sector: Vec<u8>| {
            if field::<2>(&sector, 510)? != [0x55, 0xaa] {
                return None;
            }
            let entry = |at| MbrEntry::parse(sector.get(at..at + 16)?);
            Some([entry(446)?, entry(462)?, entry(478)?, entry(494)?])
        };
        Ok(sector.and_then(entries))
    }
}

/// CRC-32 of the parts, one after the other.
fn checksum(parts: &[&[u8]]) -> u32 {
    let mut checksum = Crc::new();
    parts.iter().for_each(|part| checksum.update(part));
    checksum.sum()
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}
