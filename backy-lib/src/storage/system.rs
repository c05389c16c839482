//! What the kernel says in `/proc` and `/sys`.

use std::path::Path;

/// The text of a file there; `None` where it cannot be read.
#[expect(clippy::disallowed_methods, reason = "kernel tables, no files of an archive")]
pub(crate) fn read(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
