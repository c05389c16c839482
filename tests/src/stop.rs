//! Operations that are asked to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use backy_lib::progress::{Event, Observer};

/// Asks an operation to stop from its nth check on.
#[derive(Debug)]
pub struct StopAt {
    left: AtomicU64,
    asked_to: AtomicBool,
}

impl StopAt {
    /// Allows this many checks.
    pub fn after(asked: u64) -> Self {
        StopAt { left: AtomicU64::new(asked), asked_to: false.into() }
    }

    /// Whether it has asked for a stop.
    pub fn has_said_so(&self) -> bool {
        self.asked_to.load(Relaxed)
    }
}

impl Observer for StopAt {
    fn event(&self, _event: &Event) {}

    fn cancelled(&self) -> bool {
        let now = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err();
        self.asked_to.fetch_or(now, Relaxed);
        now
    }
}
