//! An archive: [`Archive`] reads, [`ArchiveWriter`] holds the exclusive lock and changes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backup::{self, BackupOptions, BackupPlan, BackupReport, Context};
use crate::clock::Clock;
use crate::config::{CONFIG_LIMIT_BYTES, Config};
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{MANIFEST_LIMIT_BYTES, Manifest, ManifestFlaw, Revision};
use crate::format::readme::readme;
use crate::image::chain::Chain;
use crate::progress::Observer;
use crate::restore::{self, Guard, RestoreReport, Target};
use crate::source::{DeviceSource, Source};
use crate::storage::dir::DirStorage;
use crate::storage::{FileName, Published, Storage, StorageLock, staged};
use crate::units::BlockSize;

/// How often a revision is opened anew when a writer changes the archive meanwhile.
const OPEN_ATTEMPTS: u32 = 16;

/// An archive as its manifest describes it. Takes no lock.
#[derive(Clone)]
pub struct Archive {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
}

impl Archive {
    /// Opens the archive in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut storage = DirStorage::open(folder)?;
        let manifest = read_manifest(&storage)?;
        // A config that cannot be read is told by the operations that need it; meanwhile the strictest mode is right.
        if let Ok(config) = read_config(&storage) {
            storage.set_file_mode(config.file_mode);
        }
        Ok(Archive { storage: Arc::new(storage), manifest })
    }

    /// Opens the archive in any storage.
    pub fn open_on(storage: Arc<dyn Storage>) -> Result<Self> {
        let manifest = read_manifest(&*storage)?;
        Ok(Archive { storage, manifest })
    }

    /// Makes an archive in a folder, which is made when it is not there.
    ///
    /// # Errors
    /// [`Error::ArchiveExists`] when there is one already.
    pub fn init(folder: &Path, source: Option<&Path>, block_size: BlockSize) -> Result<Self> {
        Self::init_on(Arc::new(DirStorage::create(folder)?), source, block_size)
    }

    /// Makes an archive in any storage. A config that is there already is kept.
    pub fn init_on(
        storage: Arc<dyn Storage>,
        source: Option<&Path>,
        block_size: BlockSize,
    ) -> Result<Self> {
        let config = Config::template(source)?;
        Config::parse(&config, &storage.path(FileName::CONFIG))?;
        // Looked at before the lock as well, whose file would otherwise be left in a folder that is not ours.
        check_vacant(&*storage, source)?;
        let _lock = storage.lock("'init'")?;
        let present = check_vacant(&*storage, source)?;
        if !present.contains(&FileName::CONFIG) {
            staged::publish(&*storage, Published::Config, config.as_bytes())?;
        }
        staged::publish(&*storage, Published::Readme, readme(block_size).as_bytes())?;
        let manifest = Manifest::new(block_size);
        backup::publish(&*storage, &manifest)?;
        Ok(Archive { storage, manifest })
    }

    /// The revisions, newest first.
    pub fn revisions(&self) -> &[Revision] {
        &self.manifest.revisions
    }

    /// All that the manifest says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The archive's folder.
    pub fn folder(&self) -> PathBuf {
        self.storage.folder()
    }

    /// Reads `backy.toml`.
    pub fn config(&self) -> Result<Config> {
        read_config(&*self.storage)
    }

    /// Where the file is that holds a revision.
    pub fn find(&self, number: usize) -> Option<PathBuf> {
        self.revisions().get(number).map(|revision| self.storage.path(revision.file()))
    }

    /// Opens a revision, by its number from the newest, for reading.
    pub fn open_revision(&self, number: usize) -> Result<Chain> {
        let uuid = self.revisions().get(number).map(|revision| revision.uuid);
        let mut manifest = self.manifest.clone();
        for _ in 0..OPEN_ATTEMPTS {
            let position =
                manifest.revisions.iter().position(|revision| Some(revision.uuid) == uuid);
            let Some(position) = position else { break };
            let error = match Chain::open(&self.storage, &manifest, position) {
                Ok(chain) => return Ok(chain),
                Err(error) => error,
            };
            // A writer may have changed the chain between the manifest and its files.
            let now = read_manifest(&*self.storage)?;
            if now == manifest {
                return Err(error);
            }
            manifest = now;
        }
        Err(Error::NoSuchRevision {
            message: format!("{}: revision {number} has gone meanwhile", self.folder().display()),
        })
    }

    /// Writes a revision to a file or device, `path`, after the checks that keep it from destroying something.
    pub fn restore(
        &self,
        number: usize,
        path: &Path,
        force: bool,
        threads: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        let chain = self.open_revision(number)?;
        // Only a source that can be read from the config excuses overwriting.
        let source = self.config().ok().and_then(|config| config.source);
        let guard = Guard {
            archive: &self.folder(),
            source: source.as_deref(),
            size_bytes: chain.revision().size_bytes,
            force,
            observer,
        };
        let target = guard.open(path)?;
        restore::to_target(&chain, &target, threads, observer)
    }

    /// Writes a revision to a target that is open already.
    pub fn restore_to(
        &self,
        number: usize,
        target: &dyn Target,
        threads: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        restore::to_target(&self.open_revision(number)?, target, threads, observer)
    }

    /// Writes a revision to a stream.
    pub fn restore_to_stream(
        &self,
        number: usize,
        stream: &mut dyn Write,
        threads: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<RestoreReport> {
        restore::to_stream(&self.open_revision(number)?, stream, threads, observer)
    }

    /// The configured source, opened.
    ///
    /// # Errors
    /// [`Error::NoSource`] when none is configured; [`Error::Source`] also when it is one of the archive's own files.
    pub fn open_source(&self) -> Result<DeviceSource> {
        let no_source = || Error::NoSource { path: self.storage.path(FileName::CONFIG) };
        let path = self.config()?.source.ok_or_else(no_source)?;
        let source = DeviceSource::open(&path)?;
        let inside = path
            .canonicalize()
            .ok()
            .zip(self.folder().canonicalize().ok())
            .is_some_and(|(source, archive)| source.starts_with(archive));
        if inside {
            return Err(Error::Source { path, message: "it is in the archive itself".to_owned() });
        }
        Ok(source)
    }

    /// What a backup would do now.
    pub fn plan_backup(&self, options: &BackupOptions, clock: &dyn Clock) -> Result<BackupPlan> {
        Ok(backup::plan(&self.manifest, &self.config()?, options, clock.now()))
    }

    /// Who holds the archive's lock at this moment, if anybody does.
    pub fn lock_holder(&self) -> Result<Option<String>> {
        self.storage.lock_holder()
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }
}

