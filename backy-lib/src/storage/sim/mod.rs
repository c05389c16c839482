//! A simulated disk for tests: everything that was not synced may be lost, in any subset, when it crashes.
//!
//! There are two states. The *volatile* one is what running programs see. The *durable* one is what is on the medium:
//! the content as of each file's last sync, the names as of the folder's last sync, and besides them the changes
//! since, in order. [`SimStorage::crash`] keeps a seeded subset of those changes, tears writes at sectors of 512
//! bytes, and returns the disk that the next program finds. A failed sync drops a subset of the changes that it
//! should have made durable, while programs still see them, as on Linux.
//!
//! Every call is counted and can be made to fail ([`Fault`]). A [`Schedule`] decides which of several threads makes
//! the next call.

mod file;
mod random;
mod schedule;
mod state;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, FileName, Seen, Storage, StorageFile, StorageLock};
use crate::base::error::{Error, Result};

use file::SimFile;
pub use random::Random;
pub use schedule::Schedule;
use state::{Action, Change, NameChange, State};

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
    /// `EMFILE`, calls that open a file; others work.
    TooManyFiles,
    /// `ENOMEM`, any call.
    NoMemory,
}

/// Which changes that were not synced survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// Nothing.
    Lost,
    /// Everything.
    Kept,
    /// A subset that depends on the seed.
    Subset(u64),
}

/// A simulated folder. Clones are the same folder, as another program sees it.
pub struct SimStorage {
    disk: Arc<Disk>,
    thread: Option<usize>,
    is_remote: bool,
    seen: Seen,
}

impl Clone for SimStorage {
    fn clone(&self) -> Self {
        SimStorage {
            disk: Arc::clone(&self.disk),
            thread: self.thread,
            is_remote: self.is_remote,
            seen: Seen::default(),
        }
    }
}

