//! Any bytes as the beginning of a disk: its partitions lie within it and have numbers of their own, and looking for
//! them takes few short reads that stay within it, whatever its tables say.
//!
//! The first two bytes are how many sectors of zeros follow behind the others. The checksums of a GPT would reject
//! nearly everything, so each input is also read with those that fit.

use std::cell::Cell;

use backy_lib::format::partitions::{self, Partition};

/// What comes of reads of tables at their largest: each with some thousand entries, or some chains of some
/// hundred links.
const MAX_READS: u64 = 2000;
const MAX_BYTES: u64 = 4 << 20;
/// Longer beginnings do nothing new.
const MAX_DATA: usize = 128 << 10;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let Some((sectors, image)) = data.split_first_chunk() else { return };
    let mut image = image[..image.len().min(MAX_DATA)].to_vec();
    let size_bytes = image.len() as u64 + 512 * u64::from(u16::from_le_bytes(*sectors));
    check(&image, size_bytes);
    for sector_bytes in [512, 4096] {
        seal(&mut image, sector_bytes);
        check(&image, size_bytes);
    }
}

/// Corrects the checksums of the header and the entries of a GPT.
fn seal(image: &mut [u8], sector_bytes: usize) {
    let word = |image: &[u8], at: usize| {
        let bytes = image.get(sector_bytes + at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes) as usize)
    };
    let entries = || {
        let start = word(image, 72)?.checked_mul(sector_bytes)?;
        image.get(start..start.checked_add(word(image, 80)?.checked_mul(128)?)?)
    };
    let sum = entries().map(checksum);
    let place = image.get_mut(sector_bytes + 88..).and_then(|rest| rest.first_chunk_mut());
    if let (Some(sum), Some(place)) = (sum, place) {
        *place = sum.to_le_bytes();
    }
    let len = word(image, 12).unwrap_or(0);
    let Some(header) = image.get_mut(sector_bytes..) else { return };
    let Some(header) = header.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[16..20].fill(0);
    let checksum = checksum(header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
}

/// CRC-32, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| match sum & 1 {
            1 => sum >> 1 ^ 0xedb8_8320,
            _ => sum >> 1,
        })
    })
}

fn check(image: &[u8], size_bytes: u64) {
    let (reads, bytes) = (Cell::new(0), Cell::new(0));
    let read = |buffer: &mut [u8], offset: u64| -> Result<(), ()> {
        reads.set(reads.get() + 1);
        bytes.set(bytes.get() + buffer.len() as u64);
        let end = offset.checked_add(buffer.len() as u64);
        assert!(end.is_some_and(|end| end <= size_bytes), "a read past the end");
        let from = image.get(offset.min(image.len() as u64) as usize..).unwrap_or_default();
        let there = from.len().min(buffer.len());
        buffer.fill(0);
        buffer[..there].copy_from_slice(&from[..there]);
        Ok(())
    };
    let found = partitions::read(read, size_bytes).expect("no read fails");
    assert!(
        reads.get() <= MAX_READS && bytes.get() <= MAX_BYTES,
        "{reads:?} reads, {bytes:?} bytes"
    );
    let is_sound = |one: &Partition| one.extent.len > 0 && one.extent.end() <= size_bytes;
    assert!(found.iter().all(is_sound), "{found:?}");
    assert!(found.is_sorted_by_key(|one| one.number), "{found:?}");
    assert!(found.iter().zip(found.iter().skip(1)).all(|(a, b)| a.number != b.number));
}
