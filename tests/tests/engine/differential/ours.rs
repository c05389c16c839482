//! Archives that backy has written, read by QEMU.

use std::path::Path;
use std::sync::Arc;

use backy_lib::archive::Archive;
use backy_lib::format::qcow2::Cluster;
use backy_lib::image::delta::Delta;
use backy_lib::storage::dir::DirStorage;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::storage::{FileName, Storage};
use backy_lib::units::{BlockIndex, BlockSize};
use backy_tests::qemu;
use backy_tests::world::{self, Expected, World, fill_block};
use serde_json::Value;

use super::tools::{Case, output, qemu_img};

/// An archive without revisions, with any block size.
pub(crate) fn empty(block_size: BlockSize) -> World {
    let disk = SimStorage::new(false);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    Archive::init_on(storage, Some(Path::new("/memory")), block_size).expect("an archive");
    World { disk, expected: Vec::new() }
}

/// The state after some time: of any size, with about a third of the blocks changed.
pub(crate) fn later(random: &mut Random, state: &[u8], block_bytes: u64) -> Vec<u8> {
    let most = ((4 << 20) / block_bytes).clamp(3, 24);
    let blocks = 1 + random.below(most);
    let less = if random.below(4) == 0 { 0 } else { random.below(block_bytes) };
    let kept = state.len();
    let mut next = state.to_vec();
    next.resize((blocks * block_bytes - less) as usize, 0);
    for (block, number) in next.chunks_mut(block_bytes as usize).zip(0..) {
        if number * block_bytes as usize >= kept || random.below(3) == 0 {
            fill_block(random, block);
        }
    }
    next
}

/// Checks that QEMU reads all revisions as they were backed up, finds nothing wrong with the deltas, and has
/// each block where our reader has it.
fn qemu_agrees(world: &World, block_size: BlockSize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    qemu::write_out(&world.disk, folder.path());
    for number in 0..world.expected.len() {
        let found = world::read_revision(&world::open(&world.disk).expect("open"), number);
        let found = found.unwrap_or_else(|error| panic!("revision {number}: {error}"));
        assert!(found == world.expected[number].bytes, "revision {number}: wrong bytes");
    }
    qemu::check(folder.path(), &world.expected, 0, true).expect("QEMU agrees");
    for revision in &world.expected[1..] {
        has_the_same_map(folder.path(), revision, block_size);
    }
}

/// `qemu-img map` says of each block whether the delta holds it, and how.
fn has_the_same_map(folder: &Path, revision: &Expected, block_size: BlockSize) {
    let storage = DirStorage::open(folder).expect("the folder");
    let delta = Delta::open_any_size(&storage, revision.uuid, block_size).expect("a delta");
    let blocks = block_size.count(revision.bytes.len() as u64);
    let clusters = delta.clusters(BlockIndex(0), blocks).expect("its clusters");
    let name = FileName::Delta(revision.uuid).to_string();
    let map = qemu_img(folder, &["map", "--output=json", "-f", "qcow2", &name]);
    let map: Vec<Value> = serde_json::from_str(&map).expect("a map in JSON");
    let number = |extent: &Value, field: &str| extent[field].as_u64().expect("a number");
    for (cluster, block) in clusters.into_iter().zip(0..) {
        let start = block_size.offset(BlockIndex(block));
        let covers = |extent: &&Value| {
            (number(extent, "start")..number(extent, "start") + number(extent, "length"))
                .contains(&start)
        };
        let extent = map.iter().find(covers).expect("an extent for each block");
        let held = extent["depth"] == 0 && extent["present"] == true;
        // QEMU before 8.2 does not report compression, and compressed data has no offset.
        let compressed = match extent["compressed"].as_bool() {
            Some(compressed) => compressed,
            None => extent["data"] == true && extent["offset"].is_null(),
        };
        let agrees = match cluster {
            Cluster::Unallocated => !held,
            Cluster::Zero => held && extent["zero"] == true && extent["data"] == false,
            Cluster::Plain { offset } => {
                let into = start - number(extent, "start");
                held && !compressed && extent["offset"].as_u64() == Some(offset - into)
            }
            Cluster::Compressed { .. } => held && compressed,
        };
        assert!(agrees, "{name}: block {block}: found {cluster:?}, QEMU has {extent}");
    }
}

