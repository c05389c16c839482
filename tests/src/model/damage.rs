//! Damage to an intact archive: it is found, and costs what it must.

use backy_lib::ScrubOptions;
use backy_lib::progress::Silent;
use backy_lib::storage::{Access, FileName, Storage};

use super::{Model, Verb, verb};
use crate::world::{self, BLOCK_SIZE};

fn scrub() -> ScrubOptions {
    ScrubOptions { threads: Some(1), ..ScrubOptions::default() }
}

impl Model {
    /// A flipped bit anywhere: everything that no longer reads right is found. With the bit put back, nothing is.
    pub(super) fn damage(&mut self, file: u8, offset: u16, bit: u8) {
        // Interrupted work is cleaned up first: otherwise a scrub without the lock would have to ignore it.
        self.succeed(Verb::Recover);
        self.clear_suspicion();
        let stored = self.world.disk.files().into_iter().filter(|(name, content)| {
            let stored = matches!(name, FileName::Delta(_) | FileName::Digests(..));
            (stored || *name == FileName::IMAGE) && !content.is_empty()
        });
        let stored: Vec<_> = stored.collect();
        let Some((name, content)) = stored.get(usize::from(file) % stored.len().max(1)) else {
            return;
        };
        let at = usize::from(offset) % content.len();
        let damaged = self.world.fork();
        damaged.disk.tamper(*name, |content| content[at] ^= 1 << (bit % 8));
        let archive = world::open(&damaged.disk).expect("open");
        let all_right = damaged.expected.iter().enumerate().all(|(number, expected)| {
            world::read_revision(&archive, number).is_ok_and(|bytes| bytes == expected.bytes)
        });
        let clock = self.clock();
        let check = archive.check(&scrub(), &clock, &Silent).expect("a check that ends");
        assert!(all_right || !verb::flaws(check).is_empty(), "{name}, byte {at}: not found");
        let damaged = Model { world: damaged, now: self.now, ..Model::new(false, 0) };
        let mut writer = damaged.writer().expect("the lock");
        let report = writer.scrub(&scrub(), &clock, &Silent).expect("a scrub that ends");
        drop(writer);
        let flaws = verb::flaws(report);
        if flaws.is_empty() {
            let mut mended = damaged.world;
            mended.check_committed(None).expect("what is clean reads right");
        } else {
            assert!(!all_right, "{name}, byte {at}: {flaws:?}");
        }
        let sound = world::open(&self.world.disk).expect("open");
        let check = sound.check(&scrub(), &clock, &Silent).expect("a check that ends");
        assert_eq!(verb::flaws(check), [], "a sound archive");
    }

    /// A block of the image rots, a scrub finds it, and a backup of the same content heals it.
    pub(super) fn rot(&mut self, block: u8) {
        let Some(newest) = self.world.expected.first() else { return };
        let blocks = newest.bytes.len() / BLOCK_SIZE.len();
        if blocks == 0 {
            return;
        }
        self.source = newest.bytes.clone();
        self.succeed(Verb::Recover);
        // A reader checks a block of the image once.
        self.readers.clear();
        let number = usize::from(block) % blocks;
        let at = number * BLOCK_SIZE.len() + usize::from(block);
        let is_zero =
            self.source[number * BLOCK_SIZE.len()..][..BLOCK_SIZE.len()].iter().all(|b| *b == 0);
        let image = self.world.disk.open(FileName::IMAGE, Access::Write).expect("the image");
        if is_zero && image.hides_holes().expect("ask for holes") {
            // There is nothing that could rot, but somebody may write to it.
            image.write_at(&[0xff], at as u64).and_then(|()| image.sync()).expect("write to it");
        } else {
            self.world.disk.tamper(FileName::IMAGE, |image| image[at] ^= 0xff);
        }
        drop(image);
        let mut writer = self.writer().expect("the lock");
        let report = writer.scrub(&scrub(), &self.clock(), &Silent).expect("a scrub that ends");
        let image = FileName::IMAGE.to_string();
        let found = report.findings.iter().any(|finding| finding.file == image);
        assert!(found, "rot at {at} was not found");
        drop(writer);
        self.succeed(Verb::Backup { in_place: true, if_due: false, threads: 1 });
    }
}
