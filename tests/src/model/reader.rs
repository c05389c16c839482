//! Readers that are open while other things happen.

use backy_lib::RevisionId;
use backy_lib::image::reader::{ReadCache, RevisionReader};

use super::Model;
use crate::world;

/// More of them at a time find nothing new.
const MAX_READERS: usize = 2;
const CACHE_BYTES: u64 = 1 << 16;
/// Not a whole number of blocks.
const READ_BYTES: usize = 2 * 4096 + 700;

/// An open reader.
pub(super) struct Held {
    reader: RevisionReader,
    uuid: RevisionId,
    bytes: Vec<u8>,
}

impl Model {
    /// Opens a reader; the one that has been open longest is closed when there are too many.
    pub(super) fn hold(&mut self, number: u8) {
        let Some(number) = self.number(number) else { return };
        let archive = world::open(&self.world.disk).expect("open");
        let reader = archive
            .open_reader(archive.id(number).unwrap(), &ReadCache::new(CACHE_BYTES))
            .expect("a reader");
        if self.readers.len() == MAX_READERS {
            self.readers.remove(0);
        }
        let expected = &self.world.expected[number];
        self.readers.push(Held { reader, uuid: expected.uuid, bytes: expected.bytes.clone() });
    }

    /// Reads with all open readers. A reader works as long as the archive has its revision.
    pub(super) fn look(&mut self) {
        let is_there = |held: &Held| self.world.expected.iter().any(|e| e.uuid == held.uuid);
        for held in &self.readers {
            let offset = self.now.as_second() as usize * 4097 % (held.bytes.len() + 1);
            let mut buffer = vec![0xee; READ_BYTES];
            match held.reader.read_at(&mut buffer, offset as u64) {
                Ok(count) => {
                    let right = &held.bytes[offset..held.bytes.len().min(offset + READ_BYTES)];
                    assert!(buffer[..count] == *right, "{}: wrong bytes at {offset}", held.uuid);
                }
                Err(error) => assert!(!is_there(held), "{}: {error}", held.uuid),
            }
        }
    }
}
