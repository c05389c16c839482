//! Which folder below the root a path means, and that no path means one elsewhere.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};

/// The longest path that a caller may name.
const MOST_PATH_BYTES: usize = 4096;

/// The archive that a caller names, below `root`; an absolute path may begin with `root`. Links are followed as long as
/// they lead nowhere else. The result has no link in it.
///
/// # Errors
/// [`Error::Specification`] if it is not below `root`, [`Error::NoArchive`] if it does not exist.
pub(super) fn existing(root: &Path, named: &str) -> Result<PathBuf> {
    let path = joined(root, named)?;
    let looked_up = root.canonicalize().and_then(|root| Ok((root, path.canonicalize()?)));
    match looked_up {
        Ok((_, found)) if !found.is_dir() => Err(Error::NoArchive { path }),
        Ok((root, found)) => inside(&root, found, named),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoArchive { path }),
        Err(error) => Err(Error::io(path, "look up the folder")(error)),
    }
}

/// The same for an archive that need not exist yet: then the folder above it has to be `root` or below it, unless it is
/// `root` itself that does not exist.
pub(super) fn existing_or_new(root: &Path, named: &str) -> Result<PathBuf> {
    let path = joined(root, named)?;
    // Also a link that leads nowhere is something that exists.
    if path.symlink_metadata().is_ok() {
        return existing(root, named);
    }
    let refused = || outside(root, named);
    let (above, name) = (path.parent().ok_or_else(refused)?, path.file_name().ok_or_else(refused)?);
    let look_up = |folder: &Path| {
        let real = folder.canonicalize().and_then(|real| match real.is_dir() {
            true => Ok(real),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        real.map_err(Error::io(folder, "look up the folder for a new archive"))
    };
    if path == root {
        return Ok(look_up(above)?.join(name));
    }
    let root = look_up(root)?;
    Ok(inside(&root, look_up(above)?, named)?.join(name))
}

/// The path as it is written: `root`, and below it only names.
fn joined(root: &Path, named: &str) -> Result<PathBuf> {
    if named.len() > MOST_PATH_BYTES || named.contains('\0') {
        let message = format!(
            "the name of the archive has {} bytes; expected at most {MOST_PATH_BYTES}, none of them zero",
            named.len()
        );
        return Err(Error::Specification { message });
    }
    let path = Path::new(named);
    let below = match path.strip_prefix(root) {
        Ok(below) if path.is_absolute() => Some(below),
        _ if path.is_absolute() => {
            let real = root.canonicalize().ok();
            real.and_then(|real| path.strip_prefix(real).ok())
        }
        _ => Some(path),
    };
    let below = below.ok_or_else(|| outside(root, named))?;
    let mut joined = root.to_owned();
    for part in below.components() {
        match part {
            Component::Normal(name) => joined.push(name),
            Component::CurDir => {}
            _ => return Err(outside(root, named)),
        }
    }
    Ok(joined)
}

fn inside(root: &Path, found: PathBuf, named: &str) -> Result<PathBuf> {
    match found.starts_with(root) || planted(Bug::LeavesTheRoot) {
        true => Ok(found),
        false => Err(outside(root, named)),
    }
}

fn outside(root: &Path, named: &str) -> Error {
    let message = format!(
        "'{}' is not below {}, the only folder that is served here; name an archive in it",
        named.escape_debug(),
        root.display()
    );
    Error::Specification { message }
}
