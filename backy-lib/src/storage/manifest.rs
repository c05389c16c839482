//! The manifest on disk: read, and replaced as a whole.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::revision::RevisionId;
use crate::format::manifest::{MANIFEST_FULL_BYTES, MANIFEST_LIMIT_BYTES, Manifest, ManifestFlaw};
use crate::storage::{Access, FileName, Published, StagingToken, Storage, StorageFile, staged};

/// The checksum is within this many bytes from the start of a manifest.
const CHECKSUM_BYTES: usize = 256;

/// How long a manifest counts as the newest on a file system that does not show whether it has been replaced.
const TRUSTED: Duration = Duration::from_secs(1);

/// A manifest, and the file that it was read from.
pub(crate) struct ManifestFile {
    pub(crate) manifest: Manifest,
    file: Box<dyn StorageFile>,
    /// When it was read, if inode numbers mean nothing.
    doubtful_since: Option<Instant>,
}

impl ManifestFile {
    /// Whether it has not been replaced. While it is open no other file can be mistaken for it, so nothing that
    /// begins with the publishing of a manifest has begun since it was read.
    ///
    /// On network and FUSE file systems another one may look the same: there this only means that it need not be read
    /// again yet.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let is_recent = self.doubtful_since.is_none_or(|since| since.elapsed() < TRUSTED);
        Ok(is_recent && self.file.is_in_place()?)
    }
}

/// The result of looking at the archive without the lock.
pub(crate) enum Look<T> {
    /// It is true, whatever a writer has done since.
    Sure(T),
    /// It is true only as long as the manifest is still the same: a writer at work may look like this.
    IfCurrent(T),
}

/// Looks at the archive as `manifest` describes it, and again with each manifest that a writer publishes meanwhile.
pub(crate) fn look<T>(
    storage: &dyn Storage,
    mut manifest: Manifest,
    mut look: impl FnMut(&Manifest) -> Result<Look<T>>,
) -> Result<T> {
    loop {
        let found = match look(&manifest)? {
            Look::Sure(found) => return Ok(found),
            Look::IfCurrent(found) => found,
        };
        let now = read(storage)?;
        if now == manifest {
            return Ok(found);
        }
        manifest = now;
    }
}

/// Reads the manifest of the archive in `storage`.
///
/// # Errors
/// [`Error::NoArchive`] if there is none and nothing else of an archive either.
pub(crate) fn read(storage: &dyn Storage) -> Result<Manifest> {
    Ok(open(storage)?.manifest)
}

/// The same; returns the open file as well.
pub(crate) fn open(storage: &dyn Storage) -> Result<ManifestFile> {
    let file = match storage.open(FileName::MANIFEST, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if storage.list()?.contains(&FileName::IMAGE) {
                let path = storage.path(FileName::MANIFEST);
                return Err(Error::flawed(path)("the file is missing".to_owned()));
            }
            return Err(Error::NoArchive { path: storage.folder() });
        }
        Err(error) => return Err(error),
    };
    let doubtful_since = match file.stamp()? {
        Some(_) => None,
        None => Some(Instant::now()),
    };
    let content = staged::read_file(&*file, MANIFEST_LIMIT_BYTES)?;
    let path = || storage.path(FileName::MANIFEST);
    let manifest = Manifest::parse(&content).map_err(|flaw| match flaw {
        ManifestFlaw::Damaged(flaw) => Error::flawed(path())(flaw),
        ManifestFlaw::Unsupported(what) => Error::Unsupported { path: path(), what },
    })?;
    Ok(ManifestFile { manifest, file, doubtful_since })
}

/// Reads the manifest for a writer, which holds the lock. From now on every commit must find this one.
pub(crate) fn begin_writing(storage: &dyn Storage) -> Result<Manifest> {
    let manifest = read(storage)?;
    if let Some(seen) = storage.seen() {
        seen.set(manifest.checksum());
    }
    Ok(manifest)
}

