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

#[cfg(test)]
mod tests {
    use gptman::{GPT, GPTPartitionEntry};
    use mbrman::{CHS, LogicalPartition, MBR};
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn read_bytes(image: &[u8]) -> Result<Vec<Partition>, Errno> {
        let image_bytes = |buffer: &mut [u8], offset: u64| {
            let from = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&image[from..from + buffer.len()]);
            Ok(())
        };
        read(&image_bytes, image.len() as u64)
    }

    fn found(image: &[u8]) -> Vec<(u32, u64, u64)> {
        let partitions = read_bytes(image).unwrap();
        partitions.iter().map(|p| (p.number, p.extent.offset, p.extent.len)).collect()
    }

    /// With partitions 1 and 3.
    fn gpt(image_bytes: u64, sector_bytes: u64) -> Vec<u8> {
        let mut image = Cursor::new(vec![0; image_bytes as usize]);
        let mut gpt = GPT::new_from(&mut image, sector_bytes, [7; 16]).unwrap();
        for (number, start, len) in [(1, MIB, MIB), (3, 3 * MIB, MIB / 2)] {
            gpt[number] = GPTPartitionEntry {
                partition_type_guid: [number as u8; 16],
                unique_partition_guid: [number as u8; 16],
                starting_lba: start / sector_bytes,
                ending_lba: (start + len) / sector_bytes - 1,
                attribute_bits: 0,
                partition_name: "".into(),
            };
        }
        GPT::write_protective_mbr_into(&mut image, sector_bytes).unwrap();
        gpt.write_into(&mut image).unwrap();
        image.into_inner()
    }

    const GPT_FOUND: [(u32, u64, u64); 2] = [(1, MIB, MIB), (3, 3 * MIB, MIB / 2)];

    fn entry(sys: u8, starting_lba: u32, sectors: u32) -> MBRPartitionEntry {
        MBRPartitionEntry { sys, starting_lba, sectors, ..MBRPartitionEntry::empty() }
    }

    /// With partitions 1 and 3, and the logical ones 5 and 6 in the extended partition 2.
    fn mbr() -> Vec<u8> {
        let mut image = Cursor::new(vec![0; 4 * MIB as usize]);
        let mut mbr = MBR::new_from(&mut image, 512, [1, 2, 3, 4]).unwrap();
        mbr[1] = entry(0x83, 100, 50);
        mbr[2] = entry(0x05, 1000, 2000);
        mbr[3] = entry(0x83, 4000, 100_000);
        let logical = |ebr: u32, first: bool| LogicalPartition {
            partition: entry(0x83, ebr + 10, 20),
            absolute_ebr_lba: ebr,
            ebr_sectors: (!first).then_some(40),
            bootstrap_code: [0; 446],
            ebr_first_chs: CHS::empty(),
            ebr_last_chs: (!first).then_some(CHS::empty()),
        };
        mbr.logical_partitions = vec![logical(1000, true), logical(1500, false)];
        mbr.write_into(&mut image).unwrap();
        image.into_inner()
    }

    fn mbr_found() -> Vec<(u32, u64, u64)> {
        let in_bytes = |(number, start, len): (u32, u64, u64)| (number, start * 512, len * 512);
        // The third reaches past the end, and is cut there.
        [(1, 100, 50), (3, 4000, 8192 - 4000), (5, 1010, 20), (6, 1510, 20)].map(in_bytes).to_vec()
    }

    /// The partitions of a GPT are found with sectors of either size, from the second header when the first is broken.
    #[test]
    fn a_gpt_is_read() {
        for sector_bytes in [512, 4096] {
            let mut image = gpt(8 * MIB, sector_bytes);
            assert_eq!(found(&image), GPT_FOUND);
            image[sector_bytes as usize + 20] ^= 1;
            assert_eq!(found(&image), GPT_FOUND);
            let len = image.len();
            image[len - sector_bytes as usize + 20] ^= 1;
            assert_eq!(found(&image), []);
        }
    }

    /// What lies past the end of the image is cut off or left out.
    #[test]
    fn partitions_end_with_the_image() {
        let mut image = gpt(8 * MIB, 512);
        image.truncate((MIB + MIB / 2) as usize);
        assert_eq!(found(&image), [(1, MIB, MIB / 2)]);
    }

    /// The partitions of an MBR have the numbers that Linux gives them.
    #[test]
    fn an_mbr_is_read_with_its_logical_partitions() {
        assert_eq!(found(&mbr()), mbr_found());
    }

    /// A chain of logical partitions that leads back to itself ends.
    #[test]
    fn a_circle_of_logical_partitions_ends() {
        let mut image = mbr();
        // The link in the second record of the chain, to the first.
        image[1500 * 512 + 446 + 16..][..16]
            .copy_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0]);
        assert_eq!(found(&image), mbr_found());
    }

    #[test]
    fn what_is_no_table_has_no_partitions() {
        for image in [vec![], vec![0; 511], vec![0; 512], vec![0x55; 1 << 16], vec![0xaa; 4097]] {
            assert_eq!(found(&image), []);
        }
    }

    /// A read that fails is an error, not an image without partitions.
    #[test]
    fn an_image_that_cannot_be_read_is_an_error() {
        for (image, bad) in [(gpt(8 * MIB, 512), 0), (mbr(), 0), (mbr(), 1500 * 512)] {
            let read = |buffer: &mut [u8], offset: u64| {
                if (offset..offset + buffer.len() as u64).contains(&bad) {
                    return Err(Errno::IO);
                }
                buffer.copy_from_slice(&image[offset as usize..][..buffer.len()]);
                Ok(())
            };
            assert_eq!(super::read(&read, image.len() as u64), Err(Errno::IO), "{bad}");
        }
    }

    /// Sectors of a header that says what it likes, with a checksum that is right.
    fn forged(offset: usize, value: u64, len: usize) -> Vec<u8> {
        let mut image = gpt(8 * MIB, 512);
        image[512 + offset..][..len].copy_from_slice(&value.to_le_bytes()[..len]);
        image[512 + 16..][..4].fill(0);
        let checksum = checksum(&image[512..512 + 92]);
        image[512 + 16..][..4].copy_from_slice(&checksum.to_le_bytes());
        image
    }

    fn checksum(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
            })
        })
    }

    /// Numbers in a header that is whole but lies are not believed; the second header is.
    #[test]
    fn a_header_that_lies_is_not_believed() {
        let mut truthful = forged(24, 1, 8);
        let len = truthful.len();
        truthful[len - 512..].fill(0);
        assert_eq!(found(&truthful), GPT_FOUND);
        for value in [0, 1, 127, 129, 256, 4097, 1 << 31, u64::from(u32::MAX)] {
            for offset in [80, 84] {
                assert_eq!(found(&forged(offset, value, 4)), GPT_FOUND, "{value} at {offset}");
            }
        }
        for value in [0, u64::MAX, u64::MAX / 512, 1 << 60, 16384, 16383] {
            for offset in [24, 72] {
                assert_eq!(found(&forged(offset, value, 8)), GPT_FOUND, "{value} at {offset}");
            }
        }
    }

    fn is_sound(image: &[u8]) {
        let partitions = read_bytes(image).unwrap();
        assert!(partitions.len() <= GPT_ENTRIES_LIMIT as usize);
        for partition in &partitions {
            assert!(partition.number > 0 && partition.extent.len > 0);
            assert!(partition.extent.end() <= image.len() as u64);
        }
        assert!(partitions.is_sorted_by(|a, b| a.number < b.number));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever a first sector says, and wherever its chain leads, it ends in partitions that are within the image.
        #[test]
        fn any_sector_is_read(
            sectors in prop::collection::vec((prop::array::uniform32(any::<u8>()), 0_u32..64), 1..8),
        ) {
            let mut image = vec![0; 64 * 512];
            for (number, (entries, lead)) in sectors.iter().enumerate() {
                let at = number * 8 * 512;
                image[at + 446..][..32].copy_from_slice(entries);
                // Mostly well-formed, so that it is followed.
                image[at + 446] = 0;
                image[at + 462] = 0;
                image[at + 466] = 5;
                image[at + 470..][..4].copy_from_slice(&(lead * 8).to_le_bytes());
                image[at + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
            }
            is_sound(&image);
        }

        /// Changed bytes in tables do no harm.
        #[test]
        fn any_change_of_a_table_is_read(
            changes in prop::collection::vec((0_usize..3000, any::<u8>()), 1..20),
            which in 0..3,
        ) {
            let mut image = match which { 0 => gpt(8 * MIB, 512), 1 => gpt(8 * MIB, 4096), _ => mbr() };
            for (at, value) in changes {
                let at = match which { 2 if at > 1000 => 1000 * 512 + at, _ => at };
                image[at] = value;
            }
            is_sound(&image);
        }
    }
}
