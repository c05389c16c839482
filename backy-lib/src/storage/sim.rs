//! A simulated disk for tests: everything that was not synced may be lost, in any subset, when it crashes.
//!
//! Two states are kept. The *volatile* one is what running programs see. The *durable* one is what is on the medium:
//! the content as of each file's last sync, the names as of the folder's last sync, and beside them the changes since,
//! in order. [`SimStorage::crash`] keeps a seeded subset of those changes, tears writes at sectors of 512 bytes, and gives
//! the disk that the next program finds. A failed sync drops a subset of the changes it was asked to make durable, while
//! programs go on seeing them, as Linux does.
//!
//! Every call is counted and can be made to fail ([`Fault`]). A [`Schedule`] decides which of several threads makes
//! the next call.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Access, FileName, Storage, StorageFile, StorageLock};
use crate::error::{Error, Result};
use crate::extent::Extent;

const SECTOR: usize = 512;
/// Holes are reported in units of this many bytes.
const PAGE: u64 = 4096;

/// What happens at a given call, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This call fails, the others work.
    Once(Failure),
    /// This call and all after it fail.
    FromThenOn(Failure),
    /// The machine stops: this call and all after it fail; see [`SimStorage::crash`].
    Crash,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`, any call.
    Io,
    /// `ENOSPC`, calls that may need space; others work.
    NoSpace,
}

/// What is left of the changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// Nothing.
    Lost,
    /// Everything.
    Kept,
    /// A subset that depends on the seed.
    Subset(u64),
}

/// A simulated folder. Clones are the same folder.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Disk>,
    thread: Option<usize>,
}

struct Disk {
    state: Mutex<State>,
    schedule: Option<Schedule>,
}

#[derive(Clone, Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    volatile_names: BTreeMap<FileName, u64>,
    durable_names: BTreeMap<FileName, u64>,
    pending_names: Vec<NameChange>,
    next_node: u64,
    calls: u64,
    fault: Option<(u64, Fault)>,
    clones: bool,
    locked: bool,
    random: Random,
    log: Vec<String>,
}

#[derive(Clone, Default)]
struct Node {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Punch { offset: usize, len: usize },
}

#[derive(Clone, Copy)]
enum NameChange {
    Link(FileName, u64),
    Rename(FileName, FileName, u64),
    Unlink(FileName),
}

/// A small generator of pseudo-random numbers (SplitMix64): the same for the same seed, everywhere.
#[derive(Clone, Copy, Default, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Heads or tails.
    pub fn flip(&mut self) -> bool {
        self.number() & 1 == 1
    }
}

impl Default for SimStorage {
    fn default() -> Self {
        Self::new(false)
    }
}

impl SimStorage {
    /// An empty folder; `clones` says whether the file system can share blocks between files.
    pub fn new(clones: bool) -> Self {
        Self::with_state(State { clones, ..State::default() }, None)
    }

    fn with_state(state: State, schedule: Option<Schedule>) -> Self {
        let disk = Disk { state: Mutex::new(state), schedule };
        SimStorage { disk: Arc::new(disk), thread: None }
    }

    /// An independent copy of the disk as programs see it now and as it is on the medium, without faults.
    pub fn fork(&self) -> Self {
        let mut state = self.state().clone();
        state.fault = None;
        state.calls = 0;
        state.locked = false;
        Self::with_state(state, None)
    }

    /// The same disk, with calls made in the order that `schedule` says.
    pub fn scheduled(&self, schedule: Schedule) -> Self {
        let state = self.fork().state().clone();
        Self::with_state(state, Some(schedule))
    }

    /// A handle whose calls are those of thread `number` of the schedule.
    pub fn for_thread(&self, number: usize) -> Self {
        SimStorage { disk: Arc::clone(&self.disk), thread: Some(number) }
    }

    /// Makes call number `at`, counted from 1 from now on, fail.
    pub fn set_fault(&self, at: u64, fault: Fault, seed: u64) {
        let mut state = self.state();
        state.calls = 0;
        state.fault = Some((at, fault));
        state.random = Random(seed);
    }

    /// How many calls have been made since the start, the fork or the last [`SimStorage::set_fault`].
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The last calls made, for the message of a failed test.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// The disk after a power cut: what was durable, and of the rest what `unsynced` says.
    pub fn crash(&self, unsynced: Unsynced) -> Self {
        let mut state = self.state().clone();
        let mut random = Random(match unsynced {
            Unsynced::Subset(seed) => seed,
            _ => 0,
        });
        let mut keep = move || match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Subset(_) => random.flip(),
        };
        for node in state.nodes.values_mut() {
            node.settle(&mut keep);
            node.volatile = node.durable.clone();
        }
        for change in std::mem::take(&mut state.pending_names) {
            if keep() {
                change.apply(&mut state.durable_names);
            }
        }
        state.volatile_names = state.durable_names.clone();
        let after = Self::with_state(state, None).fork();
        after.state().log.clear();
        after
    }

    /// The names and contents that programs see.
    pub fn files(&self) -> BTreeMap<FileName, Vec<u8>> {
        let state = self.state();
        let content = |node: &u64| state.nodes.get(node).map(|node| node.volatile.clone());
        state
            .volatile_names
            .iter()
            .filter_map(|(name, node)| Some((*name, content(node)?)))
            .collect()
    }

    /// Changes a file behind everybody's back, durably: rot, or an operator's mistake.
    pub fn tamper(&self, name: FileName, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let Some(node) = state.volatile_names.get(&name).copied() else { return };
        if let Some(node) = state.nodes.get_mut(&node) {
            change(&mut node.volatile);
            node.durable = node.volatile.clone();
            node.pending.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.disk.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and lets it go ahead or fail. `needs_space` is whether a full disk stops it.
    fn call(
        &self,
        action: &str,
        path: PathBuf,
        needs_space: bool,
    ) -> Result<MutexGuard<'_, State>> {
        if let (Some(schedule), Some(thread)) = (&self.disk.schedule, self.thread) {
            schedule.wait_for_turn(thread);
        }
        let mut state = self.state();
        state.calls += 1;
        if state.log.len() > 400 {
            state.log.drain(..200);
        }
        let line = format!("{}: {action} {}", state.calls, path.display());
        state.log.push(line);
        match state.failure(needs_space) {
            None => Ok(state),
            Some(code) => Err(Error::io(path, action)(io::Error::from_raw_os_error(code))),
        }
    }
}

impl State {
    fn failure(&self, needs_space: bool) -> Option<i32> {
        let (at, fault) = self.fault?;
        let failure = match fault {
            Fault::Once(failure) if self.calls == at => failure,
            Fault::FromThenOn(failure) if self.calls >= at => failure,
            Fault::Crash if self.calls >= at => Failure::Io,
            _ => return None,
        };
        match failure {
            Failure::Io => Some(rustix::io::Errno::IO.raw_os_error()),
            Failure::NoSpace => needs_space.then_some(rustix::io::Errno::NOSPC.raw_os_error()),
        }
    }

    fn node(&mut self, node: u64) -> &mut Node {
        self.nodes.entry(node).or_default()
    }

    fn add_name(&mut self, name: FileName) -> u64 {
        self.next_node += 1;
        let node = self.next_node;
        self.volatile_names.insert(name, node);
        self.pending_names.push(NameChange::Link(name, node));
        node
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<FileName, u64>) {
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
    fn change(&mut self, change: Change) {
        change.apply(&mut self.volatile, |_| true);
        self.pending.push(change);
    }

    /// Makes durable those parts of the pending changes that `keep` chooses.
    fn settle(&mut self, keep: &mut impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable, |_| keep());
        }
    }
}

impl Change {
    /// Applies the sectors of the change that `keep` chooses.
    fn apply(&self, content: &mut Vec<u8>, mut keep: impl FnMut(usize) -> bool) {
        match self {
            Change::SetLen(len) => {
                if keep(0) {
                    content.resize(*len, 0);
                }
            }
            Change::Punch { offset, len } => {
                if keep(0) {
                    let end = (offset + len).min(content.len());
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

impl Storage for SimStorage {
    fn path(&self, name: FileName) -> PathBuf {
        self.folder().join(name.to_string())
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from("/simulated")
    }

    fn open(&self, name: FileName, _access: Access) -> Result<Box<dyn StorageFile>> {
        let state = self.call("open", self.path(name), false)?;
        match state.volatile_names.get(&name) {
            Some(&node) => Ok(Box::new(SimFile { storage: self.clone(), name, node })),
            None => {
                Err(Error::io(self.path(name), "open")(io::Error::from(io::ErrorKind::NotFound)))
            }
        }
    }

    fn create(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        let mut state = self.call("create", self.path(name), true)?;
        if state.volatile_names.contains_key(&name) {
            let exists = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(Error::io(self.path(name), "create")(exists));
        }
        let node = state.add_name(name);
        Ok(Box::new(SimFile { storage: self.clone(), name, node }))
    }

    fn clone_file(&self, from: FileName, to: FileName) -> Result<Option<Box<dyn StorageFile>>> {
        let mut state = self.call("clone", self.path(to), true)?;
        if !state.clones {
            return Ok(None);
        }
        let source = state.volatile_names.get(&from).copied().unwrap_or_default();
        let content = state.node(source).volatile.clone();
        let node = state.add_name(to);
        // A clone takes what programs see of the source, and is itself not durable before it is synced.
        state.node(node).change(Change::SetLen(content.len()));
        state.node(node).change(Change::Write { offset: 0, data: content });
        Ok(Some(Box::new(SimFile { storage: self.clone(), name: to, node })))
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<()> {
        let mut state = self.call("rename", self.path(from), true)?;
        let Some(node) = state.volatile_names.remove(&from) else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::io(self.path(from), "rename")(missing));
        };
        state.volatile_names.insert(to, node);
        state.pending_names.push(NameChange::Rename(from, to, node));
        Ok(())
    }

    fn remove(&self, name: FileName) -> Result<()> {
        let mut state = self.call("remove", self.path(name), false)?;
        if state.volatile_names.remove(&name).is_some() {
            state.pending_names.push(NameChange::Unlink(name));
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<FileName>> {
        Ok(self.call("list", self.folder(), false)?.volatile_names.keys().copied().collect())
    }

    fn sync_folder(&self) -> Result<()> {
        let called = self.call("sync", self.folder(), true);
        let mut state = match called {
            Ok(state) => state,
            Err(error) => {
                let mut state = self.state();
                if state.crashed() {
                    return Err(error);
                }
                for change in std::mem::take(&mut state.pending_names) {
                    if state.random.flip() {
                        change.apply(&mut state.durable_names);
                    }
                }
                return Err(error);
            }
        };
        for change in std::mem::take(&mut state.pending_names) {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self, holder: &str) -> Result<Box<dyn StorageLock>> {
        let mut state = self.call("lock", self.path(FileName::Lock), false)?;
        if state.locked {
            return Err(Error::Locked { path: self.folder(), holder: holder.to_owned() });
        }
        state.locked = true;
        Ok(Box::new(SimLock(self.clone())))
    }

    fn lock_holder(&self) -> Result<Option<String>> {
        Ok(self.state().locked.then(|| "a simulated process".to_owned()))
    }
}

impl State {
    fn crashed(&self) -> bool {
        matches!(self.fault, Some((at, Fault::Crash)) if self.calls >= at)
    }
}

struct SimLock(SimStorage);

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

struct SimFile {
    storage: SimStorage,
    name: FileName,
    node: u64,
}

impl SimFile {
    fn call(&self, action: String, needs_space: bool) -> Result<MutexGuard<'_, State>> {
        self.storage.call(&action, self.path(), needs_space)
    }
}

impl StorageFile for SimFile {
    fn path(&self) -> PathBuf {
        self.storage.path(self.name)
    }

    fn len(&self) -> Result<u64> {
        Ok(self.call("look up its length".to_owned(), false)?.node(self.node).volatile.len() as u64)
    }

    fn allocated_bytes(&self) -> Result<u64> {
        let mut state = self.call("look up its size on disk".to_owned(), false)?;
        let pages = state.node(self.node).volatile.chunks(PAGE as usize);
        Ok(pages.filter(|page| page.iter().any(|&byte| byte != 0)).count() as u64 * PAGE)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let action = format!("read {} bytes at offset {offset}", buffer.len());
        let mut state = self.call(action, false)?;
        let content = &state.node(self.node).volatile;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let action = format!("write {} bytes at offset {offset}", data.len());
        let mut change = Change::Write { offset: offset as usize, data: data.to_vec() };
        match self.call(action, true) {
            Ok(mut state) => {
                state.node(self.node).change(change);
                Ok(())
            }
            Err(error) => {
                // A write that failed, or was cut by the crash, may have got part of the way.
                let mut state = self.storage.state();
                let at = state.fault.map(|(at, _)| at).unwrap_or_default();
                if state.calls == at {
                    let end = offset as usize + state.random.below(data.len() as u64 + 1) as usize;
                    if let Change::Write { data, .. } = &mut change {
                        data.truncate((end / SECTOR * SECTOR).saturating_sub(offset as usize));
                    }
                    state.node(self.node).change(change);
                }
                Err(error)
            }
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut state = self.call(format!("set its length to {len}"), false)?;
        if state.node(self.node).volatile.len() as u64 != len {
            state.node(self.node).change(Change::SetLen(len as usize));
        }
        Ok(())
    }

    fn punch_hole(&self, extent: Extent) -> Result<()> {
        let mut state = self.call(format!("clear {} at {}", extent.len, extent.offset), false)?;
        let (offset, len) = (extent.offset as usize, extent.len as usize);
        state.node(self.node).change(Change::Punch { offset, len });
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let mut state = self.call(format!("seek data from {offset}"), false)?;
        let content = &state.node(self.node).volatile;
        let len = content.len() as u64;
        let zero = |page: u64| {
            let end = ((page + 1) * PAGE).min(len) as usize;
            content[(page * PAGE) as usize..end].iter().all(|&byte| byte == 0)
        };
        let pages = len.div_ceil(PAGE);
        let Some(start) = (offset / PAGE..pages).find(|&page| !zero(page)) else { return Ok(None) };
        let end = (start..pages).find(|&page| zero(page)).unwrap_or(pages);
        Ok(Some(Extent::between((start * PAGE).max(offset), (end * PAGE).min(len))))
    }

    fn sync(&self) -> Result<()> {
        match self.call("sync".to_owned(), true) {
            Ok(mut state) => {
                state.node(self.node).settle(&mut || true);
                Ok(())
            }
            Err(error) => {
                let mut state = self.storage.state();
                if !state.crashed() {
                    let mut random = state.random;
                    state.node(self.node).settle(&mut || random.flip());
                    state.random = random;
                }
                Err(error)
            }
        }
    }
}

/// Lets several threads make calls one at a time, in an order that depends on a seed.
#[derive(Clone)]
pub struct Schedule {
    turn: Arc<(Mutex<Turn>, Condvar)>,
}

struct Turn {
    random: Random,
    running: Vec<usize>,
    now: usize,
}

impl Schedule {
    /// For threads 0 to `threads - 1`.
    pub fn new(seed: u64, threads: usize) -> Self {
        let mut random = Random(seed);
        let running: Vec<usize> = (0..threads).collect();
        let now = random.below(threads as u64) as usize;
        Schedule { turn: Arc::new((Mutex::new(Turn { random, running, now }), Condvar::new())) }
    }

    /// The thread makes no more calls. Every thread has to say so, or the others wait for ever.
    pub fn leave(&self, thread: usize) {
        let (turn, changed) = &*self.turn;
        let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.running.retain(|&other| other != thread);
        turn.pick();
        changed.notify_all();
    }

    fn wait_for_turn(&self, thread: usize) {
        let (turn, changed) = &*self.turn;
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turn = changed
            .wait_while(turn, |turn| turn.now != thread)
            .unwrap_or_else(PoisonError::into_inner);
        turn.pick();
        changed.notify_all();
    }
}

impl Turn {
    fn pick(&mut self) {
        if !self.running.is_empty() {
            let next = self.random.below(self.running.len() as u64) as usize;
            self.now = self.running[next];
        }
    }
}
