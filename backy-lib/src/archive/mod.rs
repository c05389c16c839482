//! An archive: [`Archive`] reads, [`ArchiveWriter`] holds the exclusive lock and changes.

mod below;
pub(crate) mod folders;
pub(crate) mod history;
pub(crate) mod left_overs;
pub(crate) mod moment;
pub(crate) mod proof;
pub(crate) mod recover;
pub(crate) mod reserve;
mod trusted;
mod waiting;

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use self::recover::LostImage;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::progress::{Observer, Silent};
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::BlockSize;
use crate::format::manifest::{DrillReport, InProgress, Manifest, Revision};
use crate::format::readme::{self, readme};
use crate::image::chain::Chain;
use crate::image::delta::Delta;
use crate::image::reader::{ReadCache, RevisionReader};
use crate::policy::config::{Config, DEFAULT_LEVEL};
use crate::policy::health::Freeze;
use crate::policy::plan::Step;
use crate::policy::room::Estimate;
use crate::source::{self, DeviceSource, Source};
use crate::storage::dir::DirStorage;
use crate::storage::manifest::{self, ManifestFile};
use crate::storage::{
    Access, FileName, Published, StagingToken, Storage, StorageLock, Trust, is_note, staged,
};
use crate::verb::backup::{self, BackupOptions, Context};
use crate::verb::import::{self, ImportReport};
use crate::verb::maintenance::{
    self, Maintainer, MaintenanceOptions, MaintenancePlan, MaintenanceReport,
};
use crate::verb::rebuild::{self, RebuildReport};
use crate::verb::scrub::{self, ScrubOptions, ScrubReport};

pub use below::archives_below;
pub(crate) use trusted::trusted_config;

/// Where there is no manifest yet that could say another one.
const FIRST: StagingToken = StagingToken::FIRST;

/// No README of ours is longer.
const README_LIMIT_BYTES: u64 = 1 << 20;

/// No note of a holder is longer.
const LOCK_LIMIT_BYTES: u64 = 4096;

/// How often a revision is opened anew when a writer changes the archive meanwhile.
const OPEN_ATTEMPTS: u32 = 16;

/// How often a file is looked for that a writer is about to make, and how long it is waited for in between.
const FIND_ATTEMPTS: u32 = 250;
const FIND_PAUSE: Duration = Duration::from_millis(20);

/// An archive as its manifest describes it. Takes no lock.
#[derive(Clone)]
pub struct Archive {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    /// Of a trusted archive.
    held: Option<trusted::Held>,
}

