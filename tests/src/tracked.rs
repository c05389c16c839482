//! A source in memory that keeps marks and knows what has changed since, if it does not lie.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backy_lib::extent::Extent;
use backy_lib::format::manifest::{Bookmark, SourceIdentity};
use backy_lib::mark::{ArchiveId, MarkName};
use backy_lib::source::{Marked, Opened, Source, Tracker};
use backy_lib::{Error, Result};

use crate::memory::MemorySource;

/// Its name in bookmarks.
pub const TRACKER: &str = "simulated";

/// A disk with marks. Clones are the same disk.
#[derive(Clone, Default)]
pub struct TrackedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    content: Vec<u8>,
    /// Where it is zero is no hole.
    is_dense: bool,
    marks: BTreeMap<String, Mark>,
    made: u64,
    identity: String,
    /// Changes of these extents are not reported.
    hidden: Vec<Extent>,
    /// The call of the tracker that fails, counted from 1.
    fails_at: Option<u64>,
    calls: u64,
    read: Vec<Extent>,
}

impl State {
    /// An earlier mark; or why it cannot be relied on.
    fn earlier(&self, name: MarkName, known: &Bookmark) -> std::result::Result<Mark, String> {
        match self.marks.get(&name.to_string()) {
            None => Err("the mark is missing".to_owned()),
            Some(_) if known.identity != self.identity => Err("it is another source".to_owned()),
            Some(mark) if known.id != mark.id => Err("the mark was made again".to_owned()),
            Some(mark) => Ok(mark.clone()),
        }
    }
}

#[derive(Clone)]
struct Mark {
    id: String,
    content: Vec<u8>,
}

impl TrackedDisk {
    /// A disk with this content.
    pub fn new(content: &[u8]) -> Self {
        let disk = TrackedDisk::default();
        disk.state().content = content.to_vec();
        disk
    }

