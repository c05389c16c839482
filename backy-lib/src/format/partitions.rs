//! Partition tables: GPT (UEFI specification 2.10, section 5.3) or else MBR with its logical partitions, numbered as Linux does it.
//!
//! The image is somebody else's. Whatever its sectors say, reading it takes a bounded number of short reads and little memory, and
//! every partition that comes out lies inside the image. An image without a table has no partitions. Only a read that fails is an error,
//! because nobody knows what would have been there.

use std::collections::HashSet;

use flate2::Crc;

use crate::base::extent::Extent;

/// The size of a GPT entry that everybody uses, and the only one that Linux takes.
const GPT_ENTRY_BYTES: usize = 128;

/// A GPT with more entries is not read; usual are 128.
const GPT_ENTRIES_LIMIT: u32 = 4096;

/// The length of a GPT header without what later versions may append.
const GPT_HEADER_BYTES: usize = 92;

/// The only version of GPT that there is: 1.0.
const GPT_REVISION: u32 = 0x1_0000;

/// The unit of an MBR.
const MBR_SECTOR_BYTES: u64 = 512;

/// The type of the entry in an MBR that says that there is a GPT.
const PROTECTIVE: u8 = 0xee;

/// The types of the entry that holds logical partitions.
const EXTENDED: [u8; 5] = [0x05, 0x0f, 0x85, 0xc5, 0xd5];

/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

/// So many links of the chain of logical partitions are followed.
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
/// That of the read that failed.
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
        // The second header, in the last sector, is there for when the first is broken.
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

/// What a GPT header says of its entries.
struct GptHeader {
    entries_sector: u64,
    entries: u32,
    entries_checksum: u32,
}

impl GptHeader {
    /// The header in the sector with this number; `None` unless it is whole, belongs there, and asks for nothing unusual.
    fn parse(bytes: &[u8], sector: u64) -> Option<Self> {
        let len = u32_at(bytes, 12)? as usize;
        let is_header = field::<8>(bytes, 0)? == *b"EFI PART"
            && u32_at(bytes, 8)? == GPT_REVISION
            && len >= GPT_HEADER_BYTES
            && u64_at(bytes, 24)? == sector;
        // The checksum is that of the header with zeros in its place.
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
            // It is no partition itself: it holds the logical ones.
            read_logical(disk, u64::from(entry.start), &mut logical, &mut found)?;
        } else {
            found.push(entry.partition(number, 0));
        }
    }
    Ok(found)
}

/// Follows the chain of an extended partition. Each link has an MBR of its own, whose entries say where the partition is
/// from there, and where the next link is from the start of the extended partition.
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
    /// The first sector, from wherever the entry counts.
    start: u32,
    /// 0 for an entry that is not used.
    sectors: u32,
}

impl MbrEntry {
    /// `None` where the flag is none that an entry may have: then this is no MBR, but perhaps the boot sector of a file system.
    fn parse(entry: &[u8]) -> Option<Self> {
        let [flag, _, _, _, kind] = field(entry, 0)?;
        let is_entry = flag == 0 || flag == 0x80;
        let (start, sectors) = (u32_at(entry, 8)?, u32_at(entry, 12)?);
        is_entry.then_some(MbrEntry { kind, start, sectors })
    }

    fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind)
    }

    /// The partition, where the entry counts from `sector` on.
    fn partition(&self, number: u32, sector: u64) -> Partition {
        // No more than 34 bits of sectors, so 43 of bytes.
        let offset = (sector + u64::from(self.start)) * MBR_SECTOR_BYTES;
        let extent = Extent::new(offset, u64::from(self.sectors) * MBR_SECTOR_BYTES);
        Partition { number, extent }
    }
}

/// The image, and how long it is.
struct Disk<F> {
    image: F,
    size_bytes: u64,
}

