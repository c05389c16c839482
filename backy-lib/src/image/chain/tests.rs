//! Chains over files that are written here block by block, next to plain vectors: what a chain returns for every
//! block, in every order of sizes, with damaged or missing files, and while the archive changes under it.

mod scene;

use super::{Chain, Place};
use crate::base::digest::is_zero;
use crate::base::error::{Error, ErrorKind};
use crate::base::progress::Silent;
use crate::base::units::BlockIndex;
use crate::format::digests::entry_offset;
use crate::format::manifest::Manifest;
use crate::storage::manifest;
use crate::storage::{DigestsKind, FileName};

use scene::*;

/// Whatever the sizes and contents: every revision reads as its state, as a whole and in pieces, from where the
/// blocks are held, and no data is ever skipped.
#[test]
fn any_chain_reads_as_its_revisions() {
    for seed in 0..30 {
        let scene = Scene::random(seed);
        for (number, state) in scene.states.iter().enumerate() {
            let chain = scene.open(number).unwrap();
            let blocks = state.len().div_ceil(BLOCK);
            assert_eq!(chain.blocks(), blocks as u64);
            assert!(chain.broken().is_none() && chain.block_size() == SIZE);
            chain.verify_digests(&Silent).unwrap();
            assert!(read_all(&chain).unwrap() == *state, "seed {seed}, {number}");
            let settled = (1..=number).any(|at| scene.revision(at).is_standalone());
            assert_eq!((chain.is_settled(), chain.is_image()), (settled, number == 0));
            let all = chain.locate(BlockIndex(0), u64::MAX).unwrap();
            assert_eq!(all.len(), blocks);
            for first in 0..=blocks {
                for count in [0, 1, 3] {
                    let some = chain.locate(BlockIndex(first as u64), count as u64).unwrap();
                    assert_eq!(some, all[first..blocks.min(first + count)], "{first} {count}");
                    let bytes = read(&chain, first, &some).unwrap();
                    assert!(state[(first * BLOCK).min(state.len())..].starts_with(&bytes));
                }
            }
            let data = |at: &usize| !is_zero(&state[at * BLOCK..state.len().min((at + 1) * BLOCK)]);
            for (at, located) in all.iter().enumerate() {
                let holder = scene.holder(number, at).filter(|_| data(&at));
                let place = match located.place {
                    Place::Zero => None,
                    Place::Image => Some(0),
                    Place::Layer(depth, _) => Some(number - depth),
                    Place::Lost => panic!("block {at} is lost"),
                };
                assert_eq!(place, holder, "seed {seed}, {number}, block {at}");
            }
            for from in 0..blocks + 2 {
                let block = BlockIndex(from as u64);
                let first = (from..blocks).find(data);
                let said = chain.next_data_block(block).unwrap().map(|block| block.0 as usize);
                let right = match (first, said) {
                    (Some(first), Some(said)) => (from..=first).contains(&said),
                    (None, Some(said)) => (from..blocks).contains(&said) && number > 0,
                    (first, None) => first.is_none(),
                };
                assert!(right, "seed {seed}, {number}: after {from} {said:?}, not {first:?}");
                let own = |at: &usize| number == 0 || scene.held[number][*at];
                let own = (from..blocks).find(own).map(|at| BlockIndex(at as u64));
                assert_eq!(chain.next_own_block(block).unwrap(), own, "seed {seed}, {number}");
            }
        }
        let error = scene.open(scene.states.len()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchRevision);
    }
}

/// A flipped bit anywhere in the data is an error that names the file and the block, or costs nothing. A reader that
/// keeps going loses that block and no other, in every revision that reads it and in no other.
#[test]
fn a_rotten_block_costs_itself() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let state = random.state(&[], 7 * BLOCK + 99);
        let mut states = vec![state];
        for _ in 0..3 {
            let next = random.state(&states[states.len() - 1], 7 * BLOCK + 99);
            states.push(next);
        }
        let scene = Scene::new(&states, &[]);
        let block = random.below(8);
        // The flipped byte is in the image, so the revisions that have it from there lose it.
        scene.poke(FileName::IMAGE, (block * BLOCK) as u64 + 98, &[!states[0][block * BLOCK + 98]]);
        for (number, state) in states.iter().enumerate() {
            let zero = is_zero(&states[0][block * BLOCK..states[0].len().min((block + 1) * BLOCK)]);
            let hit = scene.holder(number, block) == Some(0) && !zero;
            let chain = scene.open(number).unwrap();
            match read_all(&chain) {
                Ok(bytes) => assert!(!hit && bytes == *state, "seed {seed}, {number}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(hit && error.kind() == ErrorKind::Damaged, "seed {seed}: {text}");
                    let last = (state.len() - 1).min((block + 1) * BLOCK - 1);
                    let bytes = format!("block {block} (bytes {}-{last} of", block * BLOCK);
                    assert!(text.contains("last.raw") && text.contains(&bytes), "{text}");
                }
            }
            let lost = if hit { vec![block as u64] } else { vec![] };
            assert_eq!(read_tolerant(&scene.tolerant(number)), (without(state, &lost), lost));
        }
    }
}

