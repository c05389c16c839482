//! An origin that lies, or a line that changes what it says: no revision of the copy is ever wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backy_lib::digest::TableEntry;
use backy_lib::origin::{Entries, TablePiece, TableRun};
use backy_lib::storage::sim::Random;
use backy_lib::units::BlockIndex;
use backy_lib::{Digest, Error, Result};

use super::anywhere::check;
use super::scene::{Between, Scene, Twist, pull};

/// Pulls from an origin with this lie, which has to be refused; afterwards an honest one completes the copy.
fn refused(lie: &str, scene: &Scene, mut origin: Between) {
    let copy = scene.copy.fork();
    match pull(&copy, &mut origin) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.contains("/"), "{lie}: {text}");
        }
        Ok(report) => panic!("{lie}: pulled {report:?}"),
    }
    check(scene, &copy, lie);
    pull(&copy, &mut scene.local()).unwrap_or_else(|error| panic!("{lie}: {error}"));
    assert_eq!(check(scene, &copy, lie), 5, "{lie}");
}

/// Does something to call number `at`, counted from 0.
fn at<T: 'static>(at: u64, change: impl Fn(&mut T) + Send + 'static) -> Option<Twist<T>> {
    let calls = Arc::new(AtomicU64::new(0));
    Some(Box::new(move |answer| -> Result<()> {
        if calls.fetch_add(1, Relaxed) == at {
            change(answer);
        }
        Ok(())
    }))
}

/// Wrong bytes, a block of another length, another block than was asked for: refused, and nothing of it is stored.
#[test]
fn wrong_blocks_are_refused() {
    let scene = Scene::small(false);
    type Block = (BlockIndex, Option<Vec<u8>>);
    type Change = fn(&mut Block);
    let lies: [(&str, Change); 5] = [
        ("a flipped bit", |block| block.1.as_mut().expect("bytes")[7] ^= 1),
        ("zeros", |block| block.1.as_mut().expect("bytes").fill(0)),
        ("a shorter block", |block| block.1.as_mut().expect("bytes").truncate(100)),
        ("a longer block", |block| block.1.as_mut().expect("bytes").push(0)),
        ("another block", |block| block.0 = block.0.plus(1)),
    ];
    for (name, change) in lies {
        for number in [0, 1, 4, 7] {
            let twist_block = at(number, change);
            refused(name, &scene, Between { twist_block, ..Between::new(&scene) });
        }
    }
}

