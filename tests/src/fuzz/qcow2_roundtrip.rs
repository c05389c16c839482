//! Any set of blocks, of any kind and block size, written as a delta in any number of sessions: it reads back equal.
//!
//! `tests/tests/corpus.rs` passes what the seeds make to QEMU, which has to find the same.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use backy_lib::format::qcow2::{Backing, Cluster, Compressor, Decompressor};
use backy_lib::image::delta::{self, Delta, DeltaWriter, OldBlock, StoredBlock};
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::storage::{FileName, Storage};
use backy_lib::units::BlockIndex;
use backy_lib::{BlockSize, RevisionId};

/// Binary logarithms of block sizes; the small ones make many blocks of few bytes.
const BITS: [u32; 8] = [12, 12, 12, 13, 14, 16, 18, 21];
/// No image is larger, but for one of two blocks.
const MAX_BYTES: u64 = 1 << 20;
const SESSIONS: u8 = 3;

/// What one block is.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Drawn {
    skip: u8,
    session: u8,
    content: Content,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Content {
    Zero,
    Fill(u8),
    Words([u8; 5]),
    Noise(u64),
    /// Stored as it is although it could be compressed.
    Plain(u8),
    /// Nearly too long for a compressed one.
    Mixed(u64, u16),
}

#[derive(Debug, Arbitrary)]
struct Input {
    bits: u8,
    size: u32,
    backing: Option<u16>,
    level: u8,
    repair: bool,
    blocks: Vec<Drawn>,
}

/// A delta as it was written, and what it has to read as.
pub struct Written {
    /// Its revision.
    pub revision: RevisionId,
    /// Its block size, and cluster size.
    pub block_size: BlockSize,
    /// Size of the image in bytes.
    pub size_bytes: u64,
    /// Where it is.
    pub disk: SimStorage,
    /// The image that it reads through to.
    pub backing: Vec<u8>,
    /// What it holds itself.
    pub held: BTreeMap<BlockIndex, Vec<u8>>,
}

impl Written {
    /// The image, read over its backing file.
    pub fn expected(&self) -> Vec<u8> {
        let mut image = self.backing.clone();
        image.resize(self.size_bytes as usize, 0);
        for (block, content) in &self.held {
            let extent = self.block_size.extent(*block, self.size_bytes);
            let part = &mut image[extent.offset as usize..extent.end() as usize];
            part.copy_from_slice(&content[..part.len()]);
        }
        image
    }
}

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    backy_lib::limits::use_small();
    if let Some(written) = write(data) {
        check(&written);
    }
}

/// Writes what the input says.
///
/// # Panics
/// When that fails.
pub fn write(data: &[u8]) -> Option<Written> {
    let input = Input::arbitrary_take_rest(Unstructured::new(data)).ok()?;
    let bits = BITS[usize::from(input.bits) % BITS.len()];
    let block_size = BlockSize::new(1 << bits).expect("a block size");
    let size_bytes = u64::from(input.size) % MAX_BYTES.max(2 * block_size.bytes());
    let revision = RevisionId::from(uuid::Uuid::from_u128(0x0193_f000));
    let backing = backing(&input, size_bytes);
    let mut written = Written {
        revision,
        block_size,
        size_bytes,
        disk: SimStorage::new(false),
        backing,
        held: BTreeMap::new(),
    };
    let sessions = sessions(&input, &mut written);
    for (number, blocks) in sessions.into_iter().enumerate() {
        write_session(&written, number == 0, blocks);
    }
    if input.repair {
        let backing = Some(Backing::IMAGE);
        let free = delta::Unreferenced::Free;
        delta::repair(&written.disk, revision, block_size, size_bytes, backing, free)
            .expect("a repair");
    }
    Some(written)
}

fn backing(input: &Input, size_bytes: u64) -> Vec<u8> {
    let Some(len) = input.backing else { return Vec::new() };
    let len = u64::from(len) * 64 % (size_bytes + 512);
    let mut random = Random(u64::from(input.size));
    (0..len / 512).flat_map(|_| [random.number() as u8; 512]).collect()
}

/// The blocks by session, each block in one of them.
fn sessions(input: &Input, written: &mut Written) -> Vec<Vec<OldBlock>> {
    let mut compressor = Compressor::new(i32::from(input.level) % 19 + 1).expect("memory");
    let mut sessions: Vec<Vec<OldBlock>> = (0..SESSIONS).map(|_| Vec::new()).collect();
    let blocks = written.block_size.count(written.size_bytes);
    let mut next = 0;
    for Drawn { skip, session, content } in &input.blocks {
        // Mostly neighbours.
        next += u64::from(skip.saturating_sub(200));
        if next >= blocks {
            break;
        }
        let block = BlockIndex(next);
        next += 1;
        let mut bytes = bytes(*content, written.block_size.len());
        // A short last block is padded with zeros.
        let len = written.block_size.extent(block, written.size_bytes).len as usize;
        bytes[len..].fill(0);
        let stored = match content {
            Content::Zero => StoredBlock::Zero,
            Content::Plain(_) => StoredBlock::Plain(bytes.clone()),
            _ if bytes.iter().all(|&byte| byte == 0) => StoredBlock::Zero,
            _ => compressor.store(&bytes),
        };
        sessions[usize::from(session % SESSIONS)].push(OldBlock { block, content: stored });
        written.held.insert(block, bytes);
    }
    sessions
}

