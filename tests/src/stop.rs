//! Operations that are asked to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use backy_lib::progress::{Event, Observer};

/// Wants an operation to stop from the nth time on that it asks.
#[derive(Debug)]
pub struct StopAt {
    left: AtomicU64,
    asked_to: AtomicBool,
}

impl StopAt {
    /// Lets it go on this many times.
    pub fn after(asked: u64) -> Self {
        StopAt { left: AtomicU64::new(asked), asked_to: false.into() }
    }

    /// Whether it has been told to stop.
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