impl<F, E> Disk<F>
where
    F: FnMut(&mut [u8], u64) -> Result<(), E>,
{
    /// Bytes of the image; `None` where it is not that long.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<Option<Vec<u8>>, E> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size_bytes) {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        (self.image)(&mut bytes, offset).map(|()| Some(bytes))
    }

    /// The entries of the MBR at an offset, where there is one.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn read_bytes(image: &[u8]) -> Vec<Partition> {
        let image_bytes = |buffer: &mut [u8], offset: u64| -> Result<(), ()> {
            let from = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&image[from..from + buffer.len()]);
            Ok(())
        };
        read(image_bytes, image.len() as u64).unwrap()
    }

    fn found(image: &[u8]) -> Vec<(u32, u64, u64)> {
        let partitions = read_bytes(image);
        partitions.iter().map(|p| (p.number, p.extent.offset, p.extent.len)).collect()
    }

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// An entry of an MBR at a byte of the image.
    fn put_entry(image: &mut [u8], at: usize, kind: u8, start: u32, sectors: u32) {
        put(image, at + 4, &[kind]);
        put(image, at + 8, &start.to_le_bytes());
        put(image, at + 12, &sectors.to_le_bytes());
    }

    /// Gives the sector at a byte of the image the mark of an MBR.
    fn put_mark(image: &mut [u8], at: usize) {
        put(image, at + 510, &[0x55, 0xaa]);
    }

    /// With partitions 1 and 3, and a header of `header_bytes`.
    fn gpt_with(image_bytes: u64, sector_bytes: u64, header_bytes: usize) -> Vec<u8> {
        let mut image = vec![0; image_bytes as usize];
        put_entry(&mut image, 446, PROTECTIVE, 1, u32::MAX);
        put_mark(&mut image, 0);
        let mut entries = vec![0; 128 * GPT_ENTRY_BYTES];
        for (number, start, len) in GPT_FOUND {
            let at = (number as usize - 1) * GPT_ENTRY_BYTES;
            put(&mut entries, at, &[number as u8; 32]);
            put(&mut entries, at + 32, &(start / sector_bytes).to_le_bytes());
            put(&mut entries, at + 40, &((start + len) / sector_bytes - 1).to_le_bytes());
        }
        let last = image_bytes / sector_bytes - 1;
        let second = last - entries.len() as u64 / sector_bytes;
        for (sector, other, place) in [(1, last, 2), (last, 1, second)] {
            put(&mut image, (place * sector_bytes) as usize, &entries);
            let at = (sector * sector_bytes) as usize;
            put(&mut image, at, b"EFI PART\0\0\x01\0");
            put(&mut image, at + 12, &(header_bytes as u32).to_le_bytes());
            put(&mut image, at + 24, &u64::to_le_bytes(sector));
            put(&mut image, at + 32, &u64::to_le_bytes(other));
            put(&mut image, at + 72, &u64::to_le_bytes(place));
            put(&mut image, at + 80, &128_u32.to_le_bytes());
            put(&mut image, at + 84, &128_u32.to_le_bytes());
            put(&mut image, at + 88, &checksum(&[&entries]).to_le_bytes());
            seal(&mut image, at, header_bytes);
        }
        image
    }

    fn gpt(image_bytes: u64, sector_bytes: u64) -> Vec<u8> {
        gpt_with(image_bytes, sector_bytes, GPT_HEADER_BYTES)
    }

    /// Gives the header at a byte of the image the checksum that it should have.
    fn seal(image: &mut [u8], at: usize, header_bytes: usize) {
        put(image, at + 16, &[0; 4]);
        let checksum = checksum(&[&image[at..at + header_bytes]]);
        put(image, at + 16, &checksum.to_le_bytes());
    }

    const GPT_FOUND: [(u32, u64, u64); 2] = [(1, MIB, MIB), (3, 3 * MIB, MIB / 2)];

    /// With partitions 1 and 3, and the logical ones 5 and 6 in the extended partition 2.
    fn mbr() -> Vec<u8> {
        let mut image = vec![0; 4 * MIB as usize];
        put_entry(&mut image, 446, 0x83, 100, 50);
        put_entry(&mut image, 462, 0x05, 1000, 2000);
        put_entry(&mut image, 478, 0x83, 4000, 100_000);
        put_mark(&mut image, 0);
        for (link, next) in [(1000, Some(500)), (1500, None)] {
            let at = link * 512;
            put_entry(&mut image, at + 446, 0x83, 10, 20);
            if let Some(next) = next {
                put_entry(&mut image, at + 462, 0x05, next, 40);
            }
            put_mark(&mut image, at);
        }
        image
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

    /// A header may be as long as its sector, and no longer.
    #[test]
    fn a_longer_gpt_header_is_read() {
        for header_bytes in [93, 512] {
            assert_eq!(found(&gpt_with(8 * MIB + 1, 512, header_bytes)), GPT_FOUND);
        }
        assert_eq!(found(&gpt_with(8 * MIB + 1, 512, 513)), []);
        assert_eq!(found(&gpt_with(8 * MIB, 4096, 513)), GPT_FOUND);
    }

    /// Entries that do not have the checksum in the header are not believed; those of the second header are.
    #[test]
    fn damaged_gpt_entries_are_not_believed() {
        let mut image = gpt(8 * MIB, 512);
        image[1024 + 32] ^= 1;
        assert_eq!(found(&image), GPT_FOUND);
        let second = image.len() - 33 * 512;
        image[second + 32] ^= 1;
        assert_eq!(found(&image), []);
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
        put_entry(&mut image, 1500 * 512 + 462, 0x05, 0, 40);
        assert_eq!(found(&image), mbr_found());
    }

    /// A chain of logical partitions that goes on and on is followed for some hundred links.
    #[test]
    fn an_endless_chain_of_logical_partitions_ends() {
        let mut image = vec![0; 1000 * 512];
        put_entry(&mut image, 446, 0x0f, 1, 999);
        put_mark(&mut image, 0);
        for link in 1..1000 {
            put_entry(&mut image, link * 512 + 446, 0x83, 0, 1);
            put_entry(&mut image, link * 512 + 462, 0x05, link as u32, 1);
            put_mark(&mut image, link * 512);
        }
        assert_eq!(found(&image).len(), LOGICAL_LIMIT);
    }

    /// The boot sector of a file system ends as an MBR does, and is none.
    #[test]
    fn what_is_no_table_has_no_partitions() {
        for image in [vec![], vec![0; 511], vec![0; 512], vec![0x55; 1 << 16], vec![0xaa; 4097]] {
            assert_eq!(found(&image), []);
        }
        let mut boot_sector = mbr();
        boot_sector[446] = b'N';
        assert_eq!(found(&boot_sector), []);
    }

    /// A read that fails is an error, not an image without partitions.
    #[test]
    fn an_image_that_cannot_be_read_is_an_error() {
        for (image, bad) in
            [(gpt(8 * MIB, 512), 0), (gpt(8 * MIB, 512), 512), (mbr(), 0), (mbr(), 1500 * 512)]
        {
            let read = |buffer: &mut [u8], offset: u64| {
                if (offset..offset + buffer.len() as u64).contains(&bad) {
                    return Err(bad);
                }
                buffer.copy_from_slice(&image[offset as usize..][..buffer.len()]);
                Ok(())
            };
            assert_eq!(super::read(read, image.len() as u64), Err(bad));
        }
    }

    /// Sectors of a header that says what it likes, with a checksum that is right.
    fn forged(offset: usize, value: u64, len: usize) -> Vec<u8> {
        let mut image = gpt(8 * MIB, 512);
        put(&mut image, 512 + offset, &value.to_le_bytes()[..len]);
        seal(&mut image, 512, GPT_HEADER_BYTES);
        image
    }

    /// Numbers in a header that is whole but lies are not believed; the second header is.
    #[test]
    fn a_header_that_lies_is_not_believed() {
        let mut truthful = forged(24, 1, 8);
        let len = truthful.len();
        truthful[len - 512..].fill(0);
        assert_eq!(found(&truthful), GPT_FOUND);
        for value in [0, 1, 127, 129, 256, 4097, 1 << 31, u64::from(u32::MAX)] {
            for offset in [8, 12, 80, 84] {
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
        let partitions = read_bytes(image);
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
                put(&mut image, at + 446, entries);
                // Mostly well-formed, so that it is followed.
                image[at + 446] = 0;
                image[at + 462] = 0;
                image[at + 466] = 5;
                put(&mut image, at + 470, &(lead * 8).to_le_bytes());
                put_mark(&mut image, at);
            }
            is_sound(&image);
        }

        /// Changed bytes in tables do no harm.
        #[test]
        fn any_change_of_a_table_is_read(
            changes in prop::collection::vec((0_usize..3000, any::<u8>()), 1..20),
            which in 0..3,
            sealed in any::<bool>(),
        ) {
            let mut image = match which { 0 => gpt(8 * MIB, 512), 1 => gpt(8 * MIB, 4096), _ => mbr() };
            for (at, value) in changes {
                let at = match which { 2 if at > 1000 => 1000 * 512 + at, _ => at };
                image[at] = value;
            }
            if sealed && which == 0 {
                let checksum = checksum(&[&image[1024..1024 + 128 * GPT_ENTRY_BYTES]]);
                put(&mut image, 512 + 88, &checksum.to_le_bytes());
                seal(&mut image, 512, GPT_HEADER_BYTES);
            }
            is_sound(&image);
        }
    }
}
