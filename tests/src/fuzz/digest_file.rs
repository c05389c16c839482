//! Any bytes as a digest file: its header comes back as it was read, and its table has only one way to read each
//! entry.
//!
//! The checksum of the header would reject nearly everything. So each input is also read with one that fits, and with
//! the length that the header asks for when that is small.

use backy_lib::digest::{DIGEST_BYTES, Digest};
use backy_lib::format::digests::{DigestsHeader, HEADER_BYTES, entry_offset};
use backy_lib::image::digests::DigestTable;
use backy_lib::units::BlockIndex;

use super::OneFile;

const IDENTITY_OFFSET: usize = 64;
const CHECKSUM: std::ops::Range<usize> = 32..64;
/// Longer tables do nothing new.
const MAX_BLOCKS: u64 = 2000;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    backy_lib::limits::use_small();
    check(data);
    if let Some(mended) = with_checksum(data) {
        check(&mended);
    }
}

/// The same with the checksum that it should have, and padded to a whole header.
pub fn with_checksum(data: &[u8]) -> Option<Vec<u8>> {
    let bytes = u32::from_be_bytes(*data.get(24..)?.first_chunk()?) as usize;
    let mut mended = data.to_vec();
    mended.resize(mended.len().max(HEADER_BYTES), 0);
    let identity = mended.get(IDENTITY_OFFSET..HEADER_BYTES)?.get(..bytes)?;
    let checksum = Digest::of(&[&mended[..CHECKSUM.start], identity].concat());
    mended[CHECKSUM].copy_from_slice(&checksum.0);
    Some(mended)
}

fn check(data: &[u8]) {
    let header = match DigestsHeader::parse(&data[..data.len().min(HEADER_BYTES)]) {
        Ok(header) => header,
        Err(flaw) => {
            assert!(!flaw.contains('\n'), "not one line: {flaw:?}");
            // No file of it either.
            let id = backy_lib::RevisionId::from(uuid::Uuid::nil());
            let kind = backy_lib::storage::DigestsKind::Image;
            assert!(DigestTable::open(&OneFile(data.to_vec()), id, kind).is_err());
            return;
        }
    };
    if let Ok(encoded) = header.encode() {
        assert_eq!(DigestsHeader::parse(&encoded).as_ref(), Ok(&header));
    }
    let blocks = header.identity.block_size.count(header.identity.size_bytes);
    check_table(&header, data.to_vec());
    if blocks <= MAX_BLOCKS {
        let mut whole = data.to_vec();
        whole.resize(entry_offset(BlockIndex(blocks)) as usize, 0);
        assert!(check_table(&header, whole), "a whole file is not read");
    }
}

/// Whether it is a table; then its entries are those in the file.
fn check_table(header: &DigestsHeader, data: Vec<u8>) -> bool {
    let raw = data.get(HEADER_BYTES..).unwrap_or_default().to_vec();
    let storage = OneFile(data);
    let Ok(table) = DigestTable::open(&storage, header.identity.uuid, header.kind) else {
        return false;
    };
    assert_eq!(table.identity(), &header.identity);
    let entries = raw.as_chunks::<DIGEST_BYTES>().0;
    let count = entries.len() as u64;
    let read = table.read(BlockIndex(0), u64::MAX).expect("all of it");
    assert!(read.iter().map(|entry| &entry.0).eq(entries));
    assert!(table.read(BlockIndex(count), 3).expect("nothing").is_empty());
    assert!(table.read(BlockIndex(u64::MAX), u64::MAX).expect("nothing").is_empty());
    let mut next = 0;
    while next <= count {
        let expected = (next..count).find(|&at| entries[at as usize] != [0; DIGEST_BYTES]);
        let found = table.next_data_block(BlockIndex(next)).expect("a search");
        assert_eq!(found.map(|block| block.0), expected, "from {next}");
        next = expected.unwrap_or(count) + 1;
    }
    true
}
