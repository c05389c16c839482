//! Tables made for these tests: whole, damaged and forged.

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

/// Ignores entries that do not match the checksum in the header; uses those of the second header.
#[test]
fn damaged_gpt_entries_are_not_believed() {
    let mut image = gpt(8 * MIB, 512);
    image[1024 + 32] ^= 1;
    assert_eq!(found(&image), GPT_FOUND);
    let second = image.len() - 33 * 512;
    image[second + 32] ^= 1;
    assert_eq!(found(&image), []);
}

/// Cuts off or omits what lies past the end of the image.
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

/// Follows an endless chain of logical partitions for some hundred links.
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

/// The boot sector of a file system ends as an MBR does, but is none.
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

/// Sectors of a header with a false value and a right checksum.
fn forged(offset: usize, value: u64, len: usize) -> Vec<u8> {
    let mut image = gpt(8 * MIB, 512);
    put(&mut image, 512 + offset, &value.to_le_bytes()[..len]);
    seal(&mut image, 512, GPT_HEADER_BYTES);
    image
}

/// Ignores false numbers in a header that is otherwise whole; uses the second header.
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

    /// Whatever a first sector contains, and wherever its chain leads, the result is partitions within the image.
    #[test]
    fn any_sector_is_read(
        sectors in prop::collection::vec((prop::array::uniform32(any::<u8>()), 0_u32..64), 1..8),
    ) {
        let mut image = vec![0; 64 * 512];
        for (number, (entries, lead)) in sectors.iter().enumerate() {
            let at = number * 8 * 512;
            put(&mut image, at + 446, entries);
            // Mostly well-formed, so that the reader follows it.
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
