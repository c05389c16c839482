//! Which folders a user means by a path to archives: an archive, a folder with archives right below it, or a pattern.
//!
//! A path that cannot be looked at is not left out: each error except "not there" is a result of its own, with its
//! path. So is an empty folder, because an unmounted disk looks like one.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use crate::base::error::{Error, Result};
use crate::base::report_path::ReportPath;
use crate::storage::FileName;

/// Characters that make a path a pattern.
const SPECIAL: [char; 3] = ['*', '?', '['];
/// `**` goes no deeper than this.
const MAX_DEPTH: usize = 64;
/// A folder that file systems keep for themselves at their top; only root may look into it.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder that holds an archive, or a path that cannot be looked at, with the reason.
pub(crate) type Found = std::result::Result<PathBuf, (PathBuf, Error)>;

/// The name of an archive in reports, figures and labels: its folder without symbolic links, however somebody typed
/// it. A folder that does not exist has the name that it would have.
pub(crate) fn label(folder: &Path) -> ReportPath {
    real(folder).into()
}

/// Follows the path as far as possible: an archive on a disk that is gone keeps its name.
fn real(folder: &Path) -> PathBuf {
    let folder = &std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let followed = |above: &Path| {
        let rest = folder.strip_prefix(above).ok()?;
        let real = above.canonicalize().ok()?;
        Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
    };
    // Without parts that mean nothing: a slash at the end, single dots.
    let real = folder.ancestors().find_map(followed);
    real.unwrap_or_else(|| folder.clone()).components().collect()
}

/// All archives that the user named, each once even if several names lead to it, in the given order.
pub(crate) fn archives(given: &[PathBuf]) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    let folders = given.iter().flat_map(|path| expanded(path));
    let found = folders.flat_map(|folder| match folder {
        Ok(folder) => archives_in(&folder),
        Err(failed) => vec![Err(failed)],
    });
    found.filter(|found| seen.insert(real(path_of(found)))).collect()
}

fn path_of(found: &Found) -> &Path {
    match found {
        Ok(path) | Err((path, _)) => path,
    }
}

/// The archive in this folder, or those right below it.
fn archives_in(folder: &Path) -> Vec<Found> {
    let own = match look(folder) {
        Ok(own) => own,
        Err(error) => return vec![Err((folder.to_owned(), error))],
    };
    let entries = match own {
        Look::Archive => return vec![Ok(folder.to_owned())],
        Look::Empty => return vec![Err(empty(folder))],
        Look::Other(entries) => entries,
    };
    let mut found: Vec<Found> = entries.iter().filter_map(|entry| below(&entry.path())).collect();
    found.sort_by(|a, b| path_of(a).cmp(path_of(b)));
    if found.is_empty() {
        found.push(Err((folder.to_owned(), Error::NoArchive { path: folder.to_owned() })));
    }
    found
}

/// What an entry of a folder with archives is; `None` if it is something else.
fn below(path: &Path) -> Option<Found> {
    if path.file_name() == Some(OsStr::new(LOST_AND_FOUND)) {
        return None;
    }
    match followed(path) {
        Ok(Some(metadata)) if metadata.is_dir() => {}
        Ok(_) => return None,
        Err(error) => return Some(Err((path.to_owned(), error))),
    }
    match look(path) {
        Ok(Look::Archive) => Some(Ok(path.to_owned())),
        Ok(Look::Empty) => Some(Err(empty(path))),
        Ok(Look::Other(_)) => None,
        Err(error) => Some(Err((path.to_owned(), error))),
    }
}

fn empty(folder: &Path) -> (PathBuf, Error) {
    let error =
        io::Error::other("the folder is empty, as when the disk that belongs there is not mounted");
    (folder.to_owned(), Error::io(folder, "find an archive")(error))
}

/// What a folder holds.
enum Look {
    /// An archive, or the remains of one.
    Archive,
    Empty,
    Other(Vec<DirEntry>),
}

fn look(folder: &Path) -> Result<Look> {
    let failed = |error| Error::io(folder, "list the folder")(error);
    let entries = match folder.read_dir() {
        // Somebody who may not list it may still be allowed to open the files in it, and then learns more.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && has_manifest(folder) => {
            return Ok(Look::Archive);
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !is_link(folder) => {
            return Err(Error::NoArchive { path: folder.to_owned() });
        }
        entries => entries.map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?,
    };
    if entries.iter().any(|entry| is_of_archive(&entry.file_name())) {
        return Ok(Look::Archive);
    }
    Ok(if entries.is_empty() { Look::Empty } else { Look::Other(entries) })
}

