//! `<uuid>.image.digests` and `<uuid>.delta.digests`: a header that repeats what the revision is, and a table of 32
//! bytes a block. Entry `n` is at `HEADER_BYTES + 32 * n`; entries of zero blocks, and in a delta's file those of
//! blocks that the delta does not hold, are holes.
//!
//! | offset | length | content (numbers big-endian) |
//! |---|---|---|
//! | 0 | 8 | `BACKYDIG` |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | kind: 1 image, 2 delta |
//! | 16 | 8 | number of blocks |
//! | 24 | 4 | length of the identity |
//! | 28 | 4 | zero |
//! | 32 | 32 | SHA-256 of bytes 0 to 31 and of the identity |
//! | 64 | … | identity: JSON, zero-padded to offset 4096 |

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::base::digest::{DIGEST_BYTES, Digest};
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::manifest::Revision;
use crate::format::name::DigestsKind;

/// Length of the header; the table follows.
pub const HEADER_BYTES: usize = 4096;

const MAGIC: &[u8; 8] = b"BACKYDIG";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 64;
const CHECKSUM_OFFSET: usize = 32;

/// The revision when the file was written: enough to rebuild a lost manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The revision.
    pub uuid: RevisionId,
    /// When its backup began.
    pub started: Timestamp,
    /// When its backup was done.
    pub finished: Timestamp,
    /// Block size in bytes.
    pub block_size: BlockSize,
    /// Exact size of the image in bytes.
    pub size_bytes: u64,
    /// Digest of the revision.
    pub digest: Digest,
    /// The tags that it had then.
    pub tags: BTreeSet<Tag>,
    /// Those of them that were given by hand.
    pub pinned_tags: BTreeSet<Tag>,
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestsHeader {
    /// Which blocks have entries.
    pub kind: DigestsKind,
    /// The revision that they belong to.
    pub identity: Identity,
}

/// Offset of a block's table entry in bytes; saturates.
pub fn entry_offset(block: BlockIndex) -> u64 {
    (HEADER_BYTES as u64).saturating_add(block.0.saturating_mul(DIGEST_BYTES as u64))
}

impl DigestsHeader {
    /// The header for a revision as it is now.
    pub fn new(kind: DigestsKind, revision: &Revision, block_size: BlockSize) -> Self {
        let identity = Identity {
            uuid: revision.uuid,
            started: revision.started,
            finished: revision.finished,
            block_size,
            size_bytes: revision.size_bytes,
            digest: revision.digest,
            tags: revision.tags.clone(),
            pinned_tags: revision.pinned_tags.clone(),
        };
        DigestsHeader { kind, identity }
    }

    /// The file's first [`HEADER_BYTES`].
    ///
    /// # Errors
    /// A sentence if the identity does not fit, which takes more than [`super::manifest::MAX_TAGS`] tags.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let identity = serde_json::to_vec(&self.identity).map_err(|error| error.to_string())?;
        if identity.len() > HEADER_BYTES - FIXED_BYTES {
            return Err(format!("the tags of revision {} are too long", self.identity.uuid));
        }
        let blocks = self.identity.block_size.count(self.identity.size_bytes);
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_be_bytes());
        out.extend(kind_number(self.kind).to_be_bytes());
        out.extend(blocks.to_be_bytes());
        out.extend((identity.len() as u32).to_be_bytes());
        out.extend(0u32.to_be_bytes());
        let checksum = checksum(&out, &identity);
        out.extend(checksum.0);
        out.extend(identity);
        out.resize(HEADER_BYTES, 0);
        Ok(out)
    }

    /// Reads a header from the file's first [`HEADER_BYTES`].
    ///
    /// # Errors
    /// A sentence: the field, what was found, what was expected.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (fixed, rest) = bytes.split_at_checked(FIXED_BYTES).ok_or_else(|| {
            format!("header: found {} bytes, expected {HEADER_BYTES}", bytes.len())
        })?;
        let (fields, stored_checksum) =
            fixed.split_at_checked(CHECKSUM_OFFSET).unwrap_or((fixed, &[]));
        if !fields.starts_with(MAGIC) {
            return Err("magic number: found something else, expected BACKYDIG".to_owned());
        }
        let version = be_u32(fields, 8);
        if version != VERSION {
            return Err(format!("version: found {version}, expected {VERSION}"));
        }
        let identity_bytes = be_u32(fields, 24) as usize;
        let identity = rest.get(..identity_bytes).ok_or_else(|| {
            format!("length of the identity: found {identity_bytes}, past the header")
        })?;
        let expected = checksum(fields, identity);
        if stored_checksum != expected.0 {
            return Err(format!("checksum of the header: found another, expected {expected}"));
        }
        let kind = match be_u32(fields, 12) {
            1 => DigestsKind::Image,
            2 => DigestsKind::Delta,
            other => return Err(format!("kind: found {other}, expected 1 or 2")),
        };
        // The error may contain words of the file, and must be one line.
        let identity: Identity = serde_json::from_slice(identity)
            .map_err(|error| format!("identity: found {}", error.to_string().escape_debug()))?;
        let blocks = identity.block_size.count(identity.size_bytes);
        let found = u64::from(be_u32(fields, 16)) << 32 | u64::from(be_u32(fields, 20));
        if found != blocks {
            return Err(format!("number of blocks: found {found}, expected {blocks}"));
        }
        Ok(DigestsHeader { kind, identity })
    }
}