fn bytes(content: Content, len: usize) -> Vec<u8> {
    let noise = |seed| {
        let mut random = Random(seed);
        (0..len.div_ceil(8)).flat_map(move |_| random.number().to_le_bytes()).take(len)
    };
    match content {
        Content::Zero => vec![0; len],
        Content::Fill(byte) | Content::Plain(byte) => vec![byte; len],
        Content::Words(words) => (0..len).map(|at| words[at / 7 % words.len()]).collect(),
        Content::Noise(seed) => noise(seed).collect(),
        Content::Mixed(seed, quiet) => {
            let quiet = usize::from(quiet) % (len + 1);
            noise(seed).enumerate().map(|(at, byte)| if at < quiet { 7 } else { byte }).collect()
        }
    }
}

fn write_session(written: &Written, first: bool, blocks: Vec<OldBlock>) {
    let Written { disk, revision, block_size, size_bytes, .. } = written;
    let mut writer = match first {
        true => DeltaWriter::create(disk, *revision, *block_size, *size_bytes),
        false => DeltaWriter::reopen(disk, *revision, *block_size, *size_bytes),
    }
    .expect("a writer");
    // In two batches, the second of which is empty where there is one block only.
    let (early, late) = blocks.split_at(blocks.len().div_ceil(2));
    for batch in [early, late] {
        writer.append(batch).expect("an append");
        writer.sync().expect("a sync");
        writer.enter().expect("entries");
        writer.sync().expect("a sync");
    }
    assert!(!writer.finish().expect("an end").header().dirty);
}

/// What it holds is what was written, block by block, and nothing else.
fn check(written: &Written) {
    let Written { disk, revision, block_size, size_bytes, held, .. } = written;
    let delta = Delta::open(disk, *revision, *block_size, *size_bytes).expect("our own delta");
    assert_eq!(delta.header().backing, Some(Backing::IMAGE));
    let blocks = block_size.count(*size_bytes);
    let clusters = delta.clusters(BlockIndex(0), blocks).expect("its tables");
    assert_eq!(clusters.len() as u64, blocks);
    let mut decompressor = Decompressor::new().expect("memory");
    let mut buffer = vec![0; block_size.len()];
    for (cluster, number) in clusters.iter().zip(0..) {
        let block = BlockIndex(number);
        let Some(content) = held.get(&block) else {
            assert_eq!(*cluster, Cluster::Unallocated, "block {block}");
            continue;
        };
        assert_ne!(*cluster, Cluster::Unallocated, "block {block}");
        delta.read_cluster(*cluster, &mut decompressor, &mut buffer).expect("a block of ours");
        assert!(buffer == *content, "block {block} has other bytes");
        check_stored(&delta, *cluster, content, &mut decompressor);
        assert_eq!(delta.clusters(block, 1).expect("its tables"), [*cluster]);
    }
    check_search(&delta, held, blocks);
    check_rebase(disk, *revision);
}

/// The stored form, as a merge copies it, has the same content.
fn check_stored(delta: &Delta, cluster: Cluster, content: &[u8], decompressor: &mut Decompressor) {
    match delta.read_stored(cluster).expect("its stored form") {
        StoredBlock::Zero => assert!(content.iter().all(|&byte| byte == 0)),
        StoredBlock::Plain(bytes) => assert!(bytes == content),
        StoredBlock::Compressed(frame) => {
            let mut out = vec![0; content.len()];
            decompressor.decompress(&frame, &mut out).expect("a frame");
            assert!(out == content);
        }
    }
}

/// A search never skips a held block, and only returns blocks that are inside.
fn check_search(delta: &Delta, held: &BTreeMap<BlockIndex, Vec<u8>>, blocks: u64) {
    let end = BlockIndex(blocks);
    for from in held.keys().copied().chain([BlockIndex(0), end]) {
        let found = delta.next_held_block(from, end).expect("a search");
        let first = held.range(from..).next().map(|(block, _)| *block);
        match (found, first) {
            (Some(found), _) => {
                assert!(found >= from && found < end, "{found}");
                assert!(first.is_none_or(|first| found <= first), "{first:?} was skipped");
            }
            (None, first) => assert_eq!(first, None, "from {from}"),
        }
    }
}

/// It contains no name but its own, and pointing it to itself again changes nothing.
fn check_rebase(disk: &SimStorage, revision: RevisionId) {
    let before = disk.files();
    assert_eq!(disk.list().expect("a list"), [FileName::Delta(revision)]);
    delta::rebase(disk, revision, Some(Backing::IMAGE)).expect("the same backing file");
    assert!(disk.files() == before, "a rebase to the same file changes bytes");
}
