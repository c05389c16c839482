//! The log of a device's writes, as QEMU's `blklogwrites` makes it, and disks made from it.
//!
//! Source: `Documentation/admin-guide/device-mapper/log-writes.rst` in Linux, which defines the format: a superblock,
//! then for each request one sector with `sector`, `nr_sectors`, `flags`, `data_len` (64 bits each, little-endian)
//! and, but for discards, its data. A request is logged when it has ended and before its caller learns of it. So what
//! was written before a flush request is before it in the log.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use backy_lib::storage::sim::Random;

use crate::site::works;

const SECTOR_BYTES: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
/// The write is durable by itself when it has ended.
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request of the device.
struct Entry {
    /// Where on the device, in bytes.
    offset: u64,
    bytes: u64,
    flags: u64,
    /// Where its data is in the log.
    data_offset: u64,
}

/// All requests of a device, in the order in which they ended.
pub(crate) struct Log {
    file: File,
    entries: Vec<Entry>,
}

/// Which of the writes that no flush has made durable have reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Each with this chance in percent.
    Some(u64),
    /// The same, and each is torn with the same chance: each of its sectors is there or not.
    Torn(u64),
}

impl Log {
    pub(crate) fn read(path: &Path) -> Self {
        let file = File::open(path).expect("open the log");
        let mut log = Log { file, entries: Vec::new() };
        let [magic, _version, count, _sector_bytes] = log.numbers(0);
        assert_eq!(magic, MAGIC, "the log does not begin as one");
        let mut at = SECTOR_BYTES;
        for _ in 0..count {
            let [sector, sectors, flags, _] = log.numbers(at);
            let bytes = sectors * SECTOR_BYTES;
            let data_offset = at + SECTOR_BYTES;
            log.entries.push(Entry { offset: sector * SECTOR_BYTES, bytes, flags, data_offset });
            at = data_offset + if flags & DISCARD == 0 { bytes } else { 0 };
        }
        log
    }

    fn numbers(&self, offset: u64) -> [u64; 4] {
        let mut raw = [0; 32];
        self.file.read_exact_at(&mut raw, offset).expect("read the log");
        let numbers = raw.as_chunks::<8>().0;
        [0, 1, 2, 3].map(|number| u64::from_le_bytes(numbers[number]))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries the log had when it was this long.
    pub(crate) fn entries_at(&self, log_bytes: u64) -> usize {
        self.entries.iter().take_while(|entry| entry.data_offset <= log_bytes).count()
    }

    /// After how many entries there was a flush: everything before it is durable.
    pub(crate) fn flushes(&self) -> impl Iterator<Item = usize> {
        let flushes = self.entries.iter().enumerate().filter(|(_, e)| e.flags & FLUSH != 0);
        flushes.map(|(number, _)| number + 1)
    }
}

/// A disk that follows the log from flush to flush.
pub(crate) struct Base<'a> {
    log: &'a Log,
    path: PathBuf,
    file: File,
    /// How many entries it has.
    done: usize,
}

impl<'a> Base<'a> {
    /// On `path`, the disk as it was when the log began.
    pub(crate) fn new(log: &'a Log, path: &Path) -> Self {
        let file = File::options().write(true).open(path).expect("open the disk");
        Base { log, path: path.to_owned(), file, done: 0 }
    }

    /// Advances to where `count` entries are durable.
    pub(crate) fn advance(&mut self, count: usize) {
        for entry in &self.log.entries[self.done..count] {
            apply(self.log, entry, &self.file, |_| true);
        }
        self.done = self.done.max(count);
    }

    /// Makes the disk of a power cut after `end` entries. The entries that the base lacks are kept or dropped.
    pub(crate) fn cut(&self, to: &Path, end: usize, kept: Kept, random: &mut Random) {
        let mut copy = std::process::Command::new("cp");
        works(copy.args(["--sparse=always", "--reflink=auto"]).arg(&self.path).arg(to));
        let disk = File::options().write(true).open(to).expect("open the copy");
        for entry in &self.log.entries[self.done.min(end)..end] {
            let (keep, torn) = match kept {
                Kept::None => (false, false),
                Kept::All => (true, false),
                Kept::Some(percent) => (random.below(100) < percent, false),
                Kept::Torn(percent) => (random.below(100) < percent, random.below(100) < percent),
            };
            if keep || entry.flags & FUA != 0 {
                apply(self.log, entry, &disk, |_| !torn || random.flip());
            }
        }
    }
}

/// Writes the given sectors of an entry, by their numbers.
fn apply(log: &Log, entry: &Entry, disk: &File, mut wanted: impl FnMut(u64) -> bool) {
    let mut data = vec![0; entry.bytes as usize];
    // Discarded sectors may read as anything. Zeros are what a device returns.
    if entry.flags & DISCARD == 0 {
        log.file.read_exact_at(&mut data, entry.data_offset).expect("read the log");
    }
    let sectors: Vec<_> = data.chunks(SECTOR_BYTES as usize).zip(0..).collect();
    let wanted: Vec<bool> = sectors.iter().map(|(_, number)| wanted(*number)).collect();
    let mut at = 0;
    for run in wanted.chunk_by(|a, b| a == b) {
        let from = at * SECTOR_BYTES as usize;
        at += run.len();
        let to = (at * SECTOR_BYTES as usize).min(data.len());
        if run[0] {
            disk.write_all_at(&data[from..to], entry.offset + from as u64).expect("write the disk");
        }
    }
}