/// The revisions that are still there.
fn keep_committed(world: &mut World) {
    let archive = world::open(&world.disk).expect("open");
    world.expected.retain(|e| archive.revisions().iter().any(|r| r.uuid == e.uuid));
    assert_eq!(world.expected.len(), archive.revisions().len(), "revisions that are there");
}

fn history(seed: u64, block_size: BlockSize) {
    let _case = Case(format!("seed {seed} with blocks of {}", block_size.bytes()));
    let mut random = Random(seed ^ block_size.bytes());
    let mut world = empty(block_size);
    let mut state = Vec::new();
    for _ in 0..5 {
        state = later(&mut random, &state, block_size.bytes());
        world.backup(&state);
    }
    qemu_agrees(&world, block_size);
    // Merged away, with one or two of its neighbours.
    let first = 1 + random.below(2) as usize;
    let merged: Vec<usize> = (first..=first + random.below(2) as usize).collect();
    world.remove(&merged);
    qemu_agrees(&world, block_size);
    world.remove(&[0]);
    state = later(&mut random, &state, block_size.bytes());
    world.backup(&state);
    state = later(&mut random, &state, block_size.bytes());
    world.backup(&state);
    world::configure(&world.disk, "source = \"/memory\"\nmax_chain = 1\n");
    world::maintain(&world.disk, Some(4)).expect("maintenance");
    keep_committed(&mut world);
    qemu_agrees(&world, block_size);
    // What reads through to a standalone one, and what replaces it.
    world.backup(&later(&mut random, &state, block_size.bytes()));
    world.remove(&[1]);
    qemu_agrees(&world, block_size);
}

/// Histories with blocks of every supported size, of sources of odd sizes that grow and shrink, with removals and
/// standalone revisions: QEMU reads them as they were backed up and as our reader does.
#[test]
fn qemu_reads_what_backy_writes() {
    if !qemu::available() {
        return;
    }
    for bits in 12..=21 {
        for seed in 0..if bits <= 13 { 2 } else { 1 } {
            history(seed, BlockSize::new(1 << bits).expect("a block size"));
        }
    }
}

/// A block that was rotten when it moved to a delta is an I/O error for QEMU, too. QEMU reads everything else.
#[test]
fn a_bad_block_is_an_error_for_qemu() {
    if !qemu::available() {
        return;
    }
    const BAD: usize = 2;
    for (seed, block_size) in [BlockSize::MIN, BlockSize::DEFAULT].into_iter().enumerate() {
        let block = block_size.len();
        let mut random = Random(seed as u64);
        let states: Vec<Vec<u8>> =
            (0..2).map(|_| super::tools::noise(&mut random, 6 * block)).collect();
        let mut world = empty(block_size);
        world.backup(&states[0]);
        world.disk.tamper(FileName::IMAGE, |image| image[BAD * block + 100] ^= 1);
        world.backup(&states[1]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&world.disk, folder.path());
        let name = FileName::Delta(world.expected[1].uuid).to_string();
        qemu_img(folder.path(), &["check", "-q", "-f", "qcow2", &name]);
        let convert = ["convert", "-f", "qcow2", "-O", "raw", &name, "out"];
        let output = output("qemu-img", folder.path(), &convert);
        assert!(!output.status.success(), "a block that is known to be bad is given out");
        qemu_img(folder.path(), &[&["convert", "--salvage"][..], &convert[1..]].concat());
        let mut expected = states[0].clone();
        expected[BAD * block..(BAD + 1) * block].fill(0);
        let found = std::fs::read(folder.path().join("out")).expect("read what was salvaged");
        assert!(found == expected, "QEMU does not read the other blocks right");
    }
}
