//! The steps that the time of an operation is made of, each by itself: `make bench-micro`. What they are worth
//! together is for `make bench`; a change of one of these says where to look.

use std::path::Path;
use std::sync::Arc;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::digest::{self, Digest, TableEntry};
use backy_lib::format::qcow2::{Compressor, Decompressor};
use backy_lib::image::delta::{DeltaWriter, OldBlock};
use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::units::BlockIndex;
use backy_lib::{BackupOptions, BlockSize, RevisionId};
use backy_tests::memory::MemorySource;
use backy_tests::world;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

const BLOCK_BYTES: usize = 64 << 10;
/// What a backup works on at a time.
const CHUNK_BLOCKS: usize = 16;
const IMAGE_BLOCKS: usize = 512;

fn main() {
    divan::main();
}

/// Blocks that compress about two to one.
fn blocks(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let hex = |number: u64| format!("{number:016x}").into_bytes();
    (0..count * BLOCK_BYTES / 16).flat_map(|_| hex(random.number())).collect()
}

/// An archive with 64 KiB blocks on a simulated disk, which costs next to nothing.
fn archive() -> SimStorage {
    let disk = SimStorage::new(false);
    Archive::init_on(Arc::new(disk.clone()), Some(Path::new("/memory")), BlockSize::DEFAULT)
        .expect("an archive");
    disk
}

fn backup(disk: &SimStorage, state: &[u8]) {
    world::backup(disk, &MemorySource::new(state)).expect("a backup");
}

/// An archive of `revisions`, between any two of which three blocks in a hundred change.
fn chain(revisions: usize) -> SimStorage {
    let disk = archive();
    let mut random = Random(5);
    let mut state = blocks(1, IMAGE_BLOCKS);
    backup(&disk, &state);
    for number in 1..revisions {
        for _ in 0..IMAGE_BLOCKS * 3 / 100 {
            let at = random.below(IMAGE_BLOCKS as u64) as usize * BLOCK_BYTES;
            state[at..at + BLOCK_BYTES].copy_from_slice(&blocks(number as u64, 1));
        }
        backup(&disk, &state);
    }
    disk
}

mod digesting {
    use super::*;

    #[divan::bench]
    fn one_by_one(bencher: Bencher<'_, '_>) {
        let bytes = blocks(1, CHUNK_BLOCKS);
        bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
            black_box(&bytes).chunks(BLOCK_BYTES).map(Digest::of).collect::<Vec<_>>()
        });
    }

    #[divan::bench]
    fn side_by_side(bencher: Bencher<'_, '_>) {
        let bytes = blocks(1, CHUNK_BLOCKS);
        let expected: Vec<_> = bytes.chunks(BLOCK_BYTES).map(TableEntry::of_block).collect();
        bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
            TableEntry::of_blocks(black_box(&bytes).chunks(BLOCK_BYTES), &expected)
        });
    }

    /// Blocks that nobody expected: each is computed twice.
    #[divan::bench]
    fn side_by_side_and_again(bencher: Bencher<'_, '_>) {
        let bytes = blocks(1, CHUNK_BLOCKS);
        bencher
            .counter(BytesCount::new(bytes.len()))
            .bench_local(|| TableEntry::of_blocks(black_box(&bytes).chunks(BLOCK_BYTES), &[]));
    }

    #[divan::bench]
    fn zero_test(bencher: Bencher<'_, '_>) {
        let bytes = vec![0; CHUNK_BLOCKS * BLOCK_BYTES];
        bencher
            .counter(BytesCount::new(bytes.len()))
            .bench_local(|| digest::is_zero(black_box(&bytes)));
    }
}

