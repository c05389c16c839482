//! Files that a program is closing: `umount` has to wait for them.
//!
//! A program that closes a file waits for `flush`, but not for `release`, and only after `release` nothing of
//! the archive is open. Before it unmounts, `umount` asks for the state of the file system and waits for the
//! answer; that answer is delayed until closing has finished. Not every `flush` is the last one: another
//! descriptor or a loop device may have the file open.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The handles of files that got a `flush` and no `release` yet.
#[derive(Default)]
pub(super) struct Closing {
    handles: Mutex<HashSet<u64>>,
    changed: Condvar,
}

impl Closing {
    /// A program closes a descriptor of this file, perhaps not the last one.
    pub(super) fn begin(&self, handle: u64) {
        self.handles().insert(handle);
    }

    /// The file is closed.
    pub(super) fn end(&self, handle: u64) {
        if self.handles().remove(&handle) {
            self.changed.notify_all();
        }
    }

    /// Waits until all of them are closed. A file that is still open after `limit` is open elsewhere, and
    /// does not delay anyone again until the next `flush`.
    pub(super) fn settle(&self, limit: Duration) {
        let is_any = |handles: &mut HashSet<u64>| !handles.is_empty();
        let waited = self.changed.wait_timeout_while(self.handles(), limit, is_any);
        let (mut handles, _) = waited.unwrap_or_else(PoisonError::into_inner);
        handles.clear();
    }

    fn handles(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    /// Waits for a file that is being closed, and no longer than necessary.
    #[test]
    fn settle_waits_for_a_file_that_is_being_closed() {
        let closing = Closing::default();
        closing.settle(LONG);
        closing.begin(1);
        closing.begin(2);
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                closing.end(1);
                std::thread::sleep(SHORT);
                closing.end(2);
            });
            closing.settle(LONG);
        });
        assert!(start.elapsed() >= SHORT && start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    }

    /// A file that stays open elsewhere delays only one caller.
    #[test]
    fn settle_waits_only_once_for_a_file_that_stays_open() {
        let closing = Closing::default();
        closing.begin(1);
        let start = Instant::now();
        closing.settle(SHORT);
        assert!(start.elapsed() >= SHORT);
        let start = Instant::now();
        closing.settle(LONG);
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    }
}
