//! `init`: creates an archive.
//!
//! [`InitRequest`] also looks at the source first. Nothing of an archive that exists is touched, and a folder becomes
//! an archive only when its manifest, which is written last, is complete.

mod request;

use std::path::Path;
use std::sync::Arc;

use crate::archive::{Archive, trusted_config};
use crate::base::error::{Error, Result};
use crate::base::units::BlockSize;
use crate::format::manifest::Manifest;
use crate::format::readme::{self, readme};
use crate::policy::config::Config;
use crate::storage::dir::DirStorage;
use crate::storage::manifest;
use crate::storage::{FileName, Published, StagingToken, Storage, Trust, is_note, staged};

pub use request::{Created, InitRequest};

/// There is no manifest yet that could give another token.
const FIRST: StagingToken = StagingToken::FIRST;

/// No README of ours is longer.
const README_LIMIT_BYTES: u64 = 1 << 20;

/// No note of a holder is longer.
const LOCK_LIMIT_BYTES: u64 = 4096;

impl Archive {
    /// Creates an archive in a folder, and the folder if it does not exist.
    ///
    /// # Errors
    /// [`Error::ArchiveExists`] when there is one already; [`Error::Occupied`] when an archive would have to replace
    /// files that exist; [`Error::Untrusted`] when others could change it.
    pub fn init(folder: &Path, source: Option<&Path>, block_size: BlockSize) -> Result<Self> {
        Self::init_with(folder, source, block_size, Trust::default())
    }

    /// The same, with the caller's decision about whom to trust.
    pub fn init_with(
        folder: &Path,
        source: Option<&Path>,
        block_size: BlockSize,
        trust: Trust,
    ) -> Result<Self> {
        trust.check_new(folder)?;
        let storage = DirStorage::create(folder)?.with_trust(trust);
        Self::init_on(Arc::new(storage), source, block_size)
    }

    /// Creates an archive in any storage. Keeps a config that exists already, and continues what an interrupted
    /// `init` has left.
    pub fn init_on(
        storage: Arc<dyn Storage>,
        source: Option<&Path>,
        block_size: BlockSize,
    ) -> Result<Self> {
        let config = Config::template(source)?;
        Config::parse(&config, &storage.path(FileName::CONFIG))?;
        storage.check_trust()?;
        // Also checked before taking the lock, which would leave its file in a folder that is not ours.
        check_vacant(&*storage, source)?;
        let _lock = storage.lock("'init'")?;
        let present = check_vacant(&*storage, source)?;
        if !present.contains(&FileName::CONFIG) {
            staged::publish(&*storage, Published::Config, FIRST, config.as_bytes())?;
        }
        staged::publish(&*storage, Published::Readme, FIRST, readme(block_size).as_bytes())?;
        manifest::publish_first(&*storage, &Manifest::new(block_size))?;
        Self::open_on(storage)
    }
}

/// Checks that there is no archive yet; returns which of an archive's files exist all the same.
fn check_vacant(storage: &dyn Storage, source: Option<&Path>) -> Result<Vec<FileName>> {
    let present = storage.list()?;
    if present.contains(&FileName::MANIFEST) || present.contains(&FileName::IMAGE) {
        return Err(Error::ArchiveExists { path: storage.folder() });
    }
    let mut foreign = Vec::new();
    for &name in &present {
        if !is_from_init(storage, name)? {
            foreign.push(name.to_string());
        }
    }
    if !foreign.is_empty() {
        return Err(Error::Occupied { path: storage.folder(), names: foreign.join(", ") });
    }
    if present.contains(&FileName::CONFIG) {
        check_kept_config(storage, source)?;
    }
    Ok(present)
}

/// Whether `init` makes such a file, as its content or its token proves, or may find one.
fn is_from_init(storage: &dyn Storage, name: FileName) -> Result<bool> {
    let content = |limit| match staged::read_whole(storage, name, limit) {
        Err(error) if error.is_damage() => Ok(None),
        content => content.map(Some),
    };
    Ok(match name {
        // The caller reads it next.
        FileName::CONFIG => true,
        FileName::Aside(_, token) => token == FIRST,
        FileName::README => {
            content(README_LIMIT_BYTES)?.is_some_and(|text| readme::block_size_of(&text).is_some())
        }
        FileName::Lock => content(LOCK_LIMIT_BYTES)?.is_some_and(|text| is_note(&text)),
        _ => false,
    })
}

/// Checks that a config from before the archive is valid and does not name another source.
fn check_kept_config(storage: &dyn Storage, source: Option<&Path>) -> Result<()> {
    let kept = trusted_config(storage)?;
    match source {
        Some(source) if kept.source.as_deref() != Some(source) => Err(Error::Specification {
            message: format!(
                "{} exists and names another source than {}; change it, or omit SOURCE",
                storage.path(FileName::CONFIG).display(),
                source.display()
            ),
        }),
        _ => Ok(()),
    }
}
