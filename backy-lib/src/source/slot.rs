//! What a source reads at a mark, which its tracker puts there: nothing until there is one.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

pub(super) struct Slot<T>(RwLock<Option<T>>);

impl<T> Slot<T> {
    pub(super) fn empty() -> Self {
        Slot(RwLock::new(None))
    }

    pub(super) fn get(&self) -> RwLockReadGuard<'_, Option<T>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something else read, or nothing. Waits for those who read.
    pub(super) fn put(&self, held: Option<T>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = held;
    }
}