/// A backup of which nothing has changed, on one thread: reading, digesting and comparing, and what every backup costs.
#[divan::bench(sample_count = 20)]
fn unchanged_backup(bencher: Bencher<'_, '_>) {
    let state = blocks(1, IMAGE_BLOCKS);
    let disk = archive();
    backup(&disk, &state);
    let source = MemorySource::new(&state);
    let options = BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() };
    bencher
        .counter(BytesCount::new(state.len()))
        .with_inputs(|| disk.fork())
        .bench_local_values(|disk| world::backup_with(&disk, &source, &options).expect("a backup"));
}

#[divan::bench(args = [1, 3, 9], sample_count = 20)]
fn compress(bencher: Bencher<'_, '_>, level: i32) {
    let bytes = blocks(1, CHUNK_BLOCKS);
    let mut compressor = Compressor::new(level).expect("memory");
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        black_box(&bytes)
            .chunks(BLOCK_BYTES)
            .map(|block| compressor.store(block))
            .collect::<Vec<_>>()
    });
}

/// Old blocks, compressed already, on their way into a delta.
#[divan::bench(sample_count = 50)]
fn delta_append(bencher: Bencher<'_, '_>) {
    let bytes = blocks(1, CHUNK_BLOCKS * 16);
    let mut compressor = Compressor::new(1).expect("memory");
    let stored = bytes.chunks(BLOCK_BYTES).map(|block| compressor.store(block));
    let old: Vec<OldBlock> = (0..)
        .zip(stored)
        .map(|(at, content)| OldBlock { block: BlockIndex(at), content })
        .collect();
    let id = RevisionId::from(uuid::Uuid::from_u128(0x0193_f000));
    let size = bytes.len() as u64;
    bencher
        .counter(ItemsCount::new(old.len()))
        .with_inputs(|| SimStorage::new(false))
        .bench_local_values(|disk| {
            let mut writer =
                DeltaWriter::create(&disk, id, BlockSize::DEFAULT, size).expect("a delta");
            writer.append(&old).expect("appended");
            writer.sync().expect("synced");
            writer.enter().expect("entered");
            writer.finish().expect("finished")
        });
}

/// Where the blocks of the oldest revision are.
#[divan::bench(args = [2, 10, 100], sample_count = 20)]
fn chain_look_up(bencher: Bencher<'_, '_>, revisions: usize) {
    let disk = chain(revisions);
    let archive = world::open(&disk).expect("an archive");
    let chain = archive.open_revision(archive.id(revisions - 1).unwrap()).expect("a chain");
    bencher
        .counter(ItemsCount::new(IMAGE_BLOCKS))
        .bench_local(|| chain.locate(BlockIndex(0), IMAGE_BLOCKS as u64).expect("located"));
}

/// Reading the oldest revision, located already.
#[divan::bench(args = [1, 10, 100], sample_count = 20)]
fn chain_read(bencher: Bencher<'_, '_>, revisions: usize) {
    let disk = chain(revisions);
    let archive = world::open(&disk).expect("an archive");
    let chain = archive.open_revision(archive.id(revisions - 1).unwrap()).expect("a chain");
    let located = chain.locate(BlockIndex(0), IMAGE_BLOCKS as u64).expect("located");
    let mut decompressor = Decompressor::new().expect("memory");
    let mut buffer = vec![0; IMAGE_BLOCKS * BLOCK_BYTES];
    bencher.counter(BytesCount::new(buffer.len())).bench_local(|| {
        chain.read(BlockIndex(0), &located, &mut decompressor, &mut buffer).expect("read")
    });
}

/// The removal of a revision in the middle: its blocks go to the one that is older.
#[divan::bench(sample_count = 20)]
fn merge(bencher: Bencher<'_, '_>) {
    let disk = chain(4);
    bencher
        .counter(ItemsCount::new(IMAGE_BLOCKS * 3 / 100))
        .with_inputs(|| disk.fork())
        .bench_local_values(|disk| {
            let archive = world::open(&disk).expect("an archive");
            let mut writer =
                ArchiveWriter::open(archive, "a benchmark", &Silent).expect("a writer");
            world::remove_by(&mut writer, &[2]).expect("a removal")
        });
}