struct Disk {
    state: Mutex<State>,
    schedule: Option<Schedule>,
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
        SimStorage { disk: Arc::new(disk), thread: None, is_remote: false, seen: Seen::default() }
    }

    /// An independent copy of the disk as programs see it now and as it is on the medium, without faults.
    pub fn fork(&self) -> Self {
        let mut state = self.copy();
        state.fault = None;
        state.calls = 0;
        state.locked = false;
        Self::with_state(state, None)
    }

    /// The same disk, with calls in the order of `schedule`.
    pub fn scheduled(&self, schedule: Schedule) -> Self {
        let state = self.fork().copy();
        Self::with_state(state, Some(schedule))
    }

    /// A handle whose calls are those of thread `number` of the schedule.
    pub fn for_thread(&self, number: usize) -> Self {
        SimStorage { thread: Some(number), ..self.clone() }
    }

    /// The same disk as a remote client sees it, for instance through sshfs: any file that has a name now claims to
    /// be the file that had it before, and there are no times.
    pub fn from_afar(&self) -> Self {
        SimStorage { is_remote: true, ..self.clone() }
    }

    /// From now on the disk, its forks and what is left of it after a crash report neither holes nor allocated sizes.
    pub fn hide_holes(&self) {
        self.state().hides_holes = true;
    }

    /// How many bytes of a file have been read, by all who have a handle.
    pub fn read_bytes(&self, name: FileName) -> u64 {
        self.state().read_bytes.get(&name).copied().unwrap_or_default()
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
        let line = |(number, action, name)| self.line(number, action, name);
        self.state().log.iter().copied().map(line).collect()
    }

    /// The last of them.
    pub fn last_call(&self) -> Option<String> {
        let last = self.state().log.last().copied();
        last.map(|(number, action, name)| self.line(number, action, name))
    }

    fn line(&self, number: u64, action: Action, name: Option<FileName>) -> String {
        format!("{number}: {action} {}", self.place(name).display())
    }

    /// The path of a file, or of the folder.
    fn place(&self, name: Option<FileName>) -> PathBuf {
        name.map_or_else(|| self.folder(), |name| self.path(name))
    }

    /// The disk after a power cut: everything durable, and of the rest what `unsynced` keeps.
    pub fn crash(&self, unsynced: Unsynced) -> Self {
        let mut state = self.copy();
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
        state.fault = None;
        state.calls = 0;
        state.locked = false;
        Self::with_state(state, None)
    }

    /// The same for two disks on which all that programs do has the same results from here on, also after a crash.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.state().hash(&mut hasher);
        hasher.finish()
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

    /// The state without the log, which is most of its allocations.
    fn copy(&self) -> State {
        let mut state = self.state();
        let log = std::mem::take(&mut state.log);
        let copy = state.clone();
        state.log = log;
        copy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.disk.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and lets it proceed or fail. `needs_space`: a full disk makes it fail.
    fn call(
        &self,
        action: Action,
        name: Option<FileName>,
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
        let number = state.calls;
        state.log.push((number, action, name));
        let opens = matches!(action, Action::Word("open" | "create" | "clone" | "list" | "lock"));
        match state.failure(needs_space, opens) {
            None => Ok(state),
            Some(code) => {
                let error = io::Error::from_raw_os_error(code);
                Err(Error::io(self.place(name), action.to_string())(error))
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
        let state = self.call(Action::Word("open"), Some(name), false)?;
        match state.volatile_names.get(&name) {
            Some(&node) => Ok(Box::new(SimFile { storage: self.clone(), name, node })),
            None => {
                Err(Error::io(self.path(name), "open")(io::Error::from(io::ErrorKind::NotFound)))
            }
        }
    }

    fn create(&self, name: FileName) -> Result<Box<dyn StorageFile>> {
        let mut state = self.call(Action::Word("create"), Some(name), true)?;
        if state.volatile_names.contains_key(&name) {
            let exists = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(Error::io(self.path(name), "create")(exists));
        }
        let node = state.add_name(name);
        Ok(Box::new(SimFile { storage: self.clone(), name, node }))
    }

    fn clone_file(
        &self,
        from: FileName,
        to: FileName,
        skip_bytes: u64,
    ) -> Result<Option<Box<dyn StorageFile>>> {
        let mut state = self.call(Action::Word("clone"), Some(to), true)?;
        let failed =
            |name, kind: io::ErrorKind| Err(Error::io(self.path(name), "clone")(kind.into()));
        let Some(source) = state.volatile_names.get(&from).copied() else {
            return failed(from, io::ErrorKind::NotFound);
        };
        if state.volatile_names.contains_key(&to) {
            return failed(to, io::ErrorKind::AlreadyExists);
        }
        if !state.clones {
            return Ok(None);
        }
        let mut content = state.node(source).volatile.clone();
        match content.get_mut(..skip_bytes as usize) {
            Some(skipped) => skipped.fill(0),
            None => return Ok(None),
        }
        let node = state.add_name(to);
        // A clone copies what programs see of the source, and is not durable itself before it is synced.
        state.node(node).change(Change::SetLen(content.len()));
        state.node(node).change(Change::Write { offset: 0, data: content });
        Ok(Some(Box::new(SimFile { storage: self.clone(), name: to, node })))
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<()> {
        let mut state = self.call(Action::Word("rename"), Some(from), true)?;
        let Some(node) = state.volatile_names.remove(&from) else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::io(self.path(from), "rename")(missing));
        };
        state.volatile_names.insert(to, node);
        state.pending_names.push(NameChange::Rename(from, to, node));
        Ok(())
    }

    fn remove(&self, name: FileName) -> Result<()> {
        let mut state = self.call(Action::Word("remove"), Some(name), false)?;
        if state.volatile_names.remove(&name).is_some() {
            state.pending_names.push(NameChange::Unlink(name));
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<FileName>> {
        Ok(self.call(Action::Word("list"), None, false)?.volatile_names.keys().copied().collect())
    }

    fn sync_folder(&self) -> Result<()> {
        let called = self.call(Action::Word("sync"), None, true);
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

    fn seen(&self) -> Option<&Seen> {
        Some(&self.seen)
    }

    fn lock(&self, holder: &str) -> Result<Box<dyn StorageLock>> {
        let mut state = self.call(Action::Word("lock"), Some(FileName::Lock), false)?;
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

struct SimLock(SimStorage);

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}
