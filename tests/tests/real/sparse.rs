//! Files of many gigabytes that are nearly all holes, and cost nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use backy_lib::storage::sim::Random;
use rustix::fs::{SeekFrom, seek};

use crate::site::noise;

/// What is compared at a time.
const STEP_BYTES: u64 = 1 << 20;

/// The content of a file: its length, and what is where in it. All the rest is zero.
#[derive(Clone)]
pub(crate) struct Sparse {
    pub(crate) len: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    /// All zero.
    pub(crate) fn new(len: u64) -> Self {
        Sparse { len, pieces: BTreeMap::new() }
    }

    /// Noise at a place, instead of what begins there.
    pub(crate) fn put(&mut self, seed: u64, offset: u64, bytes: usize) {
        assert!(offset + bytes as u64 <= self.len, "past the end");
        self.pieces.insert(offset, noise(seed, bytes));
    }

    /// Zeros instead of the piece that begins at a place.
    pub(crate) fn clear(&mut self, offset: u64) {
        self.pieces.remove(&offset).expect("a piece begins there");
    }

    /// Cuts it, or adds zeros.
    pub(crate) fn resize(&mut self, len: u64) {
        self.pieces.retain(|&offset, bytes| {
            bytes.truncate(len.saturating_sub(offset) as usize);
            !bytes.is_empty()
        });
        self.len = len;
    }

    /// The places of its pieces and their lengths.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, usize)> {
        self.pieces.iter().map(|(&offset, bytes)| (offset, bytes.len()))
    }

    /// Bytes that are not in holes, by whole pages.
    pub(crate) fn data_bytes(&self) -> u64 {
        let pages = |(offset, len): (u64, usize)| {
            (offset + len as u64).next_multiple_of(4096) - offset / 4096 * 4096
        };
        self.places().map(pages).sum()
    }

    /// What it holds at a place.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (&at, piece) in &self.pieces {
            let start = at.max(offset);
            let end = (at + piece.len() as u64).min(offset + len as u64);
            if start < end {
                let part = &piece[(start - at) as usize..(end - at) as usize];
                bytes[(start - offset) as usize..(end - offset) as usize].copy_from_slice(part);
            }
        }
        bytes
    }

    /// Makes a file of it, with holes.
    pub(crate) fn write(&self, path: &Path) {
        let _ = fs::remove_file(path);
        self.write_over(&File::create(path).expect("make a sparse file"));
    }

    /// Makes an empty file, or a device of zeros, hold it.
    pub(crate) fn write_over(&self, file: &File) {
        if file.metadata().expect("look up a file").is_file() {
            file.set_len(self.len).expect("set its length");
        }
        for (&offset, bytes) in &self.pieces {
            file.write_all_at(bytes, offset).expect("write a piece");
        }
        file.sync_all().expect("sync a sparse file");
    }

    /// Checks all of a file: where it has data as well as where it should have some. Its holes are not read.
    pub(crate) fn check(&self, what: &str, path: &Path) {
        let file = File::open(path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = file.metadata().expect("look up a file");
        assert!(!found.is_file() || found.size() == self.len, "{what}: {} bytes", found.size());
        let mut offset = 0;
        while let Ok(start) = seek(&file, SeekFrom::Data(offset)) {
            let end = seek(&file, SeekFrom::Hole(start)).expect("the end of the data");
            let mut at = start;
            while at < end.min(self.len) {
                let step = (end.min(self.len) - at).min(STEP_BYTES);
                self.check_at(what, at, step as usize, |buffer, at| file.read_exact_at(buffer, at));
                at += step;
            }
            offset = end;
        }
        self.check_places(what, |buffer, at| file.read_exact_at(buffer, at));
    }

    /// Checks each piece with its surroundings, the first bytes and the last, and the places that an offset cut to 32
    /// bits would lead to.
    pub(crate) fn check_places(
        &self,
        what: &str,
        read: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
    ) {
        let mut places: Vec<(u64, u64)> = vec![(0, 4096), (self.len.saturating_sub(4096), 4096)];
        for (offset, len) in self.places() {
            places.push((offset.saturating_sub(5000), len as u64 + 10_000));
            places.push((offset & u64::from(u32::MAX), len as u64));
        }
        for (offset, len) in places {
            let len = len.min(self.len.saturating_sub(offset));
            self.check_at(what, offset, len as usize, &read);
        }
    }

    fn check_at(
        &self,
        what: &str,
        offset: u64,
        len: usize,
        read: impl Fn(&mut [u8], u64) -> std::io::Result<()>,
    ) {
        let mut found = vec![0xee; len];
        read(&mut found, offset)
            .unwrap_or_else(|error| panic!("{what}: {len} bytes at {offset}: {error}"));
        assert!(found == self.bytes(offset, len), "{what}: wrong bytes in {len} at {offset}");
    }
}

/// States of a source of `len` bytes, oldest first, which change on both sides of the place `border` as well as where
/// an offset without its upper half leads to. The second one grows. The last one is shorter, but ends behind the
/// border, too.
pub(crate) fn states(seed: u64, border: u64, block_bytes: u64) -> Vec<Sparse> {
    let mut seeds = Random(seed);
    let len = border + 40 * block_bytes;
    let mut state = Sparse::new(len);
    let size = block_bytes.min(128 << 10) as usize;
    let mut put = |state: &mut Sparse, block: u64, within: u64, bytes: usize| {
        state.put(seeds.number(), block * block_bytes + within, bytes);
    };
    let past = border / block_bytes;
    // Low, and at the same places behind the border; across it; the last bytes.
    for block in [1, 3, 7] {
        put(&mut state, block, 0, size);
        put(&mut state, past + block, 0, size);
    }
    put(&mut state, past - 1, block_bytes - 700, 1500);
    put(&mut state, past + 39, block_bytes - 999, 999);
    let first = state.clone();

    state.resize(len + 5 * block_bytes + 123);
    put(&mut state, past + 3, 0, size);
    put(&mut state, past + 11, 77, size / 2);
    put(&mut state, past + 45, 0, 100);
    state.clear((past + 7) * block_bytes);
    put(&mut state, 9, 0, 5000);
    let second = state.clone();

    state.resize(len - 10 * block_bytes - 51);
    put(&mut state, past + 1, 0, size);
    state.clear((past + 11) * block_bytes + 77);
    state.clear(3 * block_bytes);
    put(&mut state, past + 29, block_bytes - 500, 449);
    vec![first, second, state]
}
