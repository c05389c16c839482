//! What is below a disk: the backing files of its image, which are only read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::base::canary::{Bug, planted};

/// Longest chain of backing files whose changes are looked for: more cost more than reading everything.
const MOST_FILES: usize = 64;

/// What identifies the backing files as they are, the upper ones first. They are only read, so that a change of one
/// shows that the chain is another one, or that somebody has written below the image, which its bitmaps do not record.
///
/// # Errors
/// A sentence: why a change would not show.
pub(super) fn identify<'f>(
    files: impl Iterator<Item = &'f str>,
) -> std::result::Result<String, String> {
    let mut out = Vec::new();
    for (count, file) in files.enumerate() {
        if count == MOST_FILES {
            return Err(format!("found more than {MOST_FILES} backing files"));
        }
        let path = Path::new(file);
        let found = fs::metadata(path).ok().filter(|found| found.is_file() && path.is_absolute());
        let Some(found) = found else {
            return Err(format!(
                "its backing file {} is no local file, of which a change would show",
                file.escape_debug()
            ));
        };
        let (inode, size, at, nanos) =
            (found.ino(), found.len(), found.ctime(), found.ctime_nsec());
        if !planted(Bug::UnseenBacking) {
            out.push(format!("inode {inode} of {size} bytes, changed at {at}.{nanos:09}"));
        }
    }
    Ok(match out.is_empty() {
        true => "no backing file".to_owned(),
        false => format!("backing file {}", out.join(", then ")),
    })
}
