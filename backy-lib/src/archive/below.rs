//! Archives right below a folder that is not an archive itself: a user who names that folder means these.

use std::path::{Path, PathBuf};

use crate::storage::FileName;

/// The archives right below a folder, by name; none if backy cannot list it.
pub fn archives_below(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    let is_archive = |path: &PathBuf| path.join(FileName::MANIFEST.to_string()).is_file();
    let mut found: Vec<PathBuf> = folders.filter(is_archive).collect();
    found.sort_unstable();
    found
}
