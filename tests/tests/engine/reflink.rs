//! What two clones on a file system share, on a simulated file system that clones, moves, compresses and shares files.

use std::collections::BTreeMap;
use std::io;

use backy_lib::source::reflink::{Flags, Mapped, Maps, unchanged};
use backy_lib::storage::sim::Random;
use backy_tests::canary;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 24;

/// A block of a file: where it is, and what the system says about it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Place {
    physical: u64,
    /// The compressed extent that it is in, and its number in that.
    within: Option<(u64, u64)>,
}

type File = Vec<Option<Place>>;

/// A small disk: what each block holds, and three files.
#[derive(Clone)]
struct Disk {
    content: BTreeMap<u64, u64>,
    live: File,
    old: File,
    new: File,
    written: u64,
}

impl Disk {
    fn new() -> Self {
        let none = vec![None; BLOCKS as usize];
        let (live, old, new) = (none.clone(), none.clone(), none);
        Disk { content: BTreeMap::new(), live, old, new, written: 0 }
    }

    fn files(&self) -> [&File; 3] {
        [&self.live, &self.old, &self.new]
    }

    fn uses(&self, physical: u64) -> usize {
        let places = self.files().into_iter().flatten().flatten();
        places.filter(|place| place.physical == physical).count()
    }

    /// The first of `count` free blocks, some way behind `from`.
    fn free(&self, from: u64, count: u64) -> u64 {
        let is_free = |first: &u64| (*first..first + count).all(|at| self.uses(at) == 0);
        (0..400).map(|step| (from + step) % 200).find(is_free).expect("a free place")
    }

    /// As a file system that clones writes: in place only what no other file has.
    fn write(&mut self, at: u64, random: &mut Random) {
        self.written += 1;
        let place = self.live[at as usize]
            .filter(|place| place.within.is_none() && self.uses(place.physical) == 1);
        let physical = match place {
            Some(place) => place.physical,
            None => self.free(random.below(60), 1),
        };
        self.content.insert(physical, self.written);
        self.live[at as usize] = Some(Place { physical, within: None });
    }

    /// Writes four blocks as one compressed extent.
    fn write_compressed(&mut self, at: u64, random: &mut Random) {
        let start = self.free(random.below(60), 4);
        for number in 0..4 {
            self.written += 1;
            self.content.insert(start + number, self.written);
            let place = Place { physical: start + number, within: Some((start, number)) };
            self.live[(at + number) as usize] = Some(place);
        }
    }

    /// Makes a part of the live file share another part of it.
    fn share(&mut self, from: u64, to: u64, count: u64) {
        for number in 0..count {
            self.live[(to + number) as usize] = self.live[(from + number) as usize];
        }
    }

    /// Moves a block of the disk, or the compressed extent that it is in, for all files that have it.
    fn relocate(&mut self, physical: u64, random: &mut Random) {
        let places = self.files().into_iter().flatten().flatten();
        let Some(place) = places.copied().find(|place| place.physical == physical) else { return };
        let (from, count) = place.within.map_or((physical, 1), |(start, _)| (start, 4));
        let to = self.free(random.below(60), count);
        for number in 0..count {
            if let Some(content) = self.content.remove(&(from + number)) {
                self.content.insert(to + number, content);
            }
        }
        for file in [&mut self.live, &mut self.old, &mut self.new] {
            for place in file.iter_mut().flatten() {
                if (from..from + count).contains(&place.physical) {
                    place.physical = place.physical - from + to;
                    place.within = place.within.map(|(_, number)| (to, number));
                }
            }
        }
    }

    fn map(&self, file: &File, take: &mut dyn FnMut(Mapped) -> bool) {
        for (place, at) in file.iter().zip(0..) {
            let Some(place) = place else { continue };
            let shared = if self.uses(place.physical) > 1 { Flags::SHARED } else { 0 };
            // With compression the place is the beginning of the extent, whatever the offset in it.
            let (physical, encoded) = match place.within {
                Some((start, _)) => (start, Flags::ENCODED),
                None => (place.physical, 0),
            };
            let flags = Flags(shared | encoded);
            let (logical, physical) = (at * BLOCK, physical * BLOCK);
            if !take(Mapped { logical, physical, len: BLOCK, flags }) {
                return;
            }
        }
    }

