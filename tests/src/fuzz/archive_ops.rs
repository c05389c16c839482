//! A history of an archive: commands, things that go wrong in them, and what else happens; see [`crate::model`]
//! for the promises.

use arbitrary::{Arbitrary, Unstructured};

use crate::model::{History, Model};

/// Reads a history out of the bytes and makes it happen.
///
/// # Panics
/// When the archive is not what it has to be.
pub fn run(data: &[u8]) {
    if let Ok(history) = History::arbitrary(&mut Unstructured::new(data)) {
        Model::run(&history);
    }
}