fn has_manifest(folder: &Path) -> bool {
    folder.join(FileName::MANIFEST.to_string()).symlink_metadata().is_ok()
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// Whether only an archive, or the remains of one, has a file of that name.
fn is_of_archive(name: &OsStr) -> bool {
    let name = name.to_str().and_then(FileName::parse);
    name.is_some_and(|name| match name {
        FileName::Delta(_) | FileName::Digests(..) => true,
        FileName::History | FileName::OldHistory => true,
        name => [FileName::CONFIG, FileName::MANIFEST, FileName::IMAGE].contains(&name),
    })
}

/// What a path leads to; `None` if nothing is there. A link to nothing is an error: its target has disappeared.
fn followed(path: &Path) -> Result<Option<Metadata>> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if is_not_there(&error) && !is_link(path) => Ok(None),
        Err(error) => Err(Error::io(path, "look up the folder")(error)),
    }
}

/// A file in place of a folder means that there is nothing below it.
fn is_not_there(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The folders that a path means: the one with exactly that name, or those that match it as a pattern.
fn expanded(given: &Path) -> Vec<Found> {
    let text = given.to_str().filter(|text| text.contains(SPECIAL));
    let Some(text) = text.filter(|_| given.symlink_metadata().is_err()) else {
        return vec![Ok(given.to_owned())];
    };
    let unusable = |why: String| {
        let error = Error::Specification {
            message: format!("'{text}': {why}; give a pattern such as '/srv/*/backup'"),
        };
        vec![Err((given.to_owned(), error))]
    };
    let steps = match steps(given) {
        Ok(steps) => steps,
        Err(error) => return unusable(error.to_string()),
    };
    let mut found = Vec::new();
    walk(PathBuf::new(), &steps, 0, &mut found);
    if found.is_empty() {
        return unusable("no folder matches it".to_owned());
    }
    found.sort_by(|a, b| path_of(a).cmp(path_of(b)));
    found
}

/// A part of a pattern, between two slashes.
enum Step<'a> {
    Literal(Component<'a>),
    Fits(Pattern),
    AnyDepth,
}

fn steps(pattern: &Path) -> std::result::Result<Vec<Step<'_>>, glob::PatternError> {
    let step = |component: Component<'_>| match component.as_os_str().to_str() {
        Some("**") => Ok(Some(Step::AnyDepth)),
        Some(text) if text.contains(SPECIAL) => Ok(Some(Step::Fits(Pattern::new(text)?))),
        _ => Ok(None),
    };
    let steps = pattern
        .components()
        .map(|component| Ok(step(component)?.unwrap_or(Step::Literal(component))));
    steps.collect()
}

/// Collects the folders at or below `at` that match the steps, and what cannot be looked at on the way.
fn walk(at: PathBuf, steps: &[Step<'_>], depth: usize, found: &mut Vec<Found>) {
    let Some((step, rest)) = steps.split_first() else {
        match followed(&at) {
            Ok(Some(metadata)) if metadata.is_dir() => found.push(Ok(at)),
            Ok(_) => {}
            Err(error) => found.push(Err((at, error))),
        }
        return;
    };
    match step {
        Step::Literal(component) => walk(at.join(component), rest, depth, found),
        Step::Fits(pattern) => {
            for name in names(&at, found) {
                if name != LOST_AND_FOUND && pattern.matches(&name.to_string_lossy()) {
                    walk(at.join(name), rest, depth, found);
                }
            }
        }
        Step::AnyDepth => {
            walk(at.clone(), rest, depth, found);
            for name in names(&at, found) {
                let below = at.join(name);
                // Not through links, which may lead in circles.
                let is_folder = below.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
                if is_folder && depth < MAX_DEPTH {
                    walk(below, steps, depth + 1, found);
                }
            }
        }
    }
}

/// The names in a folder; anything else has none.
fn names(folder: &Path, found: &mut Vec<Found>) -> Vec<std::ffi::OsString> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let listed = folder.read_dir().and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Ok(names) => names,
        Err(error) if is_not_there(&error) && !is_link(folder) => Vec::new(),
        // A link to a file among the matches of a pattern is just a file.
        Err(error) if error.kind() == ErrorKind::NotADirectory => Vec::new(),
        Err(error) => {
            found.push(Err((folder.to_owned(), Error::io(folder, "list the folder")(error))));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The label is the real folder; one that does not exist, or no longer, has the name that it would have.
    #[test]
    fn a_label_is_the_real_folder_as_far_as_it_can_be_followed() {
        let scene = tempfile::tempdir().unwrap();
        let top = scene.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("disk/a")).unwrap();
        std::os::unix::fs::symlink("disk", top.join("link")).unwrap();
        let expect = |name: &str, real: &str| {
            assert_eq!(label(&top.join(name)).as_path(), top.join(real), "{name}");
        };
        for name in ["disk/a", "disk/a/", "disk/./a", "disk/a/../a", "link/a", "link/a/."] {
            expect(name, "disk/a");
        }
        expect("link/gone/below/", "disk/gone/below");
        expect("none/x", "none/x");
    }
}
