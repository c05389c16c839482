//! Finds whose figures a file has: an archive only overwrites its own.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::prometheus::escaped;
use crate::archive::folders;
use crate::base::error::{Error, Result};

/// A longer file cannot be the figures of one archive.
const MAX_BYTES: u64 = 1 << 20;

/// The owner of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The file does not exist, or has the figures of this archive.
    Ours,
    /// The file has figures of the archive with this name.
    Other(String),
}

/// Who owns the file at `path`, from the view of the archive with this name.
///
/// # Errors
/// If it cannot be read, or backy did not write it.
pub(super) fn owner(path: &Path, archive: &str) -> Result<Owner> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        // If its folder is missing as well, writing reports that.
        Err(Errno::NOENT) => return Ok(Owner::Ours),
        file => file.map_err(|errno| Error::io(path, "read the figures there")(errno.into()))?,
    };
    let foreign = || {
        let why =
            "something that backy did not write is there; name another file, or delete this one";
        Error::io(path, "write the figures")(std::io::Error::other(why))
    };
    let failed = Error::io(path, "read the figures there");
    let file = File::from(file);
    if !file.metadata().map_err(Error::io(path, "look up the file"))?.is_file() {
        return Err(foreign());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| foreign())?;
    // A power cut may have left an empty file.
    if text.is_empty() {
        return Ok(Owner::Ours);
    }
    if !text.starts_with("# HELP backy_") || text.len() as u64 > MAX_BYTES {
        return Err(foreign());
    }
    let names = text.lines().filter_map(|line| line.strip_prefix("backy_status{archive=\""));
    let names = names.filter_map(|rest| rest.rsplit_once("\"}").map(|(name, _)| name));
    // Earlier versions wrote the folder as the user typed it.
    let is_ours = |name: &str| {
        name == escaped(archive) || folders::label(Path::new(&unescaped(name))).as_str() == archive
    };
    let other = names.map(str::to_owned).find(|name| !is_ours(name));
    Ok(other.map_or(Owner::Ours, |name| Owner::Other(unescaped(&name))))
}

/// Decodes the value of a label.
fn unescaped(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => value.push('\n'),
                next => value.extend(next),
            },
            (c, false) => value.push(c),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn asked(content: &str, archive: &str) -> Result<Owner> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        owner(file.path(), archive)
    }

    fn figures(names: &[&str]) -> String {
        let lines = names.iter().map(|name| format!("backy_status{{archive=\"{name}\"}} 0\n"));
        format!("# HELP backy_status X.\n# TYPE backy_status gauge\n{}", lines.collect::<String>())
    }

    /// A missing file, an empty one and the archive's own figures may be replaced; other archives' figures
    /// and other files may not.
    #[test]
    fn only_the_figures_of_the_same_archive_are_replaced() {
        assert_eq!(owner(Path::new("/nowhere/x.prom"), "/x").unwrap(), Owner::Ours);
        let other = |name: &str| Owner::Other(name.to_owned());
        assert_eq!(asked("", "/srv/a").unwrap(), Owner::Ours);
        assert_eq!(asked(&figures(&["/srv/a"]), "/srv/a").unwrap(), Owner::Ours);
        assert_eq!(asked(&figures(&["/srv/a/"]), "/srv/a").unwrap(), Owner::Ours);
        assert_eq!(asked(&figures(&["/srv/a\\n\\\"b"]), "/srv/a\n\"b").unwrap(), Owner::Ours);
        assert_eq!(asked(&figures(&["/srv/b"]), "/srv/a").unwrap(), other("/srv/b"));
        assert_eq!(asked(&figures(&["/srv/a", "/srv/b"]), "/srv/a").unwrap(), other("/srv/b"));
        for foreign in ["# HELP node_x X.\n", "secret\n", "\u{0}"] {
            assert!(asked(foreign, "/srv/a").is_err(), "{foreign:?}");
        }
        assert!(owner(Path::new("/dev/null"), "/srv/a").is_err());
        assert!(asked(&(figures(&["/srv/a"]) + &"\n".repeat(2 << 20)), "/srv/a").is_err());
    }
}