/// An archive that nobody else can change: holds the exclusive lock until dropped.
pub struct ArchiveWriter {
    archive: Archive,
    _lock: Box<dyn StorageLock>,
}

impl ArchiveWriter {
    /// Takes the lock, saying who holds it, and undoes what an interrupted operation left behind.
    ///
    /// # Errors
    /// [`Error::Locked`] when another writer is at work.
    pub fn open(archive: Archive, holder: &str, observer: &dyn Observer) -> Result<Self> {
        let lock = archive.storage.lock(holder)?;
        let storage = archive.storage;
        let mut manifest = read_manifest(&*storage)?;
        backup::recover(&storage, &mut manifest, observer)?;
        Ok(ArchiveWriter { archive: Archive { storage, manifest }, _lock: lock })
    }

    /// The archive, for reading.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Makes a revision of `source`, if one is due or asked for.
    pub fn backup(
        &mut self,
        source: &dyn Source,
        options: &BackupOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<Option<BackupReport>> {
        let config = self.archive.config()?;
        let plan = backup::plan(&self.archive.manifest, &config, options, clock.now());
        if !plan.due {
            return Ok(None);
        }
        let storage = Arc::clone(&self.archive.storage);
        let context = Context { storage: &storage, config: &config, clock, observer };
        backup::backup(&context, &mut self.archive.manifest, source, options, plan.tags).map(Some)
    }
}

/// Reads the manifest of the archive in `storage`.
pub(crate) fn read_manifest(storage: &dyn Storage) -> Result<Manifest> {
    let content = match staged::read_whole(storage, FileName::MANIFEST, MANIFEST_LIMIT_BYTES) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if storage.list()?.contains(&FileName::IMAGE) {
                let path = storage.path(FileName::MANIFEST);
                return Err(Error::damaged(
                    path,
                    "file",
                    "none",
                    "the manifest of the archive here",
                ));
            }
            return Err(Error::NoArchive { path: storage.folder() });
        }
        Err(error) => return Err(error),
    };
    let path = || storage.path(FileName::MANIFEST);
    Manifest::parse(&content).map_err(|flaw| match flaw {
        ManifestFlaw::Damaged(flaw) => Error::Damaged { path: path(), flaw },
        ManifestFlaw::Unsupported(what) => Error::Unsupported { path: path(), what },
    })
}

fn read_config(storage: &dyn Storage) -> Result<Config> {
    let content = staged::read_whole(storage, FileName::CONFIG, CONFIG_LIMIT_BYTES)?;
    let path = storage.path(FileName::CONFIG);
    let text = String::from_utf8(content)
        .map_err(|error| Error::damaged(&path, "text", error, "UTF-8"))?;
    Config::parse(&text, &path)
}

/// That there is no archive yet; which of an archive's files are there all the same.
fn check_vacant(storage: &dyn Storage, source: Option<&Path>) -> Result<Vec<FileName>> {
    let present = storage.list()?;
    if present.contains(&FileName::MANIFEST) || present.contains(&FileName::IMAGE) {
        return Err(Error::ArchiveExists { path: storage.folder() });
    }
    if present.contains(&FileName::CONFIG) {
        check_kept_config(storage, source)?;
    }
    Ok(present)
}

/// A config that was there before the archive has to be right, and must not name another source.
fn check_kept_config(storage: &dyn Storage, source: Option<&Path>) -> Result<()> {
    let kept = read_config(storage)?;
    match source {
        Some(source) if kept.source.as_deref() != Some(source) => Err(Error::Specification {
            message: format!(
                "{} is there already and names another source than {}; change it, or leave SOURCE out",
                storage.path(FileName::CONFIG).display(),
                source.display()
            ),
        }),
        _ => Ok(()),
    }
}
