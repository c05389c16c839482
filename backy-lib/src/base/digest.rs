//! SHA-256 of blocks and of whole revisions.
//!
//! A *table entry* is how a digest is stored: the digest of the block's bytes, or 32 zero bytes for a
//! block that is all zero (so that the table of a sparse image is sparse), or 32 bytes 0xff for a block whose right
//! content was not known when it was backed up, which no content matches. The digest of a revision is
//! SHA-256 over the *real* digests of its blocks, one after the other; `doc/format.md` has it in Python.

mod many;
#[cfg(any(test, feature = "testing"))]
pub use many::lies;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::base::error;
use crate::base::progress::{self, Observer};
use crate::base::units::BlockSize;

/// Length of a digest and of a table entry in bytes.
pub const DIGEST_BYTES: usize = 32;

/// A SHA-256, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl Digest {
    /// SHA-256 of `bytes`, which need not be a block.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a SHA-256 of 64 hex digits".to_owned();
        let mut bytes = [0; DIGEST_BYTES];
        if text.len() != 2 * DIGEST_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Digest(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Computes the digest of bytes that arrive piece by piece.
#[derive(Default)]
pub(crate) struct StreamHasher(Sha256);

impl StreamHasher {
    /// The next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// What a digest table holds for one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableEntry(pub [u8; DIGEST_BYTES]);

impl TableEntry {
    /// The entry of a block that is all zero.
    pub const ZERO_BLOCK: TableEntry = TableEntry([0; DIGEST_BYTES]);

    /// The entry of a block whose right content was not known when it was backed up: no bytes match it.
    pub const LOST: TableEntry = TableEntry([0xff; DIGEST_BYTES]);

    /// The entry for a block with these bytes. It recognises a zero block without computing a digest.
    pub fn of_block(bytes: &[u8]) -> Self {
        if is_zero(bytes) { Self::ZERO_BLOCK } else { TableEntry(Sha256::digest(bytes).into()) }
    }

    /// The entry of each block, computed twice where it differs from the expected one.
    ///
    /// # Errors
    /// [`Error::Miscomputed`](crate::Error::Miscomputed).
    pub fn of_blocks<'a>(
        blocks: impl IntoIterator<Item = &'a [u8]>,
        expected: &[Self],
    ) -> error::Result<Vec<Self>> {
        let mut entries = Vec::new();
        let (mut data, mut expected_digests) = (Vec::new(), Vec::new());
        for block in blocks {
            let entry = if is_zero(block) { Self::ZERO_BLOCK } else { Self::LOST };
            if entry == Self::LOST {
                data.push(block);
                expected_digests.push(expected.get(entries.len()).map(|entry| entry.0));
            }
            entries.push(entry);
        }
        let digests = many::digests(&data, &expected_digests)?.into_iter().map(TableEntry);
        let places = entries.iter_mut().filter(|entry| **entry == Self::LOST);
        places.zip(digests).for_each(|(place, digest)| *place = digest);
        Ok(entries)
    }

    /// For each entry and block, whether the entry [matches](Self::matches) the block. Two computations agree
    /// on every mismatch.
    ///
    /// # Errors
    /// [`Error::Miscomputed`](crate::Error::Miscomputed).
    pub fn matching<'a>(
        pairs: impl IntoIterator<Item = (Self, &'a [u8])>,
    ) -> error::Result<Vec<bool>> {
        let mut matching = Vec::new();
        let (mut places, mut expected, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, block) in pairs {
            if entry != Self::ZERO_BLOCK && entry != Self::LOST {
                places.push(matching.len());
                expected.push(Some(entry.0));
                data.push(block);
            }
            matching.push(entry == Self::ZERO_BLOCK && is_zero(block));
        }
        let digests = many::digests(&data, &expected)?;
        for ((at, expected), digest) in places.into_iter().zip(expected).zip(digests) {
            if let Some(matching) = matching.get_mut(at) {
                *matching = expected == Some(digest);
            }
        }
        Ok(matching)
    }

    /// Whether the block is all zero.
    pub fn is_zero_block(self) -> bool {
        self == Self::ZERO_BLOCK
    }

    /// Whether `bytes` is the block that this entry was made from.
    pub fn matches(self, bytes: &[u8]) -> bool {
        match self {
            Self::ZERO_BLOCK => is_zero(bytes),
            Self::LOST => false,
            TableEntry(digest) => Digest::of(bytes).0 == digest,
        }
    }
}

/// Whether every byte is zero; stops at the first 512 bytes that are not.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (lanes, tail) = bytes.as_chunks::<8>();
    lanes
        .chunks(64)
        .all(|chunk| chunk.iter().fold(0, |seen, lane| seen | u64::from_ne_bytes(*lane)) == 0)
        && tail.iter().all(|&byte| byte == 0)
}

/// Computes the digest of a revision from its table entries, in block order.
#[derive(Clone)]
pub struct RevisionHasher {
    hasher: Sha256,
    block_size: BlockSize,
    size_bytes: u64,
    zero_block: Digest,
    zero_last_block: Digest,
    zero_run: Arc<[u8]>,
    next_block: u64,
}