/// A missing delta costs the blocks that come from it or through it, and only those; without tolerance the revision
/// cannot be opened.
#[test]
fn a_missing_delta_costs_what_reaches_it() {
    for seed in 0..20 {
        let scene = Scene::random(seed);
        let gone = 1 + Random(seed).below(scene.states.len() - 1);
        scene.storage.remove(FileName::Delta(scene.revision(gone).uuid)).unwrap();
        let gone_blocks = scene.states[gone].len().div_ceil(BLOCK);
        for (number, state) in scene.states.iter().enumerate() {
            let cut = (gone + 1..=number).any(|at| scene.revision(at).is_standalone());
            if number < gone || cut {
                assert!(read_all(&scene.open(number).unwrap()).unwrap() == *state);
                continue;
            }
            assert_eq!(scene.open(number).map(drop).unwrap_err().kind(), ErrorKind::NotFound);
            let chain = scene.tolerant(number);
            assert!(chain.broken().is_some_and(|error| error.kind() == ErrorKind::NotFound));
            let reaches = |block: &usize| {
                let stops = |at: usize| scene.held[at].get(*block).is_none_or(|held| *held);
                *block < gone_blocks && !(gone + 1..=number).any(stops)
            };
            let lost: Vec<u64> =
                (0..state.len().div_ceil(BLOCK)).filter(reaches).map(|b| b as u64).collect();
            let expected = (without(state, &lost), lost);
            assert_eq!(read_tolerant(&chain), expected, "seed {seed}, {number} without {gone}");
            if let Some(&first) = expected.1.first() {
                let next = chain.next_data_block(BlockIndex(first)).unwrap();
                assert_eq!(next, Some(BlockIndex(first)), "what is lost is not skipped");
                let located = chain.locate(BlockIndex(first), 1).unwrap();
                assert!(chain.verify_digests(&Silent).is_err());
                let error = read(&chain, first as usize, &located).unwrap_err();
                assert!(error.to_string().contains("no way to it"), "{error}");
            }
        }
    }
}

/// Three revisions of six blocks; the oldest holds blocks 1 and 4, the middle one 2.
fn plain_scene() -> Scene {
    let newest: Vec<u8> = (0..6).flat_map(|n| [n + 1; BLOCK]).collect();
    let mut middle = newest.clone();
    middle[2 * BLOCK..3 * BLOCK].fill(0x22);
    let mut oldest = middle.clone();
    oldest[BLOCK..2 * BLOCK].fill(0x11);
    oldest[4 * BLOCK..5 * BLOCK].fill(0x44);
    Scene::new(&[newest, middle, oldest], &[])
}

/// An invalid entry of a table costs only its own block. So does a missing one while the digest of its block is still
/// there.
#[test]
fn a_bad_entry_costs_its_own_block() {
    for (entry, strict) in [(1u64 << 56 | 2, ErrorKind::Damaged), (0, ErrorKind::Damaged)] {
        let scene = plain_scene();
        let name = FileName::Delta(scene.revision(2).uuid);
        scene.poke(name, scene.entry_at(2, 4), &entry.to_be_bytes());
        let chain = scene.open(2).unwrap();
        let found = chain.verify_digests(&Silent).and_then(|()| read_all(&chain)).unwrap_err();
        assert_eq!(found.kind(), strict, "{found}");
        let expected = (without(&scene.states[2], &[4]), vec![4]);
        assert_eq!(read_tolerant(&scene.tolerant(2)), expected, "{entry:#x}");
        for number in 0..2 {
            assert!(read_all(&scene.open(number).unwrap()).unwrap() == scene.states[number]);
        }
    }
}

/// Digests that differ from those recorded are noticed as a whole, and for single blocks.
#[test]
fn wrong_digests_are_noticed() {
    let scene = plain_scene();
    let image = FileName::Digests(scene.revision(0).uuid, DigestsKind::Image);
    scene.poke(image, entry_offset(BlockIndex(3)), &[0; 32]);
    for number in 0..3 {
        let error = scene.open(number).unwrap().verify_digests(&Silent).unwrap_err();
        assert!(error.to_string().contains("from its digest files"), "{error}");
    }
    let scene = plain_scene();
    let delta = FileName::Digests(scene.revision(2).uuid, DigestsKind::Delta);
    scene.poke(delta, entry_offset(BlockIndex(4)), &[0xff; 32]);
    let chain = scene.open(2).unwrap();
    let error = read_all(&chain).unwrap_err().to_string();
    let file = FileName::Delta(scene.revision(2).uuid).to_string();
    let place = "block 4 (bytes 16384-20479";
    assert!(
        error.contains(&file) && error.contains(place) && error.contains("nothing proves"),
        "{error}"
    );
    assert!(read(&chain, 0, &chain.locate(BlockIndex(0), 4).unwrap()).is_ok());
    assert_eq!(read_tolerant(&scene.tolerant(2)).1, [4]);
}