/// Entries that are not those of the revision are refused, in whatever way the table is wrong: the digest of the
/// revision decides.
#[test]
fn wrong_tables_are_refused() {
    let scene = Scene::small(true);
    let each = |piece: &mut TablePiece, change: &dyn Fn(&mut Vec<TableEntry>)| {
        for run in &mut piece.runs {
            if let Entries::Each(entries) = &mut run.entries {
                return change(entries);
            }
        }
    };
    type Change = Box<dyn Fn(&mut TablePiece) + Send + Sync>;
    let lies: Vec<(&str, Change)> = vec![
        ("no runs", Box::new(|piece| piece.runs.clear())),
        ("one run less", Box::new(|piece| drop(piece.runs.pop()))),
        ("an entry of zeros", Box::new(move |p| each(p, &|e| e[0] = TableEntry::ZERO_BLOCK))),
        ("a lost entry", Box::new(move |p| each(p, &|e| e[0] = TableEntry::LOST))),
        ("another entry", Box::new(move |p| each(p, &|e| e[0] = TableEntry([7; 32])))),
        ("one more entry", Box::new(move |p| each(p, &|e| e.push(TableEntry::LOST)))),
        ("not enough of it", Box::new(|p| p.next = BlockIndex(0))),
        ("too much of it", Box::new(|p| p.next = p.next.plus(1))),
        ("wrong order", Box::new(|p| p.runs.reverse())),
        ("twice", Box::new(|p| p.runs.extend(p.runs.clone()))),
        (
            "an endless run",
            Box::new(|p| {
                let entries = Entries::Zero(u64::MAX);
                p.runs.push(TableRun { first: BlockIndex(1), entries });
            }),
        ),
    ];
    for (name, change) in lies {
        let change = Arc::new(change);
        for number in 0..5 {
            let change = Arc::clone(&change);
            // A lie that changes nothing is none.
            let honest = Arc::new(AtomicU64::new(0));
            let seen = Arc::clone(&honest);
            let twist_table = at(number, move |piece: &mut TablePiece| {
                let before = piece.clone();
                change(piece);
                seen.store(u64::from(*piece != before), Relaxed);
            });
            let copy = scene.copy.fork();
            let mut origin = Between { twist_table, ..Between::new(&scene) };
            let result = pull(&copy, &mut origin);
            let has_lied = honest.load(Relaxed) == 1;
            assert_eq!(result.is_err(), has_lied, "{name} {number}: {result:?}");
            check(&scene, &copy, name);
            pull(&copy, &mut scene.local()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(check(&scene, &copy, name), 5, "{name}");
        }
    }
}

/// A digest that is not that of the revision, another size, a name that appears twice: refused.
#[test]
fn wrong_listings_are_refused() {
    let scene = Scene::small(false);
    for number in 0..5 {
        let twist_listing = at(0, move |listing: &mut backy_lib::origin::Listing| {
            listing.revisions[number].digest = Digest::of(b"another");
        });
        refused("digest", &scene, Between { twist_listing, ..Between::new(&scene) });
        let twist_listing = at(0, move |listing: &mut backy_lib::origin::Listing| {
            listing.revisions[number].size_bytes += 4096;
        });
        refused("size", &scene, Between { twist_listing, ..Between::new(&scene) });
        let twist_listing = at(0, move |listing: &mut backy_lib::origin::Listing| {
            let twice = listing.revisions[number].clone();
            listing.revisions.push(twice);
        });
        refused("twice", &scene, Between { twist_listing, ..Between::new(&scene) });
    }
}

/// A revision that both sides have under one name, with different content, ends the pull with an error that names it.
#[test]
fn other_content_under_the_same_name_is_an_error() {
    let scene = Scene::small(false);
    scene.pull().expect("a pull");
    let twist_listing = at(0, |listing: &mut backy_lib::origin::Listing| {
        listing.revisions[2].digest = Digest::of(b"another");
    });
    let mut origin = Between { twist_listing, ..Between::new(&scene) };
    let error = pull(&scene.copy, &mut origin).expect_err("another digest");
    assert!(matches!(error, Error::Source { .. }));
    assert!(error.to_string().contains(&scene.origin.expected[2].uuid.to_string()), "{error}");
}

/// Answers that are changed at random never make a wrong revision.
#[test]
fn random_lies_never_make_a_wrong_revision() {
    let scene = Scene::small(false);
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut origin = Between::new(&scene);
        let number = random.below(40);
        match random.below(2) {
            0 => {
                let bit = random.below(4096 * 8);
                origin.twist_block =
                    at(number, move |block: &mut (BlockIndex, Option<Vec<u8>>)| {
                        let Some(bytes) = &mut block.1 else { return };
                        let place = (bit / 8) as usize % bytes.len();
                        bytes[place] ^= 1 << (bit % 8);
                    });
            }
            _ => {
                let choice = random.number();
                origin.twist_table = at(number % 6, move |piece: &mut TablePiece| {
                    let count = piece.runs.len().max(1) as u64;
                    let Some(run) = piece.runs.get_mut((choice % count) as usize) else { return };
                    match (&mut run.entries, choice / count % 3) {
                        (Entries::Each(entries), 0) => {
                            let len = entries.len() as u64;
                            entries[(choice % len) as usize].0[3] ^= 1;
                        }
                        (Entries::Zero(zeros), 0) => *zeros += 1,
                        (_, 1) => run.first = run.first.plus(1),
                        _ => drop(piece.runs.remove((choice % count) as usize)),
                    }
                });
            }
        }
        let copy = scene.copy.fork();
        let _ = pull(&copy, &mut origin);
        check(&scene, &copy, &format!("seed {seed}"));
        pull(&copy, &mut scene.local()).expect("a pull");
        assert_eq!(check(&scene, &copy, &format!("seed {seed}")), 5);
    }
}