    fn holds(&self, file: &File, at: u64) -> Option<u64> {
        file[at as usize].map(|place| self.content[&place.physical])
    }
}

/// A disk on which blocks move between two questions.
struct Moving<'a> {
    disk: &'a mut Disk,
    random: Random,
    moves: u64,
}

impl Moving<'_> {
    fn move_some(&mut self) {
        for _ in 0..self.moves {
            let physical = self.random.below(60);
            self.disk.relocate(physical, &mut self.random);
        }
    }
}

impl Maps for Moving<'_> {
    fn of_old(&mut self, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()> {
        self.disk.map(&self.disk.old, take);
        self.move_some();
        Ok(())
    }

    fn of_new(&mut self, take: &mut dyn FnMut(Mapped) -> bool) -> io::Result<()> {
        self.disk.map(&self.disk.new, take);
        self.move_some();
        Ok(())
    }
}

/// The disk after a clone, some changes, and another clone.
fn history(seed: u64, compresses: bool) -> Disk {
    let mut random = Random(seed);
    let mut disk = Disk::new();
    let changes = |disk: &mut Disk, random: &mut Random| {
        for _ in 0..random.below(30) {
            match random.below(if compresses { 6 } else { 4 }) {
                0 => {
                    let (from, to) = (random.below(BLOCKS - 3), random.below(BLOCKS - 3));
                    disk.share(from, to, 1 + random.below(3));
                }
                1 => disk.relocate(random.below(60), random),
                2 | 3 => disk.write(random.below(BLOCKS), random),
                _ => disk.write_compressed(random.below(BLOCKS / 4) * 4, random),
            }
        }
    };
    changes(&mut disk, &mut random);
    disk.old = disk.live.clone();
    changes(&mut disk, &mut random);
    disk.new = disk.live.clone();
    disk
}

/// The blocks that count as unchanged; each of them has the same content in both.
fn checked(disk: &mut Disk, seed: u64, moves: u64) -> Vec<u64> {
    let random = Random(seed ^ 0x77);
    let same = unchanged(&mut Moving { disk, random, moves }).expect("a map").expect("few extents");
    let blocks = same.iter().flat_map(|extent| extent.offset / BLOCK..extent.end() / BLOCK);
    let blocks: Vec<u64> = blocks.collect();
    for &block in &blocks {
        let (old, new) = (disk.holds(&disk.old, block), disk.holds(&disk.new, block));
        assert_eq!(old, new, "seed {seed}, {moves} moves: block {block} has changed");
    }
    blocks
}

/// Whatever was written, shared, compressed and moved before and between two clones: what they share has not changed.
/// Nothing is missed without compression and moves: all that they share is found.
#[test]
fn what_two_clones_share_has_not_changed() {
    canary::plant();
    let mut found = 0;
    for seed in 0..4000 {
        let mut disk = history(seed, seed % 2 == 0);
        let blocks = checked(&mut disk, seed, 0);
        found += blocks.len();
        if seed % 2 == 1 {
            let shared = |at: &u64| {
                let at = *at as usize;
                disk.old[at].is_some() && disk.old[at] == disk.new[at]
            };
            assert_eq!(blocks, (0..BLOCKS).filter(shared).collect::<Vec<_>>(), "seed {seed}");
        }
    }
    assert!(found > 1000, "{found}");
}

/// The same while the file system moves files between the questions.
#[test]
fn a_file_that_moves_meanwhile_counts_as_changed() {
    canary::plant();
    for seed in 0..20_000 {
        let mut disk = history(seed, false);
        checked(&mut disk, seed, 1 + seed % 20);
    }
}

/// What is compressed may be anything, as the place says nothing about its bytes.
#[test]
fn the_place_of_compressed_data_proves_nothing() {
    canary::plant();
    let mut random = Random(1);
    for seed in 0..500 {
        let mut disk = Disk::new();
        (0..BLOCKS / 4).for_each(|group| disk.write_compressed(group * 4, &mut random));
        disk.old = disk.live.clone();
        // The second half of an extent over its first: the system shows the same place for both.
        let group = seed % (BLOCKS / 4) * 4;
        disk.share(group + 2, group, 2);
        disk.new = disk.live.clone();
        assert!(checked(&mut disk, seed, 0).is_empty());
    }
}
