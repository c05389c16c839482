//! Shows others that an operation makes progress: the time of the lock file follows it.
//!
//! A process that hangs, on a dead disk or in the kernel, keeps its lock and cannot report anything. Whoever looks at
//! the archive finds that the lock is held and for how long nothing has happened.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::progress::{Counters, Event, Observer};
use crate::base::revision::OperationId;
use crate::storage::StorageLock;

/// How often the time of the lock file follows.
const BEAT: Duration = Duration::from_secs(10);

/// Passes on everything, and keeps an eye on the progress.
pub(super) struct Heartbeat<'a> {
    inner: &'a dyn Observer,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    counters: Option<Arc<Counters>>,
    ended: bool,
}

impl<'a> Heartbeat<'a> {
    /// Begins to watch an operation of the holder of a lock.
    pub(super) fn begin(lock: &Arc<dyn StorageLock>, inner: &'a dyn Observer) -> Self {
        let shared = Arc::<Shared>::default();
        let thread = lock.shows_progress().then(|| {
            let (lock, shared) = (Arc::clone(lock), Arc::clone(&shared));
            // Without a thread the time stays as it is, which is no reason to fail.
            std::thread::Builder::new().spawn(move || shared.follow(&*lock)).ok()
        });
        Heartbeat { inner, shared, thread: thread.flatten() }
    }
}

impl Shared {
    fn follow(&self, lock: &dyn StorageLock) {
        let mut seen = None;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.ended {
            let woken = self.changed.wait_timeout(state, BEAT);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            let counters = state.counters.clone();
            let now = counters.map(|counters| (Arc::as_ptr(&counters), counters.done_bytes()));
            if now != seen && !state.ended {
                seen = now;
                drop(state);
                lock.touch();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Observer for Heartbeat<'_> {
    fn event(&self, event: &Event) {
        if let Event::Begin { counters, .. } = event {
            self.shared.change(|state| state.counters = Some(Arc::clone(counters)));
        }
        self.inner.event(event);
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }

    fn hold_back(&self, held: bool) {
        self.inner.hold_back(held);
    }

    fn operation(&self) -> Option<OperationId> {
        self.inner.operation()
    }
}

impl Drop for Heartbeat<'_> {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It does not panic. If it did, that would not harm the operation.
            let _ = thread.join();
        }
    }
}
