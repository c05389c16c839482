//! Any bytes as a delta: opening it, looking clusters up and reading them gives content or an error, never a panic,
//! and never takes memory out of proportion.

#![no_main]

use backy_fuzz::OneFile;
use backy_lib::format::qcow2::{Cluster, Decompressor, HEADER_BYTES, Header};
use backy_lib::image::delta::Delta;
use backy_lib::revision::RevisionId;
use backy_lib::units::BlockIndex;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

/// As many entries as one 4 KiB table has, twice.
const WINDOW_BLOCKS: u64 = 1024;
/// The fixed header fields with an extension, or the first entries of a table.
const INTERESTING_BYTES: usize = 128;
/// Reading more clusters of one input finds nothing new and costs speed.
const MAX_READS: usize = 32;

fuzz_target!(|data: &[u8]| read_delta(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match interesting_part(data, size, seed) {
        Some(part) => {
            let bytes = part.len();
            fuzzer_mutate(&mut data[part], bytes, bytes);
            size
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

/// Where a mutation is most likely to matter: the header or the start of a table. Most of the file is payload.
fn interesting_part(data: &[u8], size: usize, seed: u32) -> Option<std::ops::Range<usize>> {
    let start = match seed % 4 {
        0 => 0,
        1 => offset_at(data, 40)?,
        2 => offset_at(data, offset_at(data, 40)?)?,
        _ => return None,
    };
    let end = start.checked_add(INTERESTING_BYTES)?;
    (end <= size).then_some(start..end)
}

/// The offset in a header field or a table entry, without its flags.
fn offset_at(data: &[u8], at: usize) -> Option<usize> {
    let raw = data.get(at..)?.first_chunk()?;
    usize::try_from(u64::from_be_bytes(*raw) & 0x00ff_ffff_ffff_fe00).ok()
}

fn read_delta(data: &[u8]) {
    let Ok(header) = Header::parse(&data[..data.len().min(HEADER_BYTES)]) else { return };
    assert_eq!(Header::parse(&header.encode()).as_ref(), Ok(&header));

    let revision = RevisionId::new("2026-11-22T00:00:00Z".parse().expect("a time"));
    let storage = OneFile(data.to_vec());
    let Ok(delta) = Delta::open_any_size(&storage, revision, header.cluster_size) else { return };
    assert_eq!(delta.header().backing, header.backing);

    let has_short_end = !header.virtual_bytes.is_multiple_of(header.cluster_size.bytes());
    let blocks = header.cluster_size.count(header.virtual_bytes);
    let first_held = delta.next_held_block(BlockIndex(0), BlockIndex(blocks));
    assert!(!matches!(first_held, Ok(Some(block)) if block.0 >= blocks), "past the end");

    let mut decompressor = Decompressor::new().expect("memory for a decompressor");
    let mut buffer = vec![0; header.cluster_size.len()];
    let last_window = blocks.saturating_sub(WINDOW_BLOCKS);
    for first in [0, last_window] {
        let count = WINDOW_BLOCKS.min(blocks - first);
        let Ok(clusters) = delta.clusters(BlockIndex(first), count) else { continue };
        assert_eq!(clusters.len() as u64, count);
        let held = clusters.into_iter().filter(|cluster| *cluster != Cluster::Unallocated);
        for cluster in held.take(MAX_READS) {
            let read = delta.read_cluster(cluster, &mut decompressor, &mut buffer);
            let is_compressed = matches!(cluster, Cluster::Compressed { .. });
            if cfg!(feature = "planted-bug") && read.is_ok() && is_compressed && has_short_end {
                panic!("the planted bug: the size is no whole number of clusters");
            }
        }
    }
}