    /// An independent copy, which fails nowhere.
    pub fn fork(&self) -> Self {
        let state = State { fails_at: None, calls: 0, read: Vec::new(), ..self.state().clone() };
        TrackedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes the content.
    pub fn set(&self, content: &[u8]) {
        self.state().content = content.to_vec();
    }

    /// Does not know its holes.
    pub fn be_dense(&self) {
        self.state().is_dense = true;
    }

    /// Does not report changes of these extents.
    pub fn hide(&self, extents: &[Extent]) {
        self.state().hidden = extents.to_vec();
    }

    /// Becomes another one with the same content and marks.
    pub fn rename(&self, identity: &str) {
        self.state().identity = identity.to_owned();
    }

    /// Loses all marks.
    pub fn lose_marks(&self) {
        self.state().marks.clear();
    }

    /// Makes marks of the same names, of what it holds now.
    pub fn make_marks_anew(&self) {
        let mut state = self.state();
        state.made += 100;
        let (content, made) = (state.content.clone(), state.made);
        for mark in state.marks.values_mut() {
            *mark = Mark { id: made.to_string(), content: content.clone() };
        }
    }

    /// Adds a mark that backy did not make.
    pub fn add_mark(&self, name: &str) {
        let mut state = self.state();
        let mark = Mark { id: "0".to_owned(), content: state.content.clone() };
        state.marks.insert(name.to_owned(), mark);
    }

    /// Fails at this call of its tracker.
    pub fn fail_at(&self, call: Option<u64>) {
        let mut state = self.state();
        (state.fails_at, state.calls) = (call, 0);
    }

    /// How many calls its tracker got.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The names of its marks, and what it held at each.
    pub fn marks(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.state();
        state.marks.iter().map(|(name, mark)| (name.clone(), mark.content.clone())).collect()
    }

    /// Bytes that were read since this was last asked.
    pub fn take_read_bytes(&self) -> u64 {
        std::mem::take(&mut self.state().read).iter().map(|extent| extent.len).sum()
    }

    /// Opens it for a backup.
    pub fn open(&self) -> Opened<'static> {
        let shared = Arc::new(Mutex::new(Reading { live: true, ..Reading::default() }));
        Opened {
            source: Box::new(TrackedSource { disk: self.clone(), shared: Arc::clone(&shared) }),
            tracker: Some(Box::new(DiskTracker { disk: self.clone(), shared })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call of the tracker, which then works or fails.
    fn call(&self, action: &str) -> Result<()> {
        let mut state = self.state();
        state.calls += 1;
        match state.fails_at == Some(state.calls) {
            true => Err(source_error(format!("cannot {action}"))),
            false => Ok(()),
        }
    }
}

fn source_error(message: String) -> Error {
    Error::Source { path: "/tracked".into(), message }
}

/// What an open source shows.
#[derive(Default)]
struct Reading {
    live: bool,
    content: Vec<u8>,
    changed: Option<Vec<Extent>>,
}

struct TrackedSource {
    disk: TrackedDisk,
    shared: Arc<Mutex<Reading>>,
}

impl TrackedSource {
    /// The content as of the mark, or as it is now.
    fn shown(&self) -> MemorySource {
        let reading = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match reading.live {
            true => MemorySource::new(&self.disk.state().content),
            false => {
                let source = MemorySource::new(&reading.content);
                match &reading.changed {
                    Some(changed) => source.changed_at(changed),
                    None => source,
                }
            }
        }
    }
}

impl Source for TrackedSource {
    fn identity(&self) -> SourceIdentity {
        SourceIdentity::new("/tracked", "file")
    }

    fn size_bytes(&self) -> u64 {
        self.shown().size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.disk.state().read.push(Extent::new(offset, buffer.len() as u64));
        self.shown().read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        if self.knows_holes() {
            return self.shown().next_data(offset);
        }
        let rest = Extent::between(offset, self.size_bytes());
        Ok((rest.len > 0).then_some(rest))
    }

    fn knows_holes(&self) -> bool {
        !self.disk.state().is_dense
    }

    fn gives_hints(&self) -> bool {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).changed.is_some()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        self.shown().next_changed(offset)
    }
}

struct DiskTracker {
    disk: TrackedDisk,
    shared: Arc<Mutex<Reading>>,
}

impl Tracker for DiskTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        self.disk.call("make a mark")?;
        let mut state = self.disk.state();
        state.made += 1;
        let mark = Mark { id: state.made.to_string(), content: state.content.clone() };
        let bookmark = Bookmark::new(TRACKER, mark.id.clone(), state.identity.clone(), 1);
        let hidden = state.hidden.clone();
        let before = since.map(|(name, known)| state.earlier(name, known));
        let mut reading = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        (reading.live, reading.content) = (false, mark.content.clone());
        if state.marks.insert(name.to_string(), mark.clone()).is_some() {
            return Err(source_error(format!("there is a mark {name} already")));
        }
        Ok(match before {
            None => Marked::unknown(bookmark, "there is no mark".to_owned()),
            Some(Err(doubt)) => Marked::unknown(bookmark, doubt),
            Some(Ok(before)) => {
                reading.changed = Some(differences(&before.content, &mark.content, &hidden));
                Marked::known(bookmark)
            }
        })
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        self.disk.call("look at a mark")?;
        Ok(self.disk.state().earlier(name, bookmark).err())
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        self.disk.call("list the marks")?;
        let state = self.disk.state();
        let ours = state.marks.keys().filter_map(|name| name.parse::<MarkName>().ok());
        Ok(ours.filter(|name| name.archive == archive).collect())
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        for name in self.marks(archive)?.into_iter().filter(|name| Some(*name) != keep) {
            self.disk.call("remove a mark")?;
            self.disk.state().marks.remove(&name.to_string());
        }
        Ok(())
    }
}

/// Where two contents differ, in whole pages, except for what is hidden.
fn differences(old: &[u8], new: &[u8], hidden: &[Extent]) -> Vec<Extent> {
    const PAGE: usize = 512;
    let pages =
        (0..new.len().div_ceil(PAGE)).map(|page| (page * PAGE, ((page + 1) * PAGE).min(new.len())));
    let differs = |&(start, end): &(usize, usize)| {
        let is_hidden =
            hidden.iter().any(|extent| extent.offset < end as u64 && start as u64 <= extent.end());
        old.get(start..end) != new.get(start..end) && !is_hidden
    };
    pages.filter(differs).map(|(start, end)| Extent::between(start as u64, end as u64)).collect()
}