/// What a backup does to the image, with the old content of the blocks in the overlay first.
fn overwrite(scene: &Scene, blocks: &[usize]) {
    let held: Vec<bool> = (0..6).map(|at| blocks.contains(&at)).collect();
    scene.write_delta(0, &held);
    scene.write_digests(0, DigestsKind::Delta, &held);
    for &block in blocks {
        scene.poke(FileName::IMAGE, (block * BLOCK) as u64, &[0x99; BLOCK]);
    }
}

/// Chains that were open before, and those that are opened in between, read the same while a backup overwrites the
/// image, once it has been committed, and after the image has become another file.
#[test]
fn an_open_chain_follows_a_backup() {
    let scene = plain_scene();
    let before: Vec<Chain> = (0..3).map(|number| scene.open(number).unwrap()).collect();
    overwrite(&scene, &[0, 3]);
    let during: Vec<Chain> = (0..3).map(|number| scene.open(number).unwrap()).collect();
    let check = |chains: &[Chain], what: &str| {
        for (number, chain) in chains.iter().enumerate() {
            assert!(read_all(chain).unwrap() == scene.states[number], "{what}: {number}");
        }
    };
    check(&before, "before");
    check(&during, "during");
    let mut state = scene.states[0].clone();
    state[..BLOCK].fill(0x99);
    state[3 * BLOCK..4 * BLOCK].fill(0x99);
    let mut after = scene.manifest.clone();
    after.push_newest(revision(9, &state));
    manifest::publish(&*scene.storage, &after).unwrap();
    check(&before, "before, committed");
    // A file of another backup takes the place of the image.
    scene.storage.remove(FileName::IMAGE).unwrap();
    scene.storage.create(FileName::IMAGE).unwrap().write_at(&[0x77; 6 * BLOCK], 0).unwrap();
    check(&before, "before, with the file that was open");
    check(&during, "during, with the file that was open");
}

/// A block of the image that is neither unchanged nor in an overlay is an error, in every chain that needs it.
#[test]
fn an_overwritten_block_without_an_overlay_is_an_error() {
    let scene = plain_scene();
    let chains: Vec<Chain> = (0..3).map(|number| scene.open(number).unwrap()).collect();
    overwrite(&scene, &[0]);
    scene.storage.remove(FileName::Delta(scene.revision(0).uuid)).unwrap();
    for chain in &chains {
        let error = read_all(chain).unwrap_err();
        assert!(error.to_string().contains("last.raw") && error.kind() == ErrorKind::Damaged);
    }
    // The backup is undone.
    scene.poke(FileName::IMAGE, 0, &scene.states[0][..BLOCK]);
    assert!(
        chains.iter().zip(&scene.states).all(|(chain, state)| read_all(chain).unwrap() == *state)
    );
}

/// A chain recognises whether a manifest stores its revision in the same files. If not, the chain that follows reads
/// the same, even if its own revision has been deleted.
#[test]
fn a_chain_follows_its_revision_into_other_files() -> std::result::Result<(), Error> {
    let scene = plain_scene();
    let chains: Vec<Chain> = (0..3).map(|number| scene.open(number).unwrap()).collect();
    assert!(chains.iter().all(|chain| chain.is_stored_by(&scene.manifest)));
    // The middle one is deleted: the oldest holds its blocks.
    let mut merged = scene.manifest.clone();
    merged.remove(merged.revisions[1].uuid);
    assert_eq!(chains.each_stored(&merged), [true, false, false]);
    // Its own delta is held open, over the newest.
    let gone = chains[1].follow(&merged)?.unwrap();
    assert_eq!((gone.layers.len(), gone.revision().uuid), (1, scene.revision(1).uuid));
    assert!(read_all(&gone)? == scene.states[1]);
    let stays = chains[2].follow(&merged)?.unwrap();
    assert_eq!((stays.layers.len(), stays.image.is_some()), (1, true));
    // One that is now standalone is in other files, although they have the same names.
    let mut standalone = scene.manifest.clone();
    standalone.revisions[1].base = None;
    assert_eq!(chains.each_stored(&standalone), [true, false, false]);
    assert!(chains[2].follow(&standalone)?.unwrap().is_settled());
    // Nothing is left of it.
    let mut other = Manifest::new(SIZE);
    other.push_newest(revision(7, &[]));
    assert_eq!(chains.each_stored(&other), [false; 3]);
    assert!(chains[2].follow(&other)?.is_none());
    Ok(())
}

trait EachStored {
    fn each_stored(&self, manifest: &Manifest) -> Vec<bool>;
}

impl EachStored for Vec<Chain> {
    fn each_stored(&self, manifest: &Manifest) -> Vec<bool> {
        self.iter().map(|chain| chain.is_stored_by(manifest)).collect()
    }
}