fn kind_number(kind: DigestsKind) -> u32 {
    match kind {
        DigestsKind::Image => 1,
        DigestsKind::Delta => 2,
    }
}

fn checksum(fields: &[u8], identity: &[u8]) -> Digest {
    Digest::of(&[fields, identity].concat())
}

/// The big-endian number at `offset`; 0 past the end, which callers have excluded.
fn be_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |raw| u32::from_be_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> DigestsHeader {
        let tags: BTreeSet<Tag> = (0..super::super::manifest::MAX_TAGS)
            .map(|n| format!("{n:x<64}").parse().unwrap())
            .collect();
        let identity = Identity {
            uuid: RevisionId::new(Timestamp::UNIX_EPOCH),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::MAX,
            block_size: BlockSize::MAX,
            size_bytes: u64::MAX,
            digest: Digest::of(b""),
            pinned_tags: tags.clone(),
            tags,
        };
        DigestsHeader { kind: DigestsKind::Delta, identity }
    }

    #[test]
    fn the_longest_header_fits_and_reads_back() {
        let header = header();
        let bytes = header.encode().unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(DigestsHeader::parse(&bytes), Ok(header));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let header = header();
        let bytes = header.encode().unwrap();
        let used = FIXED_BYTES + serde_json::to_vec(&header.identity).unwrap().len();
        for at in 0..used {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(DigestsHeader::parse(&flipped).is_err(), "byte {at}");
            assert!(DigestsHeader::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    /// Entries follow the header, 32 bytes each, up to the largest numbers.
    #[test]
    fn entries_follow_the_header() {
        for (block, offset) in [(0, 4096), (1, 4128), (1 << 40, 4096 + (32 << 40))] {
            assert_eq!(entry_offset(BlockIndex(block)), offset);
        }
        assert_eq!(entry_offset(BlockIndex(u64::MAX)), u64::MAX);
    }

    /// A header may use its last byte; one that is a byte longer is refused.
    #[test]
    fn a_header_that_does_not_fit_is_refused() {
        let mut fills = false;
        for length in 1..=64 {
            let mut header = header();
            header.identity.pinned_tags.clear();
            for number in 0..60 {
                let tag = format!("{number:y<64}").parse().unwrap();
                header.identity.tags.insert(tag);
                let bytes = serde_json::to_vec(&header.identity).unwrap().len();
                if HEADER_BYTES - FIXED_BYTES - bytes < 68 {
                    break;
                }
            }
            header.identity.tags.insert(format!("{:z<length$}", "").parse().unwrap());
            let bytes = serde_json::to_vec(&header.identity).unwrap().len();
            let fits = bytes <= HEADER_BYTES - FIXED_BYTES;
            fills |= bytes == HEADER_BYTES - FIXED_BYTES;
            let encoded = header.encode();
            assert_eq!(encoded.is_ok(), fits, "{bytes} bytes");
            if let Ok(encoded) = encoded {
                assert_eq!(DigestsHeader::parse(&encoded), Ok(header));
            }
        }
        assert!(fills, "no header was filled up to its last byte");
    }
}
