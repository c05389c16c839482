//! A history of an archive: commands, failures in them, and other events; see [`crate::model`] for the promises.

use arbitrary::{Arbitrary, Unstructured};

use crate::model::{History, Model};

/// Reads a history from the bytes and carries it out.
///
/// # Panics
/// When the archive is not what it has to be.
pub fn run(data: &[u8]) {
    if let Ok(history) = History::arbitrary(&mut Unstructured::new(data)) {
        Model::run(&history);
    }
}