impl Archive {
    /// Opens the archive in a folder. It is acted on only if nobody but the caller and root can change it.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(folder, Trust::default())
    }

    /// The same, with what the caller says of whom to trust. Reading asks nothing of that.
    pub fn open_with(folder: &Path, trust: Trust) -> Result<Self> {
        Self::open_on(Arc::new(DirStorage::open(folder)?.with_trust(trust)))
    }

    /// Opens the archive in any storage.
    pub fn open_on(storage: Arc<dyn Storage>) -> Result<Self> {
        let manifest = manifest::read(&*storage)?;
        Ok(Archive { storage, manifest, held: None })
    }

    /// The same, and the file that says so.
    pub(crate) fn open_with_manifest(storage: Arc<dyn Storage>) -> Result<(Self, ManifestFile)> {
        let file = manifest::open(&*storage)?;
        Ok((Archive { storage, manifest: file.manifest.clone(), held: None }, file))
    }

    /// Makes an archive in a folder, which is made when it is not there.
    ///
    /// # Errors
    /// [`Error::ArchiveExists`] when there is one already; [`Error::Occupied`] when there are files that an archive would have to
    /// replace; [`Error::Untrusted`] when others could change it.
    pub fn init(folder: &Path, source: Option<&Path>, block_size: BlockSize) -> Result<Self> {
        Self::init_with(folder, source, block_size, Trust::default())
    }

    /// The same, with what the caller says of whom to trust.
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

    /// Makes an archive in any storage. A config that is there already is kept; what an interrupted `init` has left is
    /// continued.
    pub fn init_on(
        storage: Arc<dyn Storage>,
        source: Option<&Path>,
        block_size: BlockSize,
    ) -> Result<Self> {
        let config = Config::template(source)?;
        Config::parse(&config, &storage.path(FileName::CONFIG))?;
        storage.check_trust()?;
        // Looked at before the lock as well, whose file would otherwise be left in a folder that is not ours.
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

    /// Where the file is that holds a revision. While `last.raw` is being changed, or was left so by an operation that was interrupted,
    /// the newest revision is in the overlay over it.
    ///
    /// # Errors
    /// [`Error::Damaged`] when that overlay cannot be read.
    pub fn find(&self, number: usize) -> Result<PathBuf> {
        let uuid = self.revisions().get(number).map(|revision| revision.uuid);
        let mut manifest = self.manifest.clone();
        for _ in 0..FIND_ATTEMPTS {
            let revision = manifest.revisions.iter().find(|revision| Some(revision.uuid) == uuid);
            let Some(revision) = revision else { break };
            let writing = manifest.in_progress.as_ref().is_some_and(InProgress::changes_image);
            if !writing || !revision.is_image() {
                return Ok(self.storage.path(revision.file()));
            }
            let overlay = FileName::Delta(revision.uuid);
            let size_bytes = revision.size_bytes;
            match Delta::open(&*self.storage, revision.uuid, manifest.block_size, size_bytes) {
                Ok(_) => return Ok(self.storage.path(overlay)),
                Err(error) if !error.is_damage() => return Err(error),
                // Nobody is making it. As long as it is not there, nothing of the image has been changed.
                Err(error) if self.storage.lock_holder()?.is_none() => {
                    if manifest::read(&*self.storage)? == manifest {
                        let missing = error.kind() == ErrorKind::NotFound;
                        return match missing
                            || self.storage.open(overlay, Access::Read)?.len()? == 0
                        {
                            true => Ok(self.storage.path(FileName::IMAGE)),
                            false => Err(error),
                        };
                    }
                }
                Err(_) => {}
            }
            std::thread::sleep(FIND_PAUSE);
            manifest = manifest::read(&*self.storage)?;
        }
        Err(Error::NoSuchRevision {
            message: format!("{}: revision {number} no longer exists", self.folder().display()),
        })
    }

    /// Opens a revision, by its number from the newest, for reading.
    pub fn open_revision(&self, number: usize) -> Result<Chain> {
        self.open_chain(number, false)
    }

    /// Opens a revision, by its number from the newest, as a file that is read here and there.
    pub fn open_reader(&self, number: usize, cache: &Arc<ReadCache>) -> Result<RevisionReader> {
        RevisionReader::new(&self.storage, self.open_revision(number)?, cache)
    }

    /// The same as [`Archive::open_revision`]; when `tolerant`, what cannot be opened only costs the blocks that depend on it.
    pub(crate) fn open_chain(&self, number: usize, tolerant: bool) -> Result<Chain> {
        let uuid = self.revisions().get(number).map(|revision| revision.uuid);
        let mut manifest = self.manifest.clone();
        for _ in 0..OPEN_ATTEMPTS {
            let position =
                manifest.revisions.iter().position(|revision| Some(revision.uuid) == uuid);
            let Some(position) = position else { break };
            // A writer may have changed the chain between the manifest and its files.
            let chain = match tolerant {
                true => Chain::open_tolerant(&self.storage, &manifest, position),
                false => Chain::open(&self.storage, &manifest, position),
            };
            if chain.as_ref().is_ok_and(|chain| chain.broken().is_none()) {
                return chain;
            }
            let now = manifest::read(&*self.storage)?;
            if now == manifest {
                return chain;
            }
            manifest = now;
        }
        Err(Error::NoSuchRevision {
            message: format!(
                "{}: revision {number} was deleted meanwhile",
                self.folder().display()
            ),
        })
    }

    /// The configured source, opened; in its place the snapshot, if the hooks make one.
    ///
    /// # Errors
    /// [`Error::NoSource`] when none is configured; [`Error::Source`] also when it is one of the archive's own files.
    pub fn open_source(&self) -> Result<DeviceSource> {
        let config = self.config()?;
        let no_source = || Error::NoSource { path: self.storage.path(FileName::CONFIG) };
        let source = config.source.ok_or_else(no_source)?;
        let opened = match &config.hooks.snapshot {
            None => self.open_device(&source)?,
            Some(snapshot) => self.open_device(snapshot).map_err(of_hook)?,
        };
        Ok(if config.hooks.before.is_some() { opened.made_anew() } else { opened })
    }

    /// Another file or device to back up, opened.
    ///
    /// # Errors
    /// [`Error::Source`] also when it is one of the archive's own files, and when it is empty.
    pub fn open_device(&self, path: &Path) -> Result<DeviceSource> {
        let source = DeviceSource::open(path)?;
        let inside = path
            .canonicalize()
            .ok()
            .zip(self.folder().canonicalize().ok())
            .is_some_and(|(source, archive)| source.starts_with(archive));
        if inside {
            let path = path.to_owned();
            return Err(Error::Source { path, message: "it is inside the archive".to_owned() });
        }
        source::check_not_empty(&source)?;
        Ok(source)
    }

    /// Refuses to back up to an undo archive: the way back would be one revision further away, and what it left out
    /// would be given up.
    pub(crate) fn check_no_undo(&self) -> Result<()> {
        if !self.manifest.is_undo() {
            return Ok(());
        }
        let folder = self.folder();
        let message = format!(
            "{}: nothing is backed up to an undo archive, which holds only what a restore has overwritten; \
             'restore' brings that back",
            folder.display()
        );
        Err(Error::Specification { message })
    }

    /// The room that a backup of `source` would take; without one, of a source as large as the newest revision.
    pub fn estimate_backup(
        &self,
        source: Option<&dyn Source>,
        options: &BackupOptions,
    ) -> Result<Estimate> {
        backup::estimate_for(&*self.storage, &self.manifest, source, options.update)
    }

    /// What maintenance would do now.
    pub fn plan_maintenance(&self, options: &MaintenanceOptions) -> Result<MaintenancePlan> {
        self.planned(options, Timestamp::MAX, &Silent)
    }

    /// The same at a given time: what was confirmed later than that, by a clock that was wrong, is not confirmed.
    pub fn plan_maintenance_at(
        &self,
        options: &MaintenanceOptions,
        clock: &dyn Clock,
    ) -> Result<MaintenancePlan> {
        self.planned(options, clock.now(), &Silent)
    }

    fn planned(
        &self,
        options: &MaintenanceOptions,
        now: Timestamp,
        observer: &dyn Observer,
    ) -> Result<MaintenancePlan> {
        maintenance::plan(&self.storage, &self.manifest, &self.config()?, options, now, observer)
    }

    /// What the removal of revisions, by their numbers from the newest, would do.
    ///
    /// # Errors
    /// [`Error::Specification`] when none would be left.
    pub fn plan_removal(&self, numbers: &[usize]) -> Result<MaintenancePlan> {
        maintenance::plan_removal(&self.storage, &self.manifest, numbers, &Silent)
    }

    /// Checks what is stored and changes nothing.
    pub fn check(
        &self,
        options: &ScrubOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ScrubReport> {
        let options = ScrubOptions { check_only: true, ..options.clone() };
        scrub::scrub(&self.storage, &mut self.manifest.clone(), &options, clock, observer)
    }

    /// Who holds the archive's lock at this moment, if anybody does.
    pub fn lock_holder(&self) -> Result<Option<String>> {
        self.storage.lock_holder()
    }

    /// Adds to the history that an operation failed before it could begin, as when its source cannot be read, so that `status`
    /// knows. What cannot be written down, as while somebody else has the lock, is left out: the error itself is told anyway.
    pub fn record_failure(&self, operation: &str, holder: &str, error: &Error, clock: &dyn Clock) {
        let Ok(_lock) = self.trusted().and_then(|own| own.storage.lock(holder)) else { return };
        let now = clock.now();
        let outcome: std::result::Result<&(), &Error> = Err(error);
        history::record(&*self.storage, operation, (now, now), outcome, &Silent);
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// The archive as its manifest describes it now, and the file that says so.
    pub(crate) fn reload(&self) -> Result<(Self, ManifestFile)> {
        let (archive, file) = Self::open_with_manifest(Arc::clone(&self.storage))?;
        Ok((Archive { held: self.held.clone(), ..archive }, file))
    }
}

/// An archive that nobody else can change: holds the exclusive lock until dropped.
pub struct ArchiveWriter {
    archive: Archive,
    lock: Box<dyn StorageLock>,
}

impl ArchiveWriter {
    /// Takes the lock, saying who holds it, and undoes what an interrupted operation left behind. The archive is
    /// [`trusted`](Archive::trusted), and its config as it is under the lock.
    ///
    /// # Errors
    /// [`Error::Locked`] when another writer is at work; [`Error::Untrusted`].
    pub fn open(archive: Archive, holder: &str, observer: &dyn Observer) -> Result<Self> {
        Self::open_within(archive, holder, Duration::ZERO, observer)
    }

    /// The same; another writer is waited for so long.
    pub fn open_within(
        archive: Archive,
        holder: &str,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<Self> {
        // Before the lock, whose file is written to.
        let storage = Arc::clone(&archive.trusted()?.storage);
        let lock = waiting::lock(&*storage, holder, wait, observer)?;
        Self::begin(archive, lock, observer)
    }

    /// With the lock that was taken.
    fn begin(
        archive: Archive,
        lock: Box<dyn StorageLock>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let archive = archive.trusted()?;
        manifest::begin_writing(&*archive.storage)?;
        let mut writer = ArchiveWriter { archive, lock };
        match writer.recover(observer) {
            // Whatever is done with it tries again, but for what makes room, or gets out of it.
            Err(error) if waits(&error) && writer.is_under_way() => Ok(writer),
            recovered => recovered.map(|()| writer),
        }
    }

    fn is_under_way(&self) -> bool {
        self.archive.manifest.in_progress.is_some()
    }

    /// See [`StorageLock::share`].
    pub(crate) fn share_lock(&self) -> Option<OwnedFd> {
        self.lock.share()
    }

    /// The storage, and the manifest as it is on disk, to be kept up to date.
    pub(crate) fn parts(&mut self) -> (&Arc<dyn Storage>, &mut Manifest) {
        (&self.archive.storage, &mut self.archive.manifest)
    }

    /// Makes the lost or damaged manifest of the archive in a folder anew, from its digest files and deltas. Takes the lock
    /// for that time, saying who holds it. `force`: also when the manifest reads fine.
    ///
    /// # Errors
    /// [`Error::NoArchive`] when there is nothing of an archive; [`Error::Specification`] when the manifest reads fine;
    /// [`Error::Damaged`] when nothing says what `last.raw` is; [`Error::Untrusted`]. Then nothing has been changed.
    pub fn rebuild(
        folder: &Path,
        trust: Trust,
        holder: &str,
        force: bool,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        Self::rebuild_within(folder, trust, holder, force, Duration::ZERO, observer)
    }

    /// The same; another writer is waited for so long.
    pub fn rebuild_within(
        folder: &Path,
        trust: Trust,
        holder: &str,
        force: bool,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        let storage = Arc::new(DirStorage::open(folder)?.with_trust(trust));
        Self::rebuild_with(storage, holder, force, wait, observer)
    }

    /// The same in any storage.
    pub fn rebuild_on(
        storage: Arc<dyn Storage>,
        holder: &str,
        force: bool,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        Self::rebuild_with(storage, holder, force, Duration::ZERO, observer)
    }

    fn rebuild_with(
        storage: Arc<dyn Storage>,
        holder: &str,
        force: bool,
        wait: Duration,
        observer: &dyn Observer,
    ) -> Result<RebuildReport> {
        storage.check_trust()?;
        // Looked at before the lock as well, whose file would otherwise be left in a folder that is not ours.
        rebuild::check_needed(&*storage, force)?;
        let _lock = waiting::lock(&*storage, holder, wait, observer)?;
        trusted::take_file_mode(&*storage, trusted_config(&*storage))?;
        rebuild::rebuild(&storage, force, observer)
    }

    /// Reads the manifest again and undoes what it says is under way.
    fn recover(&mut self, observer: &dyn Observer) -> Result<()> {
        self.read_again()?;
        recover::recover(&self.archive.storage, &mut self.archive.manifest, observer)
    }

    /// Reads the manifest again, which has to be one that belongs to the files.
    fn read_again(&mut self) -> Result<()> {
        let archive = &mut self.archive;
        archive.manifest = manifest::read_again(&*archive.storage)?;
        moment::check(&*archive.storage, &archive.manifest)
    }

    /// After an operation of this writer has failed, the manifest on disk may be another one.
    pub(crate) fn recover_from_failure(&mut self, observer: &dyn Observer) -> Result<()> {
        let archive = &mut self.archive;
        match archive.manifest.in_progress {
            Some(_) => self.recover(observer),
            None => left_overs::tidy(&*archive.storage, &mut archive.manifest),
        }
    }

    /// The same before a scrub: what only an image that is gone held is taken for lost.
    fn recover_by_all_means(
        &mut self,
        options: &ScrubOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        if !self.is_under_way() {
            return Ok(());
        }
        self.read_again()?;
        let archive = &mut self.archive;
        let lost_image = if options.check_only { LostImage::Refuse } else { LostImage::MakeAnew };
        recover::recover_with(&archive.storage, &mut archive.manifest, lost_image, observer)
    }

    /// The same before revisions are removed. When it fails for want of room, those of `plan` go all the same that nothing
    /// reads through to, and then it is tried again.
    fn recover_or_make_room(
        &mut self,
        plan: impl Fn(&Archive) -> Result<MaintenancePlan>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        let Err(error) = self.recover_from_failure(observer) else { return Ok(()) };
        if !waits(&error) {
            return Err(error);
        }
        let steps = plan(&self.archive)?.steps.into_iter();
        let mut oldest = steps.filter_map(|step| match step {
            Step::Remove { revisions } => Some(revisions),
            _ => None,
        });
        let Some(oldest) = oldest.next() else { return Err(error) };
        let storage = Arc::clone(&self.archive.storage);
        let (manifest, level, threads) = (&mut self.archive.manifest, 1, None);
        Maintainer { storage: &storage, manifest, level, threads, clock, observer }
            .remove_oldest(&oldest)?;
        self.recover_from_failure(observer)
    }

    /// The archive, for reading.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Brings over what is right of an archive of 2014, oldest revision first, each with its name and time.
    /// An import that was interrupted is continued.
    ///
    /// # Errors
    /// [`Error::Specification`] when there are revisions here that are not of that archive; [`Error::Source`] when there is no
    /// such archive, or it changes meanwhile. The revisions that were made until then stay.
    pub fn import(
        &mut self,
        old: &Path,
        threads: Option<usize>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ImportReport> {
        self.recover_from_failure(observer)?;
        let config = self.archive.config()?;
        let storage = Arc::clone(&self.archive.storage);
        let context = Context { storage: &storage, config: &config, clock, observer };
        let started = clock.now();
        let done = import::import(&context, &mut self.archive.manifest, old, threads);
        self.record("import", started, &done, clock, observer);
        done
    }

    /// Adds an operation that has ended to the history.
    pub(crate) fn record<T: Serialize>(
        &self,
        operation: &str,
        started: Timestamp,
        done: &Result<T>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) {
        let times = (started, clock.now());
        history::record(&*self.archive.storage, operation, times, done.as_ref(), observer);
    }

    /// Lets go what the schedule no longer keeps.
    pub fn maintain(
        &mut self,
        options: &MaintenanceOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        let started = clock.now();
        let plan = |archive: &Archive| archive.planned(options, started, observer);
        // What cannot be planned, as for want of a config, is not confirmed either.
        let planned =
            self.recover_or_make_room(plan, clock, observer).and_then(|_| plan(&self.archive));
        self.unless_stopped("maintenance", started, planned, clock, observer)?;
        let confirmed = match options.confirm {
            true => {
                let storage = Arc::clone(&self.archive.storage);
                maintenance::confirm(&*storage, &mut self.archive.manifest, clock)?
            }
            false => Vec::new(),
        };
        let plan = self.archive.planned(options, started, observer)?;
        self.execute("maintenance", plan, confirmed, options.threads, clock, observer)
    }

    /// Removes revisions, by their numbers from the newest, whatever the schedule says.
    pub fn remove(
        &mut self,
        numbers: &[usize],
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        let revisions = self.archive.revisions();
        let named = numbers.iter().filter_map(|&number| revisions.get(number));
        let goes: HashSet<RevisionId> = named.map(|revision| revision.uuid).collect();
        let plan = |archive: &Archive| {
            let there = archive.revisions().iter().enumerate();
            let numbers: Vec<usize> =
                there.filter(|(_, r)| goes.contains(&r.uuid)).map(|(number, _)| number).collect();
            maintenance::plan_removal(&archive.storage, &archive.manifest, &numbers, observer)
        };
        let started = clock.now();
        let planned =
            self.recover_or_make_room(plan, clock, observer).and_then(|_| plan(&self.archive));
        let plan = self.unless_stopped("rm", started, planned, clock, observer)?;
        self.execute("rm", plan, Vec::new(), None, clock, observer)
    }

    /// Takes note in the history that an operation was stopped while it was being planned.
    fn unless_stopped(
        &self,
        operation: &str,
        started: Timestamp,
        planned: Result<MaintenancePlan>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenancePlan> {
        if matches!(planned, Err(Error::Interrupted)) {
            self.record(operation, started, &planned, clock, observer);
        }
        planned
    }

    fn execute(
        &mut self,
        operation: &str,
        plan: MaintenancePlan,
        confirmed: Vec<Freeze>,
        threads: Option<usize>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<MaintenanceReport> {
        // A config that cannot be read is no reason not to remove by hand.
        let level = self.archive.config().map_or(DEFAULT_LEVEL, |config| config.compression_level);
        let storage = Arc::clone(&self.archive.storage);
        let manifest = &mut self.archive.manifest;
        let mut maintainer =
            Maintainer { storage: &storage, manifest, level, threads, clock, observer };
        let started = clock.now();
        let done = maintainer.execute(plan);
        let done = done.map(|report| MaintenanceReport { confirmed, ..report });
        self.record(operation, started, &done, clock, observer);
        reserve::keep(&*storage);
        done
    }

    /// Checks what is stored, mends what can be mended, and records what was found.
    pub fn scrub(
        &mut self,
        options: &ScrubOptions,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ScrubReport> {
        self.recover_by_all_means(options, observer)?;
        let archive = &mut self.archive;
        let storage = Arc::clone(&archive.storage);
        let started = clock.now();
        let done = scrub::scrub(&storage, &mut archive.manifest, options, clock, observer);
        self.record("scrub", started, &done, clock, observer);
        done
    }

    /// Records a test restore, for `status` to show. One that failed stays until one of the same revision has passed, with a command if
    /// it had one: that another revision is right proves nothing of this one.
    pub fn record_drill(
        &mut self,
        drill: DrillReport,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<()> {
        self.recover_from_failure(observer)?;
        let mut after = self.archive.manifest.clone();
        let last = after.drill.as_ref().filter(|last| {
            let is_there = after.revisions.iter().any(|revision| revision.uuid == last.revision);
            is_there && !last.passed
        });
        if last.is_none_or(|last| drill.settles(last)) {
            after.drill = Some(drill.clone());
        }
        manifest::publish(&*self.archive.storage, &after)?;
        self.archive.manifest = after;
        self.record("drill", drill.started, &Ok(drill.clone()), clock, observer);
        Ok(())
    }

    /// Adds tags that are kept until they are removed by hand, and removes tags; one that the schedule had given
    /// before it was added by hand is the schedule's again. Gives all that the revision has then.
    ///
    /// # Errors
    /// [`Error::Specification`] for more tags than a revision can hold, and for a new one with `..` in its name.
    pub fn tag(
        &mut self,
        number: usize,
        add: &BTreeSet<Tag>,
        remove: &BTreeSet<Tag>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<BTreeSet<Tag>> {
        self.recover_from_failure(observer)?;
        let mut after = self.archive.manifest.clone();
        let Some(revision) = after.revisions.get_mut(number) else {
            let message = format!("there is no revision {number}");
            return Err(Error::NoSuchRevision { message });
        };
        for tag in add.difference(&revision.tags) {
            tag.check_new().map_err(|message| Error::Specification { message })?;
        }
        remove.iter().for_each(|tag| revision.remove_tag(tag));
        add.iter().for_each(|tag| revision.pin_tag(tag));
        let (tags, pinned_tags) = (revision.tags.clone(), revision.pinned_tags.clone());
        let report = TagReport { revision: revision.uuid, tags: tags.clone(), pinned_tags };
        backup::tags::check_count(&tags)?;
        let started = clock.now();
        manifest::publish(&*self.archive.storage, &after)?;
        self.archive.manifest = after;
        self.record("tag", started, &Ok(report), clock, observer);
        Ok(tags)
    }
}

/// What the history says of a change of tags.
#[derive(Serialize)]
struct TagReport {
    revision: RevisionId,
    tags: BTreeSet<Tag>,
    pinned_tags: BTreeSet<Tag>,
}

/// Whether an operation that cannot be undone now may be undone when something else has been done. Where manifest and files do not
/// belong together, nothing may be done.
fn waits(error: &Error) -> bool {
    let belongs_together = !matches!(error, Error::OtherMoment { .. } | Error::InTheWay { .. });
    error.kind() == ErrorKind::NoSpace || error.is_damage() && belongs_together
}

/// That there is no archive yet; which of an archive's files are there all the same.
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

/// Whether a file is one that `init` makes, as its content or its token proves, or may find.
fn is_from_init(storage: &dyn Storage, name: FileName) -> Result<bool> {
    let content = |limit| match staged::read_whole(storage, name, limit) {
        Err(error) if error.is_damage() => Ok(None),
        content => content.map(Some),
    };
    Ok(match name {
        // It is read next.
        FileName::CONFIG => true,
        FileName::Aside(_, token) => token == FIRST,
        FileName::README => {
            content(README_LIMIT_BYTES)?.is_some_and(|text| readme::block_size_of(&text).is_some())
        }
        FileName::Lock => content(LOCK_LIMIT_BYTES)?.is_some_and(|text| is_note(&text)),
        _ => false,
    })
}

/// Says of a snapshot that cannot be read whose work it is.
fn of_hook(error: Error) -> Error {
    match error {
        Error::Source { path, message } => {
            let message =
                format!("{message}; the hook 'before' of backy.toml must create this snapshot");
            Error::Source { path, message }
        }
        other => other,
    }
}

/// A config that was there before the archive has to be right, and must not name another source.
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
