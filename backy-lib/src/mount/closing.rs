//! Files that somebody is closing: what `umount` has to wait for.
//!
//! Whoever closes a file waits for `flush`, but not for `release`, after which nothing of the archive may be open any
//! more. Before it unmounts, `umount` asks for the state of the file system, and waits for the answer: that is when
//! what is being closed is waited for. Not every `flush` is the last one: a file may be open by another descriptor,
//! or by a loop device.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The handles of files of which a `flush` has come and no `release` yet.
#[derive(Default)]
pub(super) struct Closing {
    handles: Mutex<HashSet<u64>>,
    changed: Condvar,
}

impl Closing {
    /// Somebody closes a descriptor of this file, perhaps not the only one.
    pub(super) fn begin(&self, handle: u64) {
        self.handles().insert(handle);
    }

    /// The file is closed.
    pub(super) fn end(&self, handle: u64) {
        if self.handles().remove(&handle) {
            self.changed.notify_all();
        }
    }

    /// Waits until all of them are closed. What is not after `limit` is open elsewhere, and is not waited for again
    /// until the next `flush`.
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

    /// What is being closed is waited for, no longer than it takes.
    #[test]
    fn a_file_that_is_being_closed_is_waited_for() {
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

    /// A file that stays open elsewhere delays only one who asks.
    #[test]
    fn a_file_that_stays_open_is_waited_for_once() {
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
