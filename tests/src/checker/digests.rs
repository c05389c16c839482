//! Digest files: a header with an identity, and a table.

use serde_json::Value;

use super::manifest::{Manifest, Revision};
use super::{Problems, be_u32, be_u64, is_zero, sha256};

const HEADER: usize = 4096;

/// 32 zero bytes stand for a block that is all zero.
pub(super) const ZERO: [u8; 32] = [0; 32];
/// 32 bytes 0xff stand for a block that is lost.
pub(super) const LOST: [u8; 32] = [0xff; 32];

/// The table of a digest file.
pub(super) struct Table<'a>(&'a [u8]);

impl Table<'_> {
    pub(super) fn entry(&self, block: u64) -> [u8; 32] {
        let at = block as usize * 32;
        self.0.get(at..at + 32).and_then(|raw| raw.try_into().ok()).unwrap_or(ZERO)
    }
}

/// Checks a digest file. Returns its table if it can be used.
pub(super) fn check<'a>(
    name: &str,
    raw: &'a [u8],
    number: usize,
    manifest: &Manifest,
    problems: &mut Problems,
) -> Option<Table<'a>> {
    let revision = &manifest.revisions[number];
    let blocks = manifest.blocks(number);
    let (Some(head), Some(table)) = (raw.get(..HEADER), raw.get(HEADER..)) else {
        problems.add(format!("{name}: {} bytes, shorter than a header", raw.len()));
        return None;
    };
    let length = be_u32(head, 24) as usize;
    let Some(identity) = head.get(64..64 + length) else {
        problems.add(format!("{name}: an identity of {length} bytes"));
        return None;
    };
    let mut expect = |is_so, what: &str| problems.expect(is_so, || format!("{name}: {what}"));
    let mut is_right = expect(head.starts_with(b"BACKYDIG"), "another magic number");
    is_right &= expect(be_u32(head, 8) == 1, "another version");
    let kind = if number == 0 { 1 } else { 2 };
    is_right &= expect(be_u32(head, 12) == kind, "another kind");
    is_right &= expect(be_u64(head, 16) == blocks, "another number of blocks");
    is_right &= expect(be_u32(head, 28) == 0, "bytes 28 to 31 are not zero");
    let checksum = sha256(&[&head[..32], identity]);
    is_right &= expect(head[32..64] == checksum, "the checksum of the header is wrong");
    expect(is_zero(&head[64 + length..]), "no zeros behind the identity");
    is_right &= expect(table.len() as u64 == 32 * blocks, "the table has another length");
    check_identity(name, identity, revision, manifest.block_size, problems);
    is_right.then_some(Table(table))
}

fn check_identity(
    name: &str,
    identity: &[u8],
    revision: &Revision,
    block_size: u64,
    problems: &mut Problems,
) {
    let identity: Value = serde_json::from_slice(identity).unwrap_or_default();
    for field in ["uuid", "started", "finished", "size_bytes", "digest"] {
        problems.expect(identity[field] == revision.json[field], || {
            let (found, expected) = (&identity[field], &revision.json[field]);
            format!("{name}: identity: {field} {found}, the manifest has {expected}")
        });
    }
    problems.expect(identity["block_size"] == block_size, || {
        format!("{name}: identity: block_size {}", identity["block_size"])
    });
    for field in ["tags", "pinned_tags"] {
        problems.expect(identity[field].is_array(), || format!("{name}: identity: no {field}"));
    }
}
