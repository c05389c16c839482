//! The files of an archive, written here block by block, next to what its revisions must read as.

use std::sync::Arc;

use jiff::Timestamp;
use tempfile::TempDir;

use super::super::{Chain, Located};
use crate::base::digest::{RevisionHasher, TableEntry, is_zero};
use crate::base::error::Result;
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::digests::DigestsHeader;
use crate::format::manifest::{Manifest, Revision, Statistics};
use crate::format::qcow2::{Compressor, Decompressor, Layout};
use crate::image::delta::{DeltaWriter, OldBlock, StoredBlock};
use crate::image::digests::DigestWriter;
use crate::storage::dir::DirStorage;
use crate::storage::manifest;
use crate::storage::{Access, DigestsKind, FileName, Storage};

pub(super) const SIZE: BlockSize = BlockSize::MIN;
pub(super) const BLOCK: usize = 4096;

/// Numbers that depend only on the seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// The state after some time, with this many bytes: blocks are kept, become zero, text or noise.
    pub(super) fn state(&mut self, before: &[u8], bytes: usize) -> Vec<u8> {
        let mut state = before.to_vec();
        state.resize(bytes, 0);
        for block in state.chunks_mut(BLOCK) {
            match self.below(6) {
                0 => block.fill(0),
                1 => block.fill(self.below(255) as u8 + 1),
                2 => block.iter_mut().for_each(|byte| *byte = self.below(256) as u8),
                _ => {}
            }
        }
        state
    }
}

/// Revisions as they must read, newest first, and the files that hold them.
pub(super) struct Scene {
    pub(super) storage: Arc<dyn Storage>,
    _folder: TempDir,
    pub(super) manifest: Manifest,
    pub(super) states: Vec<Vec<u8>>,
    /// Which blocks the files of the older revisions hold.
    pub(super) held: Vec<Vec<bool>>,
}

impl Scene {
    pub(super) fn new(states: &[Vec<u8>], standalone: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> =
            Arc::new(DirStorage::create(&folder.path().join("a")).unwrap());
        let mut manifest = Manifest::new(SIZE);
        for (number, state) in states.iter().enumerate().rev() {
            manifest.push_newest(revision(number, state));
        }
        for &number in standalone {
            manifest.revisions[number].base = None;
        }
        let mut scene = Scene {
            storage,
            _folder: folder,
            manifest,
            states: states.to_vec(),
            held: vec![Vec::new()],
        };
        let image = scene.storage.create(FileName::IMAGE).unwrap();
        image.write_at(&states[0], 0).unwrap();
        let all = vec![true; states[0].len().div_ceil(BLOCK)];
        scene.write_digests(0, DigestsKind::Image, &all);
        for number in 1..states.len() {
            let held = match standalone.contains(&number) {
                true => states[number].chunks(BLOCK).map(|block| !is_zero(block)).collect(),
                false => differing(&states[number], &states[number - 1]),
            };
            scene.write_delta(number, &held);
            scene.write_digests(number, DigestsKind::Delta, &held);
            scene.held.push(held);
        }
        scene.publish();
        scene
    }

