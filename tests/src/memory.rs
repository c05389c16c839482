//! A source and a target that are vectors.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backy_lib::extent::Extent;
use backy_lib::format::manifest::SourceIdentity;
use backy_lib::restore::{Target, TargetKind};
use backy_lib::source::Source;
use backy_lib::{Error, Result};

/// Pages of zeros are holes.
const PAGE: usize = 4096;

/// Nobody restores more to memory, unless an archive claims to be larger than it is.
const MAX_TARGET_BYTES: u64 = 256 << 20;

/// A source in memory.
#[derive(Default)]
pub struct MemorySource {
    bytes: Vec<u8>,
    /// The call that fails, counted from 1, and whether all after it do, too.
    fails: Option<(u64, bool)>,
    /// Its size when it is asked again.
    size_later: Option<u64>,
    /// What may have changed according to it. `None` when it does not know.
    changed: Option<Vec<Extent>>,
    /// How many calls it gets before it reports any change.
    silent_calls: u64,
    lost: Vec<Extent>,
    calls: AtomicU64,
    read_extents: Mutex<Vec<Extent>>,
}

impl MemorySource {
    /// A source with this content.
    pub fn new(bytes: &[u8]) -> Self {
        MemorySource { bytes: bytes.to_vec(), ..Self::default() }
    }

    /// Fails at call number `at`, counted from 1, whatever it is for.
    pub fn failing_at(mut self, at: u64) -> Self {
        self.fails = Some((at, false));
        self
    }

    /// The same, and at every call after it.
    pub fn failing_from(mut self, at: u64) -> Self {
        self.fails = Some((at, true));
        self
    }

    /// Has another size by the time it has been read.
    pub fn resized_later(mut self, size_bytes: u64) -> Self {
        self.size_later = Some(size_bytes);
        self
    }

    /// Knows that only these extents, ascending, may have changed.
    pub fn changed_at(mut self, changed: &[Extent]) -> Self {
        self.changed = Some(changed.to_vec());
        self
    }

    /// Reports no change before it has had so many calls.
    pub fn silent_for(mut self, calls: u64) -> Self {
        self.silent_calls = calls;
        self
    }

    /// Does not know the right content of these extents, ascending.
    pub fn lost_at(mut self, lost: &[Extent]) -> Self {
        self.lost = lost.to_vec();
        self
    }

    /// What was read from it, in the order of the reads.
    pub fn read_extents(&self) -> Vec<Extent> {
        self.read_extents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many calls it got.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    /// Counts a call, which then succeeds or fails.
    fn call(&self, action: &str, offset: u64) -> Result<()> {
        let number = self.calls.fetch_add(1, Relaxed) + 1;
        let fails = self.fails.is_some_and(|(at, lasting)| number == at || lasting && number > at);
        match fails {
            true => {
                let error = io::Error::from_raw_os_error(5);
                Err(Error::io("/memory", format!("{action} at offset {offset}"))(error))
            }
            false => Ok(()),
        }
    }
}

impl Source for MemorySource {
    fn identity(&self) -> SourceIdentity {
        SourceIdentity::new("/memory", "file")
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.call("look up its size", 0)?;
        Ok(self.size_later.unwrap_or(self.size_bytes()))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.call("read", offset)?;
        let extent = Extent::new(offset, buffer.len() as u64);
        self.read_extents.lock().unwrap_or_else(PoisonError::into_inner).push(extent);
        let visible = self.size_later.unwrap_or(u64::MAX).min(self.size_bytes()) as usize;
        let rest = self.bytes.get(offset as usize..visible).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn knows_holes(&self) -> bool {
        true
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.call("seek data", offset)?;
        Ok(next_data(&self.bytes, offset))
    }

    fn gives_hints(&self) -> bool {
        self.changed.is_some()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        self.call("ask for changes", offset)?;
        let Some(changed) = &self.changed else {
            let size_bytes = self.size_bytes();
            return Ok((offset < size_bytes).then(|| Extent::between(offset, size_bytes)));
        };
        if self.calls() <= self.silent_calls {
            return Ok(None);
        }
        let next = changed.iter().find(|extent| extent.end() > offset);
        Ok(next.map(|extent| Extent::between(extent.offset.max(offset), extent.end())))
    }

    fn lost(&self) -> &[Extent] {
        &self.lost
    }
}

fn next_data(bytes: &[u8], offset: u64) -> Option<Extent> {
    let pages: Vec<bool> = bytes.chunks(PAGE).map(|page| page.iter().any(|&b| b != 0)).collect();
    let first = offset as usize / PAGE;
    let start = (first..pages.len()).find(|&page| pages[page])?;
    let end = (start..pages.len()).find(|&page| !pages[page]).unwrap_or(pages.len());
    let end = (end * PAGE).min(bytes.len()) as u64;
    let start = ((start * PAGE) as u64).max(offset);
    (start < end).then(|| Extent::between(start, end))
}

/// A target in memory.
pub struct MemoryTarget {
    bytes: Mutex<Vec<u8>>,
    new: bool,
    written_bytes: AtomicU64,
}

impl MemoryTarget {
    /// A target that does not exist yet.
    pub fn absent() -> Self {
        MemoryTarget { bytes: Mutex::default(), new: true, written_bytes: AtomicU64::new(0) }
    }

    /// A target that holds something.
    pub fn holding(bytes: &[u8]) -> Self {
        let bytes = Mutex::new(bytes.to_vec());
        MemoryTarget { bytes, new: false, written_bytes: AtomicU64::new(0) }
    }

    /// What it holds now.
    pub fn content(&self) -> Vec<u8> {
        self.bytes().clone()
    }

    /// How many bytes were written to it.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Relaxed)
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for MemoryTarget {
    fn path(&self) -> PathBuf {
        PathBuf::from("/memory")
    }

    fn kind(&self) -> TargetKind {
        if self.new { TargetKind::NewFile } else { TargetKind::File }
    }

    fn size_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn prepare(&self, size_bytes: u64) -> Result<()> {
        if size_bytes > MAX_TARGET_BYTES {
            let too_large = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(Error::io(self.path(), "set its length")(too_large));
        }
        self.bytes().resize(size_bytes as usize, 0);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.bytes();
        let there = bytes.get(offset as usize..).unwrap_or_default();
        let (found, rest) = buffer.split_at_mut(there.len().min(buffer.len()));
        found.copy_from_slice(&there[..found.len()]);
        rest.fill(0);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.written_bytes.fetch_add(data.len() as u64, Relaxed);
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn clear(&self, extent: Extent) -> Result<()> {
        self.written_bytes.fetch_add(extent.len, Relaxed);
        self.bytes()[extent.offset as usize..extent.end() as usize].fill(0);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        Ok(next_data(&self.bytes(), offset))
    }

    fn finish(&self, size_bytes: u64) -> Result<()> {
        self.bytes().truncate(size_bytes as usize);
        Ok(())
    }
}
