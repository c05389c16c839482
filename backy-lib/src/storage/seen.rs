//! What a writer knows about the manifest on disk.
//!
//! The lock keeps writers apart, but not everywhere: on some network file systems only the machine that took a
//! `flock` knows of it, so two writers may be at work. Then the manifest on disk is not the one that this writer has
//! read or published, and nothing may be changed any more.

use std::sync::{Mutex, PoisonError};

/// Checksums of the manifests that may be on disk; none before a writer has read one.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Vec<String>>);

impl Seen {
    /// It has this checksum.
    pub fn set(&self, checksum: &str) {
        *self.checksums() = vec![checksum.to_owned()];
    }

    /// It may also have this one, which is about to be published.
    pub fn add(&self, checksum: &str) {
        self.checksums().push(checksum.to_owned());
    }

    /// Whether one with this checksum was written by somebody else.
    pub fn is_foreign(&self, checksum: &str) -> bool {
        let known = self.checksums();
        !known.is_empty() && !known.iter().any(|known| known == checksum)
    }

    /// Whether no writer has begun yet.
    pub fn is_empty(&self) -> bool {
        self.checksums().is_empty()
    }

    fn checksums(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
