//! The content of a simulated disk: what programs see, what is durable, and the changes in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};

use rustix::io::Errno;

use super::{Failure, Fault, Random};
use crate::base::extent::Extent;
use crate::storage::FileName;

pub(super) const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) volatile_names: BTreeMap<FileName, u64>,
    pub(super) durable_names: BTreeMap<FileName, u64>,
    pub(super) pending_names: Vec<NameChange>,
    pub(super) next_node: u64,
    pub(super) calls: u64,
    pub(super) fault: Option<(u64, Fault)>,
    pub(super) clones: bool,
    /// Whether the file system reports all of a file as data, and its length as the space that it takes.
    pub(super) hides_holes: bool,
    /// Bytes that were read of each file.
    pub(super) read_bytes: BTreeMap<FileName, u64>,
    pub(super) locked: bool,
    pub(super) random: Random,
    /// The last calls: their numbers, what they were to do, and to which file; none is the folder.
    pub(super) log: Vec<(u64, Action, Option<FileName>)>,
}

/// What a call is to do. Made into a text only for a message: there are millions of calls.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Word(&'static str),
    Read(usize, u64),
    Write(usize, u64),
    SetLen(u64),
    Allocate(u64),
    MakeRoom(Extent),
    Clear(Extent),
    Zero(Extent),
    SeekData(u64),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Word(word) => f.write_str(word),
            Action::Read(len, offset) => write!(f, "read {len} bytes at offset {offset}"),
            Action::Write(len, offset) => write!(f, "write {len} bytes at offset {offset}"),
            Action::SetLen(len) => write!(f, "set its length to {len}"),
            Action::Allocate(bytes) => write!(f, "allocate {bytes} bytes"),
            Action::MakeRoom(extent) => write!(f, "allocate {} at {}", extent.len, extent.offset),
            Action::Clear(extent) => write!(f, "clear {} at {}", extent.len, extent.offset),
            Action::Zero(extent) => write!(f, "zero {} at {}", extent.len, extent.offset),
            Action::SeekData(offset) => write!(f, "seek data from {offset}"),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Node {
    pub(super) volatile: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
    /// How often it was changed, which the times of a real disk show.
    pub(super) changes: i64,
}

#[derive(Clone, Hash)]
pub(super) enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Punch { offset: usize, len: usize },
}

#[derive(Clone, Copy, Hash)]
pub(super) enum NameChange {
    Link(FileName, u64),
    Rename(FileName, FileName, u64),
    Unlink(FileName),
}

impl State {
    pub(super) fn failure(&self, needs_space: bool, opens: bool) -> Option<i32> {
        let (at, fault) = self.fault?;
        let failure = match fault {
            Fault::Once(failure) if self.calls == at => failure,
            Fault::FromThenOn(failure) if self.calls >= at => failure,
            Fault::Crash if self.calls >= at => Failure::Io,
            _ => return None,
        };
        let errno = match failure {
            Failure::Io => Some(Errno::IO),
            Failure::NoSpace => needs_space.then_some(Errno::NOSPC),
            Failure::TooManyFiles => opens.then_some(Errno::MFILE),
            Failure::NoMemory => Some(Errno::NOMEM),
        };
        errno.map(Errno::raw_os_error)
    }

    /// Whether the machine has stopped.
    pub(super) fn crashed(&self) -> bool {
        matches!(self.fault, Some((at, Fault::Crash)) if self.calls >= at)
    }

    pub(super) fn node(&mut self, node: u64) -> &mut Node {
        self.nodes.entry(node).or_default()
    }

    pub(super) fn add_name(&mut self, name: FileName) -> u64 {
        self.next_node += 1;
        let node = self.next_node;
        self.volatile_names.insert(name, node);
        self.pending_names.push(NameChange::Link(name, node));
        node
    }
}

impl Hash for State {
    /// All that decides what programs find from here on, now and after a crash. Without what has no name any more, the
    /// faults, and what is only counted.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.volatile_names, &self.durable_names, &self.pending_names).hash(hasher);
        (self.clones, self.hides_holes, self.locked).hash(hasher);
        let pending = self.pending_names.iter().filter_map(|change| match change {
            NameChange::Link(_, node) | NameChange::Rename(_, _, node) => Some(node),
            NameChange::Unlink(_) => None,
        });
        let named = self.volatile_names.values().chain(self.durable_names.values()).chain(pending);
        for number in named.collect::<BTreeSet<_>>() {
            (number, self.nodes.get(number)).hash(hasher);
        }
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.volatile, &self.pending, self.changes).hash(hasher);
        // Mostly the same as what programs see.
        (self.durable != self.volatile).then_some(&self.durable).hash(hasher);
    }
}

impl NameChange {
    pub(super) fn apply(self, names: &mut BTreeMap<FileName, u64>) {
        match self {
            NameChange::Link(name, node) => {
                names.insert(name, node);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(&from);
                names.insert(to, node);
            }
            NameChange::Unlink(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Node {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.volatile, |_| true);
        self.changes += 1;
        self.pending.push(change);
    }

    /// Makes durable those parts of the pending changes that `keep` chooses.
    pub(super) fn settle(&mut self, keep: &mut impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable, |_| keep());
        }
    }
}

impl Change {
    /// Applies the sectors of the change that `keep` chooses.
    pub(super) fn apply(&self, content: &mut Vec<u8>, mut keep: impl FnMut(usize) -> bool) {
        match self {
            Change::SetLen(len) => {
                if keep(0) {
                    content.resize(*len, 0);
                }
            }
            Change::Punch { offset, len } => {
                if keep(0) {
                    let end = offset.saturating_add(*len).min(content.len());
                    if let Some(part) = content.get_mut(*offset..end) {
                        part.fill(0);
                    }
                }
            }
            Change::Write { offset, data } => {
                let mut at = *offset;
                let mut rest = data.as_slice();
                while !rest.is_empty() {
                    let step = (SECTOR - at % SECTOR).min(rest.len());
                    let (part, after) = rest.split_at(step);
                    if keep(at) {
                        if content.len() < at + step {
                            content.resize(at + step, 0);
                        }
                        content[at..at + step].copy_from_slice(part);
                    }
                    at += step;
                    rest = after;
                }
            }
        }
    }
}
