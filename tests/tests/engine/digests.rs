//! A machine that computes digests wrong: nothing that is stored counts as lost, is replaced, or is taken for
//! something else because of that.

use backy_lib::archive::ArchiveWriter;
use backy_lib::digest::Digest;
use backy_lib::digest::lies::{self, Lie};
use backy_lib::progress::Silent;
use backy_lib::scrub::ScrubOptions;
use backy_lib::{Error, ErrorKind, RestoreOptions};
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::world::{self, World, clock};

const BLOCK: usize = 4096;

/// More blocks than lie between two that are always digested again.
const BLOCKS: usize = 130;

/// A state whose blocks all begin with `word`, and differ behind it.
fn state(word: &str) -> Vec<u8> {
    blocks(word, BLOCKS)
}

/// As many blocks of that kind.
fn blocks(word: &str, count: usize) -> Vec<u8> {
    let block = |number: usize| {
        let mut block = vec![number as u8; BLOCK];
        block[..word.len()].copy_from_slice(word.as_bytes());
        block[word.len()] = 0;
        block
    };
    (0..count).flat_map(block).collect()
}

fn block(state: &[u8], number: usize) -> &[u8] {
    &state[number * BLOCK..][..BLOCK]
}

/// The digest of this block comes out wrong.
fn about(block: &[u8]) -> Lie {
    Lie { about: block.to_vec(), digest: [0x5a; 32] }
}

fn is_no_verdict<T>(result: Result<T, Error>) {
    let Err(error) = result else { panic!("the digest was believed") };
    assert_eq!(error.kind(), ErrorKind::Miscomputed, "{error}");
    assert!(error.to_string().contains("tape-sha256"), "{error}");
}

/// The existing revisions read right, nothing is recorded about them, and there is no other one.
fn is_untouched(world: &World) {
    let mut world = world.fork();
    assert_eq!(world.check_committed(None), Ok(false));
    let archive = world::open(&world.disk).expect("open");
    assert!(archive.revisions().iter().all(|revision| revision.findings.bad_block_count() == 0));
    let check = archive.check(&ScrubOptions::default(), &clock(), &Silent);
    assert_eq!(check.expect("a check").findings, []);
}

/// A block that is right and is digested wrong is not lost: a restore, a restore with `--keep-going`, a check and a
/// scrub all end with an error that blames the machine, and record nothing.
#[test]
fn wrong_digests_of_the_machine_are_no_damage() {
    let (old, new) = (state("was read wrong"), state("is read wrong"));
    let world = World::with_backups(false, &[old.clone(), new.clone()]);
    for wrong in [block(&old, 40), block(&new, 40)] {
        let number = usize::from(wrong == block(&old, 40));
        lies::during(about(wrong), || {
            for keep_going in [false, true] {
                let options = RestoreOptions { keep_going, ..world::restore_options() };
                let archive = world::open(&world.disk).expect("open");
                let target = MemoryTarget::absent();
                is_no_verdict(archive.restore_to(
                    archive.id(number).unwrap(),
                    &target,
                    &options,
                    &Silent,
                ));
            }
            let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
            let archive = world::open(&world.disk).expect("open");
            is_no_verdict(archive.check(&options, &clock(), &Silent));
            let writer = ArchiveWriter::open(archive, "a test", &Silent);
            is_no_verdict(writer.and_then(|mut writer| writer.scrub(&options, &clock(), &Silent)));
        });
        is_untouched(&world);
    }
}

/// A block of the source that has not changed and is digested wrong is not stored again. A new one is not recorded
/// with a wrong digest.
#[test]
fn wrong_digests_of_the_machine_stop_a_backup() {
    let (old, new) = (state("is backed up wrong"), state("is new and wrong"));
    let mut world = World::with_backups(false, std::slice::from_ref(&old));
    for (state, wrong) in [(&old, block(&old, 77)), (&new, block(&new, 77))] {
        let source = MemorySource::new(state);
        is_no_verdict(lies::during(about(wrong), || world::backup(&world.disk, &source)));
        is_untouched(&world);
    }
    world.backup(&new);
    is_untouched(&world);
}

/// An old block that moves to the delta and is digested wrong is not marked as rotten there.
#[test]
fn wrong_digests_of_the_machine_mark_no_old_block() {
    let (old, new) = (state("is moved wrong"), state("takes its place"));
    let world = World::with_backups(false, std::slice::from_ref(&old));
    let source = MemorySource::new(&new);
    is_no_verdict(lies::during(about(block(&old, 5)), || world::backup(&world.disk, &source)));
    is_untouched(&world);
}

/// The blocks that are always digested again expose a machine that returns the expected digest for every block.
#[test]
fn a_machine_that_reports_no_change_is_detected() {
    // Which blocks are digested again depends on what the other tests digest meanwhile.
    let count = 20 * BLOCKS;
    let old = vec![7; count * BLOCK];
    let world = World::with_backups(false, std::slice::from_ref(&old));
    let digest = Digest::of(&old[..BLOCK]).0;
    let lie = Lie { about: b"is not seen".to_vec(), digest };
    let state = blocks("is not seen", count);
    let source = MemorySource::new(&state);
    is_no_verdict(lies::during(lie, || world::backup(&world.disk, &source)));
    is_untouched(&world);
}
