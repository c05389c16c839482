//! What the kernel reports in `/proc` and `/sys`.

use std::io;
use std::path::Path;

use crate::base::error::limit;

/// The text of a file there; `None` if it cannot be read.
pub(crate) fn read(path: &Path) -> Option<String> {
    read_within_limits(path).ok().flatten()
}

/// The same.
///
/// # Errors
/// If this process lacks descriptors or memory for it: then the content is not known.
#[expect(clippy::disallowed_methods, reason = "kernel tables, no files of an archive")]
pub(crate) fn read_within_limits(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if limit(&error).is_some() => Err(error),
        Err(_) => Ok(None),
    }
}