impl RevisionHasher {
    /// For a revision of `size_bytes` in blocks of `block_size`.
    pub fn new(block_size: BlockSize, size_bytes: u64) -> Self {
        let last_bytes = match size_bytes % block_size.bytes() {
            0 => block_size.len(),
            short => short as usize,
        };
        let zeros = vec![0; block_size.len()];
        let zero_block = Digest::of(&zeros);
        let zero_last_block = Digest::of(zeros.get(..last_bytes).unwrap_or(&zeros));
        RevisionHasher {
            hasher: Sha256::new(),
            block_size,
            size_bytes,
            zero_block,
            zero_last_block,
            zero_run: zero_block.0.repeat(512).into(),
            next_block: 0,
        }
    }

    /// The next block's table entry.
    pub fn push(&mut self, entry: TableEntry) {
        self.next_block += 1;
        if entry.is_zero_block() {
            let last = self.next_block == self.block_size.count(self.size_bytes);
            self.hasher.update(if last { self.zero_last_block.0 } else { self.zero_block.0 });
        } else {
            self.hasher.update(entry.0);
        }
    }

    /// Adds `count` zero blocks. This costs 32 bytes of digesting per block rather than a whole block, yet
    /// takes hours for a huge hole that a damaged file claims to have; so the observer may stop it.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn push_zero_blocks(&mut self, count: u64, observer: &dyn Observer) -> error::Result<()> {
        let full = self.block_size.count(self.size_bytes).saturating_sub(1);
        let mut left = count.min(full.saturating_sub(self.next_block));
        let rest = count - left;
        self.next_block += left;
        while left > 0 {
            progress::check(observer)?;
            let step = left.min(512);
            let bytes = step as usize * DIGEST_BYTES;
            self.hasher.update(self.zero_run.get(..bytes).unwrap_or(&self.zero_run));
            left -= step;
        }
        for _ in 0..rest {
            self.push(TableEntry::ZERO_BLOCK);
        }
        Ok(())
    }

    /// How many blocks were pushed.
    pub fn blocks(&self) -> u64 {
        self.next_block
    }

    /// The digest of the revision.
    pub fn finish(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::base::error::ErrorKind;
    use crate::base::progress::{Event, Silent};

    /// Asks to stop once it has been polled a few times.
    struct Impatient(AtomicU32);

    impl Observer for Impatient {
        fn event(&self, _event: &Event) {}

        fn cancelled(&self) -> bool {
            self.0.fetch_add(1, Relaxed) >= 3
        }
    }

    /// Digesting a hole of any size stops soon after the observer asks for it.
    #[test]
    fn the_digest_of_a_hole_can_be_stopped() {
        let observer = Impatient(AtomicU32::new(0));
        let mut hasher = RevisionHasher::new(BlockSize::MIN, u64::MAX);
        let stopped = hasher.push_zero_blocks(1 << 51, &observer).unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
        assert_eq!(observer.0.into_inner(), 4, "polled in steps, and not again afterwards");
    }

    #[test]
    fn digests_round_trip_through_text_and_bad_text_is_refused() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let g = "g".repeat(64);
        let plus = format!("+{}", "0".repeat(63));
        for bad in ["", "00", &g, "é"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        // `from_str_radix` takes a sign: "+0" must not count as a byte of two hex digits.
        assert!(plus.parse::<Digest>().is_err());
    }

    #[test]
    fn is_zero_checks_every_byte() {
        for len in [0, 1, 7, 8, 9, 63, 512, 4096, 4099] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "byte {at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn a_revision_digest_covers_the_real_digests_of_zero_blocks() {
        let block_size = BlockSize::MIN;
        for size_bytes in [0u64, 1, 4096, 4097, 3 * 4096, 700 * 4096 + 5] {
            let image: Vec<u8> = (0..size_bytes)
                .map(|i| if (i / 4096) % 3 == 0 { (i % 251) as u8 } else { 0 })
                .collect();
            let mut plain = Sha256::new();
            for block in image.chunks(4096) {
                plain.update(Sha256::digest(block));
            }
            let mut hasher = RevisionHasher::new(block_size, size_bytes);
            for block in image.chunks(4096) {
                hasher.push(TableEntry::of_block(block));
            }
            assert_eq!(hasher.finish().0, <[u8; 32]>::from(plain.finalize()));

            let count = block_size.count(size_bytes);
            let zeros = vec![0; size_bytes as usize];
            let mut plain = Sha256::new();
            zeros.chunks(4096).for_each(|block| plain.update(Sha256::digest(block)));
            let mut hasher = RevisionHasher::new(block_size, size_bytes);
            hasher.push_zero_blocks(count / 2, &Silent).unwrap();
            hasher.push_zero_blocks(count - count / 2, &Silent).unwrap();
            assert_eq!(hasher.blocks(), count);
            assert_eq!(hasher.finish().0, <[u8; 32]>::from(plain.finalize()));
        }
    }
}