/// Reads it again after a failure: it may be the previous one or the one that was being published.
///
/// # Errors
/// [`Error::Overtaken`] if it is another writer's.
pub(crate) fn read_again(storage: &dyn Storage) -> Result<Manifest> {
    check_ours(storage)?;
    let manifest = read(storage)?;
    if let Some(seen) = storage.seen().filter(|seen| !seen.is_empty()) {
        seen.set(manifest.checksum());
    }
    Ok(manifest)
}

/// Checks that nobody else has replaced the manifest since this writer read or published it: if the lock does not
/// keep two machines apart, nothing may be changed after that.
///
/// # Errors
/// [`Error::Overtaken`].
pub(crate) fn check_ours(storage: &dyn Storage) -> Result<()> {
    let Some(seen) = storage.seen().filter(|seen| !seen.is_empty()) else { return Ok(()) };
    let found = match checksum(storage) {
        // Somebody has lost it; this writer still has its content.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    match found.is_some_and(|found| seen.is_foreign(&found)) {
        true => Err(Error::Overtaken { path: storage.path(FileName::MANIFEST) }),
        false => Ok(()),
    }
}

/// The checksum at the start of the manifest, without reading the rest; `None` if there is none.
pub(crate) fn checksum(storage: &dyn Storage) -> Result<Option<String>> {
    let mut start = [0; CHECKSUM_BYTES];
    let found = storage.open(FileName::MANIFEST, Access::Read)?.read_at(&mut start, 0)?;
    Ok(Manifest::checksum_at_start(start.get(..found).unwrap_or_default()))
}

/// Publishes the manifest of a new archive, which has none yet.
pub(crate) fn publish_first(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    // The names of revisions are never the same twice.
    let own = StagingToken::of(&RevisionId::new(Timestamp::UNIX_EPOCH).to_string());
    let content = manifest.clone().with_staging_token(own).encode();
    let content = content.map_err(Error::flawed(storage.path(FileName::MANIFEST)))?;
    staged::publish(storage, Published::Manifest, StagingToken::FIRST, &content)
}

/// Replaces the manifest: the commit of every operation.
///
/// # Errors
/// [`Error::Specification`] if it could not be read again; nothing has been written then. [`Error::Overtaken`] if
/// somebody else has replaced it since this writer read it; then nothing is changed.
pub(crate) fn publish(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    let content = encode(storage, manifest, MANIFEST_LIMIT_BYTES)?;
    check_ours(storage)?;
    let checksum = Manifest::checksum_at_start(&content).unwrap_or_default();
    // A manifest that no writer has begun with, such as that of a new archive, is not compared with any.
    let seen = storage.seen().filter(|seen| !seen.is_empty());
    if let Some(seen) = seen {
        seen.add(&checksum);
    }
    staged::publish(storage, Published::Manifest, manifest.staging_token(), &content)?;
    if let Some(seen) = seen {
        seen.set(&checksum);
    }
    Ok(())
}

/// Checks that one more revision fits into the manifest.
///
/// # Errors
/// [`Error::Specification`] if it does not fit.
pub(crate) fn check_room(storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
    encode(storage, manifest, MANIFEST_FULL_BYTES).map(drop)
}

fn encode(storage: &dyn Storage, manifest: &Manifest, limit_bytes: u64) -> Result<Vec<u8>> {
    let path = || storage.path(FileName::MANIFEST);
    let content = manifest.encode().map_err(Error::flawed(path()))?;
    let len = content.len() as u64;
    let message = match Manifest::parse(&content) {
        Ok(_) if len <= limit_bytes => return Ok(content),
        Ok(_) => format!(
            "it would be {len} bytes long, expected at most {limit_bytes}; delete revisions with 'backy rm'"
        ),
        Err(ManifestFlaw::Damaged(flaw) | ManifestFlaw::Unsupported(flaw)) => {
            format!("it could not be read again: {flaw}")
        }
    };
    let message = format!("{}: not written: {message}", path().display());
    Err(Error::Specification { message })
}
