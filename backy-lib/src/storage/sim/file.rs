//! One open file of the simulated disk.

use std::io;
use std::path::PathBuf;
use std::sync::MutexGuard;

use jiff::Timestamp;

use super::SimStorage;
use super::state::{Action, Change, SECTOR, State};
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::storage::{FileName, Stamp, Storage, StorageFile};

/// Holes are reported in units of this many bytes.
const PAGE: u64 = 4096;

/// As on any file system there is a limit; here it also bounds the memory that a hostile length can take.
const MAX_FILE_BYTES: u64 = 64 << 20;

pub(super) struct SimFile {
    pub(super) storage: SimStorage,
    pub(super) name: FileName,
    pub(super) node: u64,
}

impl SimFile {
    fn call(&self, action: Action, needs_space: bool) -> Result<MutexGuard<'_, State>> {
        self.storage.call(action, Some(self.name), needs_space)
    }

    /// Checks that a file may end there.
    fn check_end(&self, end: Option<u64>, action: Action) -> Result<()> {
        if end.is_some_and(|end| end <= MAX_FILE_BYTES) {
            return Ok(());
        }
        let error = io::Error::from(io::ErrorKind::FileTooLarge);
        Err(Error::io(self.path(), action.to_string())(error))
    }
}

/// Whether a page, or the part of one at the end of a file, is all zero.
fn is_zero(page: &[u8]) -> bool {
    const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    *page == ZEROS[..page.len()]
}

impl StorageFile for SimFile {
    fn path(&self) -> PathBuf {
        self.storage.path(self.name)
    }

    fn is_in_place(&self) -> Result<bool> {
        let state = self.call(Action::Word("look up"), false)?;
        let node = state.volatile_names.get(&self.name);
        Ok(node == Some(&self.node) || (self.storage.is_remote && node.is_some()))
    }

    fn stamp(&self) -> Result<Option<Stamp>> {
        if self.storage.is_remote {
            return Ok(None);
        }
        let mut state = self.call(Action::Word("look up its times"), false)?;
        let node = state.node(self.node);
        let (len, changed) = (node.volatile.len() as u64, (node.changes, 0));
        Ok(Some(Stamp { len, modified: changed, changed }))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.call(Action::Word("look up its length"), false)?.node(self.node).volatile.len()
            as u64)
    }

    fn allocated_bytes(&self) -> Result<u64> {
        let mut state = self.call(Action::Word("look up its size on disk"), false)?;
        if state.hides_holes {
            return Ok((state.node(self.node).volatile.len() as u64).next_multiple_of(512));
        }
        let pages = state.node(self.node).volatile.chunks(PAGE as usize);
        Ok(pages.filter(|page| !is_zero(page)).count() as u64 * PAGE)
    }

    fn modified(&self) -> Result<Timestamp> {
        let mut state = self.call(Action::Word("look up its time"), false)?;
        let changes = state.node(self.node).changes;
        Ok(Timestamp::from_nanosecond(changes.into()).unwrap_or_default())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let action = Action::Read(buffer.len(), offset);
        let mut state = self.call(action, false)?;
        let content = &state.node(self.node).volatile;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        *state.read_bytes.entry(self.name).or_default() += count as u64;
        Ok(count)
    }

    fn drop_cache(&self) {
        // What a failed sync has lost is lost from here on.
        let _ = self.sync();
        let mut state = self.storage.state();
        if !state.crashed() {
            let node = state.node(self.node);
            node.volatile.clone_from(&node.durable);
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let action = Action::Write(data.len(), offset);
        self.check_end(offset.checked_add(data.len() as u64), action)?;
        let mut change = Change::Write { offset: offset as usize, data: data.to_vec() };
        match self.call(action, true) {
            Ok(mut state) => {
                state.node(self.node).change(change);
                Ok(())
            }
            Err(error) => {
                // A write that failed, or that the crash cut, may have written a part.
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
        let action = Action::SetLen(len);
        self.check_end(Some(len), action)?;
        let mut state = self.call(action, false)?;
        if state.node(self.node).volatile.len() as u64 != len {
            state.node(self.node).change(Change::SetLen(len as usize));
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        // Allocated space is not counted: faults decide when the disk is full.
        self.call(Action::Allocate(bytes), true).map(drop)
    }

    fn punch_hole(&self, extent: Extent) -> Result<()> {
        let mut state = self.call(Action::Clear(extent), false)?;
        let (offset, len) = (extent.offset as usize, extent.len as usize);
        state.node(self.node).change(Change::Punch { offset, len });
        Ok(())
    }

    fn zero(&self, extent: Extent) -> Result<()> {
        let mut state = self.call(Action::Zero(extent), true)?;
        let (offset, len) = (extent.offset as usize, extent.len as usize);
        state.node(self.node).change(Change::Punch { offset, len });
        Ok(())
    }

    fn make_room(&self, extent: Extent) -> Result<()> {
        // Allocated space is not counted: faults decide when the disk is full.
        self.call(Action::MakeRoom(extent), true).map(drop)
    }

    fn hides_holes(&self) -> Result<bool> {
        Ok(self.storage.state().hides_holes)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        let mut state = self.call(Action::SeekData(offset), false)?;
        let hides_holes = state.hides_holes;
        let content = &state.node(self.node).volatile;
        let len = content.len() as u64;
        let zero = |page: u64| {
            let end = ((page + 1) * PAGE).min(len) as usize;
            is_zero(&content[(page * PAGE) as usize..end])
        };
        let pages = len.div_ceil(PAGE);
        if offset >= len {
            return Ok(None);
        }
        if hides_holes {
            return Ok(Some(Extent::between(offset, len)));
        }
        let Some(start) = (offset / PAGE..pages).find(|&page| !zero(page)) else { return Ok(None) };
        let end = (start..pages).find(|&page| zero(page)).unwrap_or(pages);
        Ok(Some(Extent::between((start * PAGE).max(offset), (end * PAGE).min(len))))
    }

    fn sync(&self) -> Result<()> {
        match self.call(Action::Word("sync"), true) {
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
