//! Headers as backy and QEMU write them, and invalid ones.

use super::*;
use crate::base::revision::RevisionId;

fn header() -> Header {
    let id = RevisionId::new(jiff::Timestamp::UNIX_EPOCH);
    Header::new(&Layout::new(BlockSize::DEFAULT, 1 << 40), Some(Backing::delta(id)))
}

#[test]
fn a_header_reads_back_as_written() {
    for header in [header(), Header { backing: Some(Backing::IMAGE), dirty: false, ..header() }] {
        assert_eq!(Header::parse(&header.encode()), Ok(header));
    }
}

#[test]
fn every_changed_field_that_matters_is_refused_by_name() {
    for (offset, value, word) in [
        (0, 0, "magic"),
        (7, 2, "version"),
        (23, 3, "cluster bits"),
        (23, 99, "cluster bits"),
        (31, 1, "virtual size"),
        (35, 1, "encryption"),
        (38, 0, "L1 entries"),
        (36, 0xff, "L1 entries"),
        (47, 1, "L1 table"),
        (40, 0xff, "L1 table"),
        (55, 1, "reference count table"),
        (59, 0, "reference count table"),
        (63, 1, "snapshots"),
        (72, 0x80, "unknown bits"),
        (79, 0x0a, "corrupt"),
        (79, 0x0c, "external data"),
        (79, 0x18, "extended L2"),
        (79, 0x00, "compression type"),
        (99, 6, "reference count order"),
        (104, 7, "compression type"),
        (118, 0xff, "header extension"),
        (8, 0xff, "backing file name"),
    ] {
        let mut bytes = header().encode();
        bytes[offset] = value;
        let error = Header::parse(&bytes).expect_err(word);
        assert!(error.contains(word), "{offset}: {error}");
    }
}

#[test]
fn a_backing_file_outside_the_archive_is_refused() {
    let mut bytes = header().encode();
    let name = b"../../../../../../../../../etc/passwd";
    let at = u64::from_be_bytes(bytes[8..16].try_into().unwrap()) as usize;
    bytes[at..at + name.len()].copy_from_slice(name);
    bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    let error = Header::parse(&bytes).unwrap_err();
    assert!(error.contains("etc/passwd") && error.contains("same folder"), "{error}");
}

#[test]
fn a_truncated_header_is_an_error() {
    let bytes = header().encode();
    for len in 0..HEADER_LENGTH as usize + 8 {
        assert!(Header::parse(&bytes[..len]).is_err(), "{len}");
    }
}

/// Accepts sizes and places of the tables up to their limits, and not beyond.
#[test]
fn tables_are_taken_up_to_their_limits() {
    const CLUSTER: u64 = 64 << 10;
    let taken = |change: &dyn Fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        Header::parse(&header.encode()) == Ok(header)
    };
    // 2048 entries of 512 MiB each.
    assert!(taken(&|h| h.virtual_bytes = 1 << 40));
    assert!(!taken(&|h| h.virtual_bytes = (1 << 40) + 512));
    assert!(!taken(&|h| h.l1_entries = 2047));
    assert!(taken(&|h| h.l1_entries = MAX_L1_ENTRIES));
    assert!(!taken(&|h| h.l1_entries = MAX_L1_ENTRIES + 1));
    let refcounts = |clusters: u32| {
        taken(&|h| {
            h.refcount_table_clusters = clusters;
            h.l1_offset = h.refcount_table_offset + u64::from(clusters) * CLUSTER;
        })
    };
    assert_eq!([1, 128, 129].map(refcounts), [true, true, false]);
    for (l1, refcount_table, taken_there) in [
        (1, 2, true),
        (2, 1, true),
        (1, 1, false),
        (0, 1, false),
        (1, 0, false),
        ((1 << 40) - 1, 1, true),
        (1 << 40, 1, false),
        (1, (1 << 40) - 2, true),
        (1, (1 << 40) - 1, false),
    ] {
        let found = taken(&|h| {
            h.refcount_table_clusters = 1;
            (h.l1_offset, h.refcount_table_offset) = (l1 * CLUSTER, refcount_table * CLUSTER);
        });
        assert_eq!(found, taken_there, "{l1} {refcount_table}");
    }
    // A table of two clusters, with the other one in its second.
    for first in [1, 2] {
        assert!(!taken(&|h| {
            (h.refcount_table_clusters, h.l1_entries) = (2, 16 << 10);
            (h.l1_offset, h.refcount_table_offset) = (first * CLUSTER, (3 - first) * CLUSTER);
        }));
    }
}

/// Another program's header may be longer than ours, and have extensions that we do not know.
#[test]
fn what_is_not_known_in_a_header_is_skipped() {
    let header = header();
    let ours = header.encode();
    for length in [3u32, 8, 9] {
        let (fixed, rest) = ours.split_at(HEADER_LENGTH as usize);
        let mut bytes = fixed.to_vec();
        bytes.extend([0xee; 8]);
        bytes.extend(0x1234_5678u32.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![0xff; length.next_multiple_of(8) as usize]);
        let more = bytes.len() - fixed.len();
        bytes.extend(rest);
        bytes.truncate(HEADER_BYTES);
        bytes[100..104].copy_from_slice(&(HEADER_LENGTH + 8).to_be_bytes());
        let at = u64::from_be_bytes(ours[8..16].try_into().unwrap()) + more as u64;
        bytes[8..16].copy_from_slice(&at.to_be_bytes());
        assert_eq!(Header::parse(&bytes), Ok(header.clone()), "{length}");
    }
    for length in [MIN_HEADER_LENGTH - 8, HEADER_LENGTH + 1] {
        let mut bytes = ours;
        bytes[100..104].copy_from_slice(&length.to_be_bytes());
        let error = Header::parse(&bytes).unwrap_err();
        assert!(error.contains("header length"), "{error}");
    }
}

/// The name of the backing file may end with the smallest cluster, but not after it.
#[test]
fn a_backing_file_name_ends_in_the_first_cluster() {
    let name = Backing::IMAGE.file.to_string();
    let header = Header { backing: Some(Backing::IMAGE), ..header() };
    for (end, fits) in [(MAX_HEADER_BYTES, true), (MAX_HEADER_BYTES + 1, false)] {
        let mut bytes = header.encode().to_vec();
        bytes.resize(MAX_HEADER_BYTES + 1, 0);
        let at = end - name.len();
        bytes[at..end].copy_from_slice(name.as_bytes());
        bytes[8..16].copy_from_slice(&(at as u64).to_be_bytes());
        assert_eq!(Header::parse(&bytes).is_ok(), fits, "{end}");
    }
}
