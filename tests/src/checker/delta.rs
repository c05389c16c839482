//! One delta: header, layout, entries, content, reference counts.

use std::collections::BTreeMap;
use std::fmt;

use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::digests::{LOST, Table, ZERO};
use super::manifest::Manifest;
use super::qcow2::{Entry, Qcow2};
use super::{Problems, is_zero, sha256};

/// A delta that can be read, and which blocks it holds.
pub(super) struct Delta<'a> {
    image: Qcow2<'a>,
    pub(super) held: BTreeMap<u64, Entry>,
}

/// Positions from the document.
struct Layout {
    table_clusters: u64,
    l1_entries: u64,
    l1_offset: u64,
    l2_offset: u64,
    data_offset: u64,
}

impl Layout {
    fn new(cluster: u64, virtual_bytes: u64) -> Self {
        let l1_entries = virtual_bytes.div_ceil(cluster * (cluster / 8)).max(1);
        let l1_clusters = (8 * l1_entries).div_ceil(cluster);
        let clusters = 2 * (virtual_bytes.div_ceil(cluster) + l1_entries + l1_clusters + 16);
        let table_clusters = (8 * clusters.div_ceil(cluster / 2)).div_ceil(cluster);
        let l1_offset = cluster * (1 + table_clusters);
        let l2_offset = l1_offset + l1_clusters * cluster;
        let data_offset = l2_offset + l1_entries * cluster;
        Layout { table_clusters, l1_entries, l1_offset, l2_offset, data_offset }
    }
}

/// Checks the header and the tables of a delta. None when its entries cannot be determined.
pub(super) fn check<'a>(
    raw: &'a [u8],
    number: usize,
    manifest: &Manifest,
    problems: &mut Problems,
) -> Option<Delta<'a>> {
    let name = format!("{}.qcow2", manifest.revisions[number].uuid);
    let image = match Qcow2::parse(raw) {
        Ok(image) => image,
        Err(sentence) => {
            problems.add(format!("{name}: {sentence}"));
            return None;
        }
    };
    // Formatted only when it does not hold.
    let mut expect =
        |is_so, what: fmt::Arguments| problems.expect(is_so, || format!("{name}: {what}"));
    if !expect(image.cluster == manifest.block_size, format_args!("clusters of {}", image.cluster))
    {
        return None;
    }
    let virtual_bytes = manifest.revisions[number].size_bytes.next_multiple_of(512);
    expect(
        image.virtual_bytes == virtual_bytes,
        format_args!("virtual size {}", image.virtual_bytes),
    );
    let features = image.incompatible & !1;
    expect(features == 8, format_args!("incompatible features {features:#x}"));
    let is_writing = manifest.is_merging(number) || (number == 0 && manifest.has_overlay());
    expect(!image.is_dirty() || is_writing, format_args!("the dirty bit is set"));
    expect(image.head_end <= 512, format_args!("the header ends at {}", image.head_end));
    let padding = image.bytes(512, image.cluster - 512).unwrap_or_default();
    expect(is_zero(padding), format_args!("no zeros behind the header"));
    let extensions: &[u32] = if image.backing.is_some() { &[0xe279_2aca] } else { &[] };
    expect(image.extensions == extensions, format_args!("extensions {:x?}", image.extensions));
    let format = image.backing.as_deref().map(|backing| match backing {
        "last.raw" => "raw",
        _ => "qcow2",
    });
    let found = image.backing_format.as_deref();
    expect(found == format, format_args!("backing file format {found:?}, expected {format:?}"));
    let allowed = backing_files(number, manifest);
    let found = &image.backing;
    expect(
        allowed.contains(found),
        format_args!("backing file {found:?}, expected one of {allowed:?}"),
    );
    let layout = Layout::new(image.cluster, virtual_bytes);
    let places = [
        ("reference count table", image.table_offset, image.cluster),
        ("clusters of the reference count table", image.table_clusters, layout.table_clusters),
        ("L1 table", image.l1_offset, layout.l1_offset),
        ("entries of the L1 table", image.l1_entries, layout.l1_entries),
    ];
    let mut is_laid_out = true;
    for (what, found, expected) in places {
        is_laid_out &=
            expect(found == expected, format_args!("{what} {found}, expected {expected}"));
    }
    for table in 0..layout.l1_entries {
        let expected = (1 << 63) | (layout.l2_offset + table * image.cluster);
        let found = image.l1_entry(table);
        is_laid_out &= expect(found == expected, format_args!("L1 entry {table} is {found:#x}"));
    }
    if !is_laid_out {
        return None;
    }
    let mut held = BTreeMap::new();
    let blocks = virtual_bytes.div_ceil(image.cluster);
    for block in 0..layout.l1_entries * (image.cluster / 8) {
        match image.entry(block) {
            Entry::NotHeld => {}
            entry if block >= blocks => {
                expect(false, format_args!("block {block} is behind the end: {entry:x?}"));
            }
            entry => {
                held.insert(block, entry);
            }
        }
    }
    let delta = Delta { image, held };
    delta.check_places(&name, &layout, problems);
    Some(delta)
}

