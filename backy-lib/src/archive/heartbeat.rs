//! Shows others that an operation makes progress: the time of the lock file follows it.
//!
//! A process that hangs, on a dead disk or in the kernel, keeps its lock and cannot report anything. Whoever looks at
//! the archive finds that the lock is held and for how long nothing has happened. Who works also asks now and then
//! whether to stop, and that is when the time is set; so this needs no thread of its own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::progress::{Counters, Event, Observer};
use crate::base::revision::OperationId;
use crate::storage::StorageLock;

/// How often the time of the lock file follows.
const BEAT: Duration = Duration::from_secs(10);

/// Passes on everything, and keeps an eye on the progress.
pub(super) struct Heartbeat<'a> {
    inner: &'a dyn Observer,
    lock: &'a dyn StorageLock,
    state: Mutex<State>,
}

struct State {
    counters: Option<Arc<Counters>>,
    /// Bytes done when the time was last looked at.
    done_bytes: Option<u64>,
    at: Instant,
}

impl<'a> Heartbeat<'a> {
    /// Begins to watch an operation of the holder of a lock.
    pub(super) fn begin(lock: &'a dyn StorageLock, inner: &'a dyn Observer) -> Self {
        let state = State { counters: None, done_bytes: None, at: Instant::now() };
        Heartbeat { inner, lock, state: Mutex::new(state) }
    }

    fn beat(&self) {
        // Somebody else is at it.
        let Ok(mut state) = self.state.try_lock() else { return };
        if state.at.elapsed() < BEAT {
            return;
        }
        state.at = Instant::now();
        let done_bytes = state.counters.as_ref().map(|counters| counters.done_bytes());
        if done_bytes != state.done_bytes {
            state.done_bytes = done_bytes;
            self.lock.touch();
        }
    }
}

impl Observer for Heartbeat<'_> {
    fn event(&self, event: &Event) {
        if let (Event::Begin { counters, .. }, Ok(mut state)) = (event, self.state.lock()) {
            (state.counters, state.done_bytes) = (Some(Arc::clone(counters)), None);
        }
        self.inner.event(event);
    }

    fn cancelled(&self) -> bool {
        self.beat();
        self.inner.cancelled()
    }

    fn hold_back(&self, held: bool) {
        self.inner.hold_back(held);
    }

    fn operation(&self) -> Option<OperationId> {
        self.inner.operation()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::base::progress::{self, Phase, Silent};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl StorageLock for Counting {
        fn touch(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// The time is set when there was progress since the last look, at most every ten seconds, and not when an
    /// operation only asks whether to stop.
    #[test]
    fn the_time_follows_the_progress() {
        let lock = Counting::default();
        let heartbeat = Heartbeat::begin(&lock, &Silent);
        let counters = progress::begin(&heartbeat, Phase::Backup, 100);
        let look = |later: bool| {
            if later {
                heartbeat.state.lock().unwrap().at = Instant::now().checked_sub(BEAT).unwrap();
            }
            assert!(!heartbeat.cancelled());
            lock.0.load(Relaxed)
        };
        assert_eq!((look(false), look(true), look(true)), (0, 1, 1));
        counters.add(10);
        assert_eq!((look(false), look(true), look(true)), (1, 2, 2));
    }
}
