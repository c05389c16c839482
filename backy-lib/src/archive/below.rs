//! Archives right below a folder that is none: what somebody means who names their parent.

use std::path::{Path, PathBuf};

use crate::storage::FileName;

/// The archives right below a folder, by name; none when it cannot be listed.
pub fn archives_below(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    let is_archive = |path: &PathBuf| path.join(FileName::MANIFEST.to_string()).is_file();
    let mut found: Vec<PathBuf> = folders.filter(is_archive).collect();
    found.sort_unstable();
    found
}