/// Which backing files the delta of a revision may name at this moment.
fn backing_files(number: usize, manifest: &Manifest) -> Vec<Option<String>> {
    let file = |number: usize| match number {
        0 => "last.raw".to_owned(),
        _ => format!("{}.qcow2", manifest.revisions[number].uuid),
    };
    let mut allowed = match number.checked_sub(1) {
        None => vec![Some(file(0))],
        Some(_) if manifest.is_standalone(number) => vec![None],
        Some(base) => vec![Some(file(base))],
    };
    if number == 1 && manifest.has_overlay() && !manifest.is_standalone(1) {
        allowed.push(Some(format!("{}.qcow2", manifest.revisions[0].uuid)));
    }
    if number == 0 && manifest.in_progress.as_ref().is_some_and(|p| p.operation == "remove") {
        // The delta of a standalone revision that becomes the image.
        allowed.push(None);
    }
    if manifest.is_merging(number) {
        // Already its new base, or none: it becomes standalone.
        allowed.push(None);
        allowed.extend((0..number).map(|newer| Some(file(newer))));
    }
    allowed
}

impl Delta<'_> {
    pub(super) fn is_dirty(&self) -> bool {
        self.image.is_dirty()
    }

    pub(super) fn has_backing(&self) -> bool {
        self.image.backing.is_some()
    }

    /// Checks that each cluster is where data may be, overlaps no other, and is counted as often as it is referred
    /// to.
    fn check_places(&self, name: &str, layout: &Layout, problems: &mut Problems) {
        let (image, cluster) = (&self.image, self.image.cluster);
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut count = |offset: u64, bytes: u64| {
            for host in offset / cluster..(offset + bytes).div_ceil(cluster) {
                *counts.entry(host).or_default() += 1;
            }
        };
        count(0, layout.data_offset);
        // What the data is in, ascending by offset, with its exact length.
        let mut spans = Vec::new();
        for (block, entry) in &self.held {
            let (offset, bytes, exact) = match *entry {
                Entry::Plain(offset) => (offset, cluster, cluster),
                Entry::Compressed(offset, bytes) => {
                    let stored = image.raw.get(offset as usize..).unwrap_or_default();
                    let exact = zstd_safe::find_frame_compressed_size(stored);
                    (offset, bytes, exact.map_or(bytes, |exact| exact as u64))
                }
                Entry::Wrong(raw) => {
                    problems.add(format!("{name}: the entry of block {block} is {raw:#018x}"));
                    continue;
                }
                Entry::NotHeld | Entry::Zero => continue,
            };
            let is_inside = offset >= layout.data_offset && offset < image.raw.len() as u64;
            if problems.expect(is_inside, || format!("{name}: block {block} is at {offset:#x}")) {
                count(
                    offset,
                    bytes.min((image.raw.len() as u64).next_multiple_of(cluster) - offset),
                );
                spans.push((offset, exact, *block));
            }
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            problems.expect(pair[0].0 + pair[0].1 <= pair[1].0, || {
                format!("{name}: blocks {} and {} overlap", pair[0].2, pair[1].2)
            });
        }
        if self.is_dirty() {
            return;
        }
        let per_block = cluster / 2;
        let blocks = image.refcount_blocks();
        for &place in blocks.iter().filter(|place| **place != 0) {
            let is_right = place >= layout.data_offset
                && place.is_multiple_of(cluster)
                && place + cluster <= image.raw.len() as u64;
            if !problems
                .expect(is_right, || format!("{name}: a reference count block at {place:#x}"))
            {
                return;
            }
            count(place, cluster);
        }
        let hosts = (image.raw.len() as u64).div_ceil(cluster);
        // Both ascend: one walk through both.
        let mut referred = counts.iter().peekable();
        for (number, &place) in (0..).zip(&blocks) {
            let first = number * per_block;
            let mut compare = |host: u64, found: u64, expected: u64| {
                // A cluster that nothing refers to may stay allocated.
                let is_kept = expected == 0 && found == 1 && host < hosts;
                problems.expect(found == expected || is_kept, || {
                    format!("{name}: cluster {host} is counted {found} times, expected {expected}")
                });
            };
            if place == 0 {
                // Without a block nothing is counted. Where nothing is referred to, that is right.
                while let Some((&host, &expected)) =
                    referred.next_if(|(host, _)| **host < first + per_block)
                {
                    compare(host, 0, expected);
                }
                continue;
            }
            for host in first..first + per_block {
                let expected = referred.next_if(|(counted, _)| **counted == host);
                let found = image.refcount(place, host - first);
                compare(host, found.into(), expected.map_or(0, |(_, count)| *count));
            }
        }
    }

    /// Checks the content of all blocks that it holds against their digests.
    pub(super) fn check_content(
        &self,
        number: usize,
        manifest: &Manifest,
        table: &Table,
        problems: &mut Problems,
    ) {
        let revision = &manifest.revisions[number];
        let name = format!("{}.qcow2", revision.uuid);
        let mut decompressor = Decompressor::new().expect("memory for zstd");
        for (block, entry) in &self.held {
            let digest = table.entry(*block);
            let is_bad = revision.bad_blocks.contains(block);
            problems.expect(digest != LOST || is_bad, || {
                format!("{name}: block {block} is lost and not among the bad blocks")
            });
            if is_bad {
                continue;
            }
            let mut expect = |is_so, what: &str| {
                problems.expect(is_so, || format!("{name}: block {block}: {what}"))
            };
            if *entry == Entry::Zero {
                expect(digest == ZERO, "a zero cluster with another digest");
                continue;
            }
            let content = match self.read(*entry, &mut decompressor) {
                Ok(content) => content,
                Err(sentence) => {
                    expect(false, &sentence);
                    continue;
                }
            };
            let (own, padding) = content.split_at(manifest.block_bytes(number, *block));
            expect(!is_zero(own), "is zero, and no zero cluster");
            expect(is_zero(padding), "not padded with zeros");
            expect(sha256(&[own]) == digest, "is not what its digest says");
        }
    }

    fn read(&self, entry: Entry, decompressor: &mut Decompressor) -> Result<Vec<u8>, String> {
        let cluster = self.image.cluster;
        match entry {
            Entry::Plain(offset) => {
                let bytes = self.image.bytes(offset, cluster);
                Ok(bytes.ok_or("behind the end of the file")?.to_vec())
            }
            Entry::Compressed(offset, reach) => {
                let stored = self.image.raw.get(offset as usize..).unwrap_or_default();
                let exact = zstd_safe::find_frame_compressed_size(stored)
                    .map_err(|_| "no whole zstd frame".to_owned())?;
                if stored.get(4).is_none_or(|descriptor| descriptor & 4 == 0) {
                    return Err("a zstd frame without a checksum".to_owned());
                }
                if exact as u64 + 512 > cluster {
                    return Err(format!("a frame of {exact} bytes is not worth it"));
                }
                if exact as u64 > reach || exact as u64 + 512 <= reach {
                    return Err(format!("a frame of {exact} bytes in sectors for {reach}"));
                }
                let content = decompressor.decompress(&stored[..exact], cluster as usize);
                let content = content.map_err(|error| format!("a bad zstd frame: {error}"))?;
                match content.len() as u64 == cluster {
                    true => Ok(content),
                    false => Err(format!("a frame of {} bytes of content", content.len())),
                }
            }
            Entry::NotHeld | Entry::Zero | Entry::Wrong(_) => Err(format!("{entry:x?}")),
        }
    }
}
