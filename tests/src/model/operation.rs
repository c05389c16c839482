//! What can happen to a source and its archive. Any numbers mean something: an operation that does not fit the state
//! of the archive does as much as it can.

use arbitrary::{Arbitrary, Unstructured};
use backy_lib::storage::sim::{Failure, Fault};

/// One thing that happens.
#[derive(Debug, Clone, Arbitrary)]
pub enum Operation {
    /// The source gets new content: zeros, text-like or noise, block by block.
    Write {
        /// In bytes; past the end nothing is written.
        offset: u16,
        /// In bytes.
        len: u16,
        /// Of the content.
        seed: u16,
    },
    /// An extent of the source becomes zero.
    Discard {
        /// In bytes.
        offset: u16,
        /// In bytes.
        len: u16,
    },
    /// The source grows or shrinks.
    Resize {
        /// New size; taken modulo the largest.
        bytes: u16,
    },
    /// A command that works.
    Do(Verb),
    /// A command during which a call fails.
    Fail {
        /// The command.
        verb: Verb,
        /// Which call, modulo those that there are and one more, which is never made.
        call: u16,
        /// How.
        interruption: Interruption,
        /// What is left of what was not synced.
        seed: u16,
    },
    /// The power fails while nobody is at work.
    PowerCut {
        /// Whether what was not synced survives.
        kept: bool,
    },
    /// A revision is restored, and nothing is written that is right already.
    Restore {
        /// Which, modulo the number of revisions.
        number: u8,
        /// Onto the source as it is now, not onto the same content.
        onto_other: bool,
        /// Threads that read; more than one only where the order of calls need not be the same again.
        #[arbitrary(value = 1)]
        threads: usize,
    },
    /// A reader is opened, and stays open while other things happen.
    Hold {
        /// Which revision it reads, modulo their number.
        number: u8,
    },
    /// A bit of a stored file flips; what that costs is found, and it flips back.
    Damage {
        /// Which file, modulo their number.
        file: u8,
        /// Which byte, modulo its length.
        offset: u16,
        /// Which bit, modulo 8.
        bit: u8,
    },
    /// A block of the image rots; a scrub finds it and a backup of the same content heals it.
    Rot {
        /// Which, modulo their number.
        block: u8,
    },
    /// Somebody edits `backy.toml`.
    Configure {
        /// Bit 0: a tag `daily`; bit 1: a tag `full` whose revisions become standalone.
        schedule: u8,
        /// Most deltas on each other, modulo 4; 0 for no limit.
        max_chain: u8,
    },
    /// Time passes, or the clock is set back.
    Wait {
        /// How many days.
        days: i8,
    },
}

/// A command that changes the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Verb {
    /// Makes a revision of the source.
    Backup {
        /// Not on a clone, also where the file system can clone.
        in_place: bool,
        /// Only if the schedule says so.
        if_due: bool,
        /// Threads that digest and compress; see [`Operation::Restore`].
        #[arbitrary(value = 1)]
        threads: usize,
    },
    /// Removes revisions by hand.
    Remove {
        /// A bit for each, newest first; never all.
        which: u8,
    },
    /// Deletes what need not be kept and makes standalone what has to be.
    Maintain {
        /// How many of the newest are kept, modulo 6; 0 for what the schedule says.
        keep: u8,
    },
    /// Adds or removes a tag.
    Tag {
        /// Which revision, modulo their number.
        number: u8,
        /// Which tag, modulo those that there are.
        tag: u8,
        /// Removes it.
        remove: bool,
    },
    /// Checks what is stored.
    Scrub {
        /// A bit for each revision whose files are read, newest first; all for 0.
        which: u8,
        /// Threads that read; see [`Operation::Restore`].
        #[arbitrary(value = 1)]
        threads: usize,
    },
    /// Reads a revision as a drill and records that.
    Drill {
        /// Which, modulo their number.
        number: u8,
    },
    /// Imports an archive of 2014, which is refused where there is something else.
    Import,
    /// The manifest gets lost or damaged, and is rebuilt.
    Rebuild {
        /// Lost, not damaged.
        lost: bool,
    },
    /// Takes the lock, and with it undoes what was interrupted.
    Recover,
}

/// A failure during a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Interruption {
    /// The power fails.
    PowerCut,
    /// One call fails with an I/O error.
    Error,
    /// One call and all after it do.
    Errors,
    /// One call finds the disk full.
    Full,
    /// The disk is full from one call on.
    StaysFull,
}

impl Interruption {
    pub(super) fn fault(self) -> Fault {
        match self {
            Interruption::PowerCut => Fault::Crash,
            Interruption::Error => Fault::Once(Failure::Io),
            Interruption::Errors => Fault::FromThenOn(Failure::Io),
            Interruption::Full => Fault::Once(Failure::NoSpace),
            Interruption::StaysFull => Fault::FromThenOn(Failure::NoSpace),
        }
    }
}

/// A source, an archive on a simulated disk, and all that happens to them.
#[derive(Debug, Clone)]
pub struct History {
    /// Whether the file system can clone.
    pub clones: bool,
    /// Size of the source at first, modulo the largest.
    pub bytes: u16,
    /// What happens.
    pub operations: Vec<Operation>,
}

impl History {
    /// Longer ones find nothing new, and take long.
    pub const MAX_OPERATIONS: usize = 24;
}

impl<'a> Arbitrary<'a> for History {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let (clones, bytes) = (input.arbitrary()?, input.arbitrary()?);
        let mut operations = Vec::new();
        while !input.is_empty() && operations.len() < Self::MAX_OPERATIONS {
            operations.push(input.arbitrary()?);
        }
        Ok(History { clones, bytes, operations })
    }
}
