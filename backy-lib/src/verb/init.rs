//! `init`: creates an archive.
//!
//! [`InitRequest`] also looks at the source first. Nothing of an archive that exists is touched, and a folder becomes
//! an archive only when its manifest, which is written last, is complete.

mod request;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::settings::{OpenIncluded, Settings};
use crate::archive::{Archive, trusted_config};
use crate::base::error::{Error, Result};
use crate::base::units::BlockSize;
use crate::format::manifest::Manifest;
use crate::format::readme::{self, readme};
use crate::policy::config::{Config, SourceAddress};
use crate::storage::dir::DirStorage;
use crate::storage::manifest;
use crate::storage::{Behalf, FileName, Published, StagingToken, Storage, Trust, is_note, staged};

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
        let source = typed(source)?;
        let content = Content { source: source.as_ref(), ..Content::default() };
        Self::create(folder, content, block_size, trust)
    }

    fn create(
        folder: &Path,
        content: Content<'_>,
        block_size: BlockSize,
        trust: Trust,
    ) -> Result<Self> {
        trust.check_new(folder)?;
        let storage = DirStorage::create(folder)?.with_trust(trust);
        Self::create_on(Arc::new(storage), content, block_size)
    }

    /// Creates an archive in any storage. Keeps a config that exists already, and continues what an interrupted
    /// `init` has left.
    pub fn init_on(
        storage: Arc<dyn Storage>,
        source: Option<&Path>,
        block_size: BlockSize,
    ) -> Result<Self> {
        let source = typed(source)?;
        let content = Content { source: source.as_ref(), ..Content::default() };
        Self::create_on(storage, content, block_size)
    }

    fn create_on(
        storage: Arc<dyn Storage>,
        content: Content<'_>,
        block_size: BlockSize,
    ) -> Result<Self> {
        let open = |path: &Path, behalf| storage.open_included(path, behalf);
        let config = content.checked(&storage.path(FileName::CONFIG), &open)?;
        storage.check_trust()?;
        // Also checked before taking the lock, which would leave its file in a folder that is not ours.
        check_vacant(&*storage, content)?;
        let _lock = storage.lock("'init'")?;
        let present = check_vacant(&*storage, content)?;
        if !present.contains(&FileName::CONFIG) {
            staged::publish(&*storage, Published::Config, FIRST, config.as_bytes())?;
        }
        staged::publish(&*storage, Published::Readme, FIRST, readme(block_size).as_bytes())?;
        manifest::publish_first(&*storage, &Manifest::new(block_size))?;
        Self::open_on(storage)
    }
}

/// A source as somebody has typed it.
fn typed(source: Option<&Path>) -> Result<Option<SourceAddress>> {
    source.map(SourceAddress::typed).transpose()
}

/// What the config of a new archive says.
#[derive(Debug, Clone, Copy, Default)]
struct Content<'a> {
    source: Option<&'a SourceAddress>,
    /// The path or URL of the archive that it is to be a copy of, in place of a source.
    origin: Option<&'a str>,
    /// Absolute paths of files that it includes.
    include: &'a [PathBuf],
}

impl Content<'_> {
    /// The text of the config, which is to be in the file `path`; it and all that it includes are right.
    fn checked(&self, path: &Path, open: &OpenIncluded<'_>) -> Result<String> {
        let text = Config::template_with(self.source, self.origin, self.include)?;
        Settings::of_content(open, path, text.as_bytes(), || Ok(Behalf::Acting))?.config()?;
        Ok(text)
    }
}

/// Checks that there is no archive yet; returns which of an archive's files exist all the same.
fn check_vacant(storage: &dyn Storage, content: Content<'_>) -> Result<Vec<FileName>> {
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
        check_kept_config(storage, content)?;
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

/// Checks that a config from before the archive is valid, names no other source, and includes what it should.
fn check_kept_config(storage: &dyn Storage, content: Content<'_>) -> Result<()> {
    let kept = trusted_config(storage)?;
    let path = storage.path(FileName::CONFIG);
    let refuse = |message: String| Err(Error::Specification { message });
    if let Some(source) = content.source.filter(|source| kept.source.as_ref() != Some(*source)) {
        return refuse(format!(
            "{} exists and names another source than {}; change it, or omit SOURCE",
            path.display(),
            source
        ));
    }
    match content.include.iter().find(|include| !kept.includes.contains(include)) {
        Some(include) => refuse(format!(
            "{} exists and does not include {}; change it, or omit that",
            path.display(),
            include.display()
        )),
        None => Ok(()),
    }
}