    /// Some revisions of random sizes and contents.
    pub(super) fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut states: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..5 {
            let bytes = random.below(10) * BLOCK + [0, 1, 700, BLOCK - 1][random.below(4)];
            states.push(random.state(&states[states.len() - 1], bytes));
        }
        states.remove(0);
        let standalone: Vec<usize> =
            [random.below(9)].into_iter().filter(|n| (1..5).contains(n)).collect();
        Self::new(&states, &standalone)
    }

    pub(super) fn revision(&self, number: usize) -> &Revision {
        &self.manifest.revisions[number]
    }

    pub(super) fn publish(&mut self) {
        manifest::publish(&*self.storage, &self.manifest).unwrap();
        self.manifest = manifest::read(&*self.storage).unwrap();
    }

    pub(super) fn write_delta(&self, number: usize, held: &[bool]) {
        let id = self.revision(number).uuid;
        let bytes = self.states[number].len() as u64;
        let mut writer = DeltaWriter::create(&*self.storage, id, SIZE, bytes).unwrap();
        let mut compressor = Compressor::new(1).unwrap();
        let blocks = self.states[number].chunks(BLOCK).enumerate().filter(|(at, _)| held[*at]);
        let blocks: Vec<OldBlock> = blocks
            .map(|(at, bytes)| {
                let mut whole = bytes.to_vec();
                whole.resize(BLOCK, 0);
                let zero = is_zero(&whole);
                let content = if zero { StoredBlock::Zero } else { compressor.store(&whole) };
                OldBlock { block: BlockIndex(at as u64), content }
            })
            .collect();
        writer.append(&blocks).unwrap();
        writer.enter().unwrap();
        writer.finish().unwrap();
    }

    pub(super) fn write_digests(&self, number: usize, kind: DigestsKind, held: &[bool]) {
        let revision = self.revision(number);
        let mut writer = DigestWriter::create(
            &*self.storage,
            (revision.uuid, kind),
            SIZE.count(revision.size_bytes),
        )
        .unwrap();
        for (at, entry) in entries(&self.states[number]).enumerate().filter(|(at, _)| held[*at]) {
            writer.push(BlockIndex(at as u64), entry).unwrap();
        }
        writer.finish(&DigestsHeader::new(kind, revision, SIZE)).unwrap();
    }

    pub(super) fn open(&self, number: usize) -> Result<Chain> {
        Chain::open(&self.storage, &self.manifest, number)
    }

    pub(super) fn tolerant(&self, number: usize) -> Chain {
        Chain::open_tolerant(&self.storage, &self.manifest, number).unwrap()
    }

    /// Changes bytes of a file.
    pub(super) fn poke(&self, name: FileName, offset: u64, bytes: &[u8]) {
        self.storage.open(name, Access::Write).unwrap().write_at(bytes, offset).unwrap();
    }

    /// Where the entry of a block is in the tables of a delta.
    pub(super) fn entry_at(&self, number: usize, block: usize) -> u64 {
        Layout::new(SIZE, self.states[number].len() as u64).l2_offset + 8 * block as u64
    }

    /// The number of the file that a block of a revision comes from; `None` when it is zero without being held.
    pub(super) fn holder(&self, number: usize, block: usize) -> Option<usize> {
        for at in (1..=number).rev() {
            match self.held[at].get(block) {
                Some(true) => return Some(at),
                Some(false) if !self.revision(at).is_standalone() => {}
                _ => return None,
            }
        }
        (block < self.states[0].len().div_ceil(BLOCK)).then_some(0)
    }
}

pub(super) fn revision(number: usize, state: &[u8]) -> Revision {
    let time = Timestamp::from_second(1_000_000 - number as i64).unwrap();
    let mut hasher = RevisionHasher::new(SIZE, state.len() as u64);
    entries(state).for_each(|entry| hasher.push(entry));
    let (id, bytes) = (RevisionId::new(time), state.len() as u64);
    Revision::newest(id, time, time, bytes, hasher.finish(), Statistics::default())
}

pub(super) fn entries(state: &[u8]) -> impl Iterator<Item = TableEntry> {
    state.chunks(BLOCK).map(TableEntry::of_block)
}

/// Which blocks an older revision must hold itself: those that the newer one has with other content, or with another
/// length. Everything past its end is zero.
pub(super) fn differing(older: &[u8], newer: &[u8]) -> Vec<bool> {
    let mut newer = newer.chunks(BLOCK);
    older.chunks(BLOCK).map(|block| newer.next().map_or(!is_zero(block), |n| n != block)).collect()
}

pub(super) fn read(chain: &Chain, first: usize, located: &[Located]) -> Result<Vec<u8>> {
    let from = (first * BLOCK).min(chain.revision().size_bytes as usize);
    let to = ((first + located.len()) * BLOCK).min(chain.revision().size_bytes as usize);
    let mut bytes = vec![0xee; to - from];
    chain.read(BlockIndex(first as u64), located, &mut Decompressor::new()?, &mut bytes)?;
    Ok(bytes)
}

pub(super) fn read_all(chain: &Chain) -> Result<Vec<u8>> {
    read(chain, 0, &chain.locate(BlockIndex(0), chain.blocks())?)
}

/// What a tolerant chain returns, and which blocks it reports as lost.
pub(super) fn read_tolerant(chain: &Chain) -> (Vec<u8>, Vec<u64>) {
    let located = chain.locate(BlockIndex(0), chain.blocks()).unwrap();
    let mut bytes = vec![0xee; chain.revision().size_bytes as usize];
    let mut tools = Decompressor::new().unwrap();
    let lost = chain.read_tolerant(BlockIndex(0), &located, &mut tools, &mut bytes).unwrap();
    (bytes, lost.into_iter().map(|block| block.0).collect())
}

/// The state with these blocks zero.
pub(super) fn without(state: &[u8], lost: &[u64]) -> Vec<u8> {
    let mut state = state.to_vec();
    for (at, block) in state.chunks_mut(BLOCK).enumerate() {
        if lost.contains(&(at as u64)) {
            block.fill(0);
        }
    }
    state
}
