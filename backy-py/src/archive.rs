//! `backy.Archive`: signatures and docstrings. What the methods do is in `operations`.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backy_lib::export::ExportOptions;
use backy_lib::import::ImportRequest;
use backy_lib::init::InitRequest;
use backy_lib::maintenance::{MaintenanceRequest, RemovalRequest};
use backy_lib::scrub::ScrubRequest;
use backy_lib::tag::TagRequest;
use backy_lib::{
    BackupOptions, BlockSize, Error, MaintenanceOptions, RestoreOptions, Result, SpaceCheck,
    SystemClock, Trust,
};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;

use crate::cancel::{Callback, Cancel, Control};
use crate::drill;
use crate::ending::Call;
use crate::error::{exception, wrong};
use crate::mount::{Group, Mount, MountArguments};
use crate::named::{self, GivenPath};
use crate::operations::{self, Folder, From};
use crate::read::reduced;
use crate::reader::{Caches, Reader};
use crate::report::ToPython;
use crate::seen::see;
use crate::specification::{GivenBudget, Limit, One, Rate, Several, Tags, Wait};
use crate::stream::Target;
use crate::watch::{Watch, run};

/// The folder of one source's backups.
///
/// Each call reads the archive anew. A call that changes it holds the lock until it returns, and raises LockedError
/// when somebody else has it. All other calls need no lock: a backup may run meanwhile.
///
/// Wherever you name a revision: a number (0 is the newest), text as the command takes it ("latest", "first", "1",
/// "tag:weekly", a UUID or at least 4 hex digits of its beginning, "2026-11-28", "2026-11-28 02:00", "yesterday"), a
/// uuid.UUID, a datetime or date for the newest that was not made after it, a Revision or a RevisionStatus. Where you
/// name several: text such as "all", "tag:weekly" for all that have it, "yesterday" for all that were made then,
/// "0..3" or "0,2", or an iterable of what names one.
///
/// Calls that change the archive take `wait`: how long to wait while somebody else changes it, in seconds, as a
/// timedelta, or as text such as "10m". Without it, LockedError is raised at once.
///
/// Long calls let other threads run. `progress` is called with a Progress, at most ten times a second, in the thread
/// that called. Ctrl-C, an exception of `progress`, or the CancelToken that you pass as `cancel` stops the operation
/// in order; then KeyboardInterrupt, that exception, or CancelledError is raised. What comes too late, because the
/// operation has finished, never hides its report: see "Stopping a call" in doc/python.md. Messages go to the logger
/// "backy".
///
/// Calls that change the archive or run its hooks raise UntrustedError when others than the caller and root can
/// change its folder, one above it or backy.toml, unless `trust` is true: whoever can do that decides what is read
/// and run. Calls that only read do not check that.
///
/// `path`: the folder. Two archives are equal when their folders and `trust` are. An archive can be pickled and
/// copied, as for a process of a pool; the copy reads the folder at its first call.
///
/// Raises ArchiveNotFoundError where there is no archive, another BackyError where it cannot be read.
#[pyclass(module = "backy", frozen)]
pub(crate) struct Archive {
    folder: Folder,
    cache: Arc<Caches>,
}

impl Archive {
    fn at(folder: &Path, trust: bool) -> PyResult<Self> {
        let trust = if trust { Trust::Given } else { Trust::Checked };
        let folder = Folder { path: absolute(folder)?, trust };
        Ok(Archive { folder, cache: Caches::new() })
    }

    /// Reads the archive, without the interpreter.
    fn read<T: Send>(
        &self,
        py: Python<'_>,
        what: impl FnOnce(&backy_lib::Archive) -> Result<T> + Send,
    ) -> PyResult<T> {
        let call = Call::begin(py)?;
        let read = py.detach(|| what(&self.folder.open()?)).map_err(exception);
        drop(call);
        read
    }
}

#[pymethods]
impl Archive {
    #[new]
    #[pyo3(signature = (path, *, trust=false))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = named::path)] path: GivenPath,
        #[pyo3(from_py_with = named::trust)] trust: bool,
    ) -> PyResult<Self> {
        let archive = Self::at(&path.0, trust)?;
        archive.read(py, |_| Ok(()))?;
        Ok(archive)
    }

    /// Create an archive in a folder, which is created if it does not exist.
    ///
    /// `source` is the block device or file to back up. Without it, set it in backy.toml before the first backup.
    /// `block_size` is the unit of comparison and storage in bytes, a power of two from 4096 to 2097152.
    ///
    /// A source that does not exist yet, or that holds an image in another format, is accepted with a UserWarning.
    ///
    /// Raises ArchiveExistsError when there is an archive already, SourceError when the source cannot be read or is
    /// inside the archive.
    ///
    /// `path`: the folder. `trust`: also when others than the caller and root can change it.
    #[staticmethod]
    #[pyo3(signature = (path, source=None, *, block_size=65536, trust=false))]
    fn init(
        py: Python<'_>,
        #[pyo3(from_py_with = named::path)] path: GivenPath,
        #[pyo3(from_py_with = named::source)] source: Option<GivenPath>,
        #[pyo3(from_py_with = named::block_size)] block_size: u64,
        #[pyo3(from_py_with = named::trust)] trust: bool,
    ) -> PyResult<Self> {
        let archive = Self::at(new_folder("path", &path)?, trust)?;
        let block_size = known_block_size(block_size)?;
        let Folder { path: folder, trust } = archive.folder.clone();
        let source = source.map(|given| given.0);
        let request = InitRequest { folder, source, block_size, trust };
        let warning = py.detach(|| request.run()).map_err(exception)?.warning;
        if let Some(warning) = warning {
            let warning = CString::new(warning)?;
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &warning, 1)?;
        }
        Ok(archive)
    }

    /// Import an archive that backy made in 2014: its revisions, oldest first, with their names and times.
    ///
    /// `old` is only read. The archive at `path` is created if there is none. Every block is checked against its MD5
    /// in the old archive. The report names what could not be imported; its is_complete is False then. Call it again
    /// to continue an import that was interrupted.
    ///
    /// `block_size`: the unit of a new archive in bytes, if not the usual one. `trust`: also when others than the
    /// caller and root can change the folder.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[staticmethod]
    #[pyo3(signature = (old, path, *, block_size=None, trust=false, progress=None, cancel=None, wait=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn import_<'py>(
        py: Python<'py>,
        #[pyo3(from_py_with = named::old)] old: GivenPath,
        #[pyo3(from_py_with = named::path)] path: GivenPath,
        #[pyo3(from_py_with = named::block_size)] block_size: Option<u64>,
        #[pyo3(from_py_with = named::trust)] trust: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let folder = Self::at(new_folder("path", &path)?, trust)?.folder;
        let block_size = block_size.map(known_block_size).transpose()?;
        let wait = wait.unwrap_or_default();
        let (trust, new) = (folder.trust, folder.path.clone());
        let request = ImportRequest { old: old.0, folder: new, block_size, trust };
        let import = |watch: &_| operations::import(&folder, &request, wait, watch);
        run(py, Control::new(progress, cancel), import)?.to_python(py)
    }

    /// Rebuild a lost or damaged manifest.json from the digest files and the deltas.
    ///
    /// What only the manifest knew is lost, such as tags that were added later; the report lists it. `force`: also when
    /// the manifest is readable. Scrub the archive afterwards.
    ///
    /// `path`: the folder of the archive. `trust`: also when others than the caller and root can change it.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[staticmethod]
    #[pyo3(signature = (path, *, force=false, trust=false, progress=None, cancel=None, wait=None))]
    fn rebuild<'py>(
        py: Python<'py>,
        #[pyo3(from_py_with = named::path)] path: GivenPath,
        #[pyo3(from_py_with = named::force)] force: bool,
        #[pyo3(from_py_with = named::trust)] trust: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let folder = Self::at(&path.0, trust)?.folder;
        let wait = wait.unwrap_or_default();
        run(py, Control::new(progress, cancel), |watch| {
            operations::rebuild(&folder, force, wait, watch)
        })?
        .to_python(py)
    }

    /// The folder, absolute.
    #[getter]
    fn path(&self) -> &Path {
        &self.folder.path
    }

    /// The configured source; None when there is none.
    #[getter]
    fn source(&self, py: Python<'_>) -> PyResult<Option<PathBuf>> {
        self.read(py, |archive| Ok(archive.config()?.source))
    }

    /// The revisions, newest first.
    ///
    /// Each access reads the archive, so that it shows a backup made meanwhile.
    #[getter]
    fn revisions<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let all = |archive: &backy_lib::Archive| Ok((0..archive.revisions().len()).collect());
        let revisions = py.detach(|| see(&self.folder, all)).map_err(exception)?;
        revisions.iter().map(|revision| revision.to_python(py)).collect()
    }

    /// The named revisions, newest first. Raises NoSuchRevisionError when there are none.
    ///
    /// `revisions`: which ones, as help(backy.Archive) says.
    fn select<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revisions)] revisions: Several,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let chosen = py.detach(|| see(&self.folder, |archive| revisions.resolve(archive)));
        let chosen = chosen.map_err(exception)?;
        chosen.iter().map(|revision| revision.to_python(py)).collect()
    }

    /// The path of the file that holds a revision: the newest is a raw image, an older one a qcow2 overlay.
    ///
    /// `revision`: which one, as help(backy.Archive) says.
    #[pyo3(signature = (revision=One::latest()), text_signature = "($self, revision='latest')")]
    fn find(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = named::revision)] revision: One,
    ) -> PyResult<PathBuf> {
        self.read(py, |archive| {
            let number = revision.resolve(archive)?;
            archive.find(number)
        })
    }

    /// Inventory and health, from the files alone; also while a backup runs.
    ///
    /// `revisions`: which ones to list, as help(backy.Archive) says; the verdict is always about all.
    #[pyo3(signature = (revisions=Several::all()), text_signature = "($self, revisions='all')")]
    fn status<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revisions)] revisions: Several,
    ) -> PyResult<Bound<'py, PyAny>> {
        let status = |archive: &_| {
            let numbers = revisions.resolve(archive)?;
            backy_lib::status::status(archive, &numbers, &SystemClock)
        };
        self.read(py, status)?.to_python(py)
    }

    /// Back up the source if a backup is due; None when none is.
    ///
    /// The schedule in backy.toml decides when a backup is due. `force` makes one whatever the schedule says, and so do
    /// `tags`, which pin the revision until they are removed. `limit_rate`: read at most so many bytes of the source
    /// a second, such as 1048576 or "100M". `dry_run`: only report whether a backup is due, as a BackupPlan. A backup
    /// that is not expected to fit on the disk does not start (NoSpaceError), unless `check_space` is false.
    ///
    /// `as_`: tags of the schedule to give as if they were due now; they expire as usual. When a backup is due and
    /// another one of this archive is running, that one makes it, and the call returns None.
    ///
    /// The hooks of backy.toml run around the reading of any source; HookError when one of them fails.
    ///
    /// `source`: the configured one unless given: a path, or an object that gives bytes. Such an object has `size`,
    /// in bytes, and `readinto_at(offset, buffer)`, which writes to the buffer and returns how many bytes it has
    /// written: 0 only at the end. Several threads call it. If it has `changed_extents(since)`, that is called once,
    /// with the newest Revision or None, and returns pairs of offset and length in which something may have changed
    /// since that one was made; or None if it does not know. An exception of the object stops the backup, leaves the
    /// archive as it was, and is raised unchanged.
    ///
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(
        signature = (*, source=From::Config, force=false, tags=Tags::default(), progress=None, cancel=None,
            limit_rate=None, check_space=true, dry_run=false, as_=Tags::default(), wait=None),
        text_signature = "($self, *, source=None, force=False, tags=(), progress=None, cancel=None, \
            limit_rate=None, check_space=True, dry_run=False, as_=(), wait=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn backup<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::source)] source: From,
        #[pyo3(from_py_with = named::force)] force: bool,
        #[pyo3(from_py_with = named::tags)] tags: Tags,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::limit_rate)] limit_rate: Option<Rate>,
        #[pyo3(from_py_with = named::check_space)] check_space: bool,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        #[pyo3(from_py_with = named::as_)] as_: Tags,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (tags, scheduled) = (tags.0, as_.0);
        let (limit_rate, wait) = (limit_rate.map(|rate| rate.0), wait.unwrap_or_default());
        let space = if check_space { SpaceCheck::Require } else { SpaceCheck::Explain };
        let options =
            BackupOptions { force, tags, scheduled, limit_rate, space, ..BackupOptions::default() };
        let control = Control::new(progress, cancel);
        if dry_run {
            let plan = |watch: &_| operations::plan_backup(&self.folder, source, options, watch);
            return run(py, control, plan)?.to_python(py);
        }
        let backup = |watch: &_| operations::backup(&self.folder, source, options, wait, watch);
        run(py, control, backup)?.to_python(py)
    }

    /// Restore a revision to a file, a device, or a binary file object.
    ///
    /// On an existing target, only blocks that differ are written; every block is verified before. A target that is
    /// mounted or otherwise in use, too small, or in the archive is refused (TargetError). `force` overwrites a file
    /// that exists, or a device that is not blank, even if it is not the source. The source needs no `force` when it
    /// is the one that was backed up, of a size that it had then, and no other process has it open.
    ///
    /// backy writes a file object from the beginning of the revision to its end, and takes no force, dry_run and undo
    /// with it. One that is closed, in text mode, or not open for writing is refused before anything begins. An
    /// exception of its write() is raised unchanged; when write() returns None that is a BlockingIOError, and when it
    /// returns anything but how many bytes it has written a TargetError.
    ///
    /// `keep_going`: fill unreadable blocks with zeros, list them in the report, and continue. `dry_run`: do
    /// everything but write. `undo`: a folder in which to create an archive of what is overwritten; restoring that
    /// brings it back.
    /// `check_space=False`: start even if the target seems to have too little space.
    ///
    /// `target`: a path, or a binary file object. `revision`: which one, as help(backy.Archive) says.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    #[pyo3(
        signature = (target, revision=One::latest(), *, force=false, keep_going=false, dry_run=false,
            undo=None, check_space=true, progress=None, cancel=None),
        text_signature = "($self, target, revision='latest', *, force=False, keep_going=False, dry_run=False, \
            undo=None, check_space=True, progress=None, cancel=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn restore<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::target)] target: Target,
        #[pyo3(from_py_with = named::revision)] revision: One,
        #[pyo3(from_py_with = named::force)] force: bool,
        #[pyo3(from_py_with = named::keep_going)] keep_going: bool,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        #[pyo3(from_py_with = named::undo)] undo: Option<GivenPath>,
        #[pyo3(from_py_with = named::check_space)] check_space: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let trust = self.folder.trust;
        let undo = undo.as_ref().map(|given| absolute(new_folder("undo", given)?)).transpose()?;
        let options = RestoreOptions {
            force,
            keep_going,
            dry_run,
            undo,
            trust,
            ignore_space: !check_space,
            ..RestoreOptions::default()
        };
        let file_has_none = force || dry_run || options.undo.is_some();
        if matches!(target, Target::File(_)) && file_has_none {
            let message = "a file object has nothing to compare with or to overwrite; omit force, dry_run and \
                           undo";
            return Err(wrong(message.to_owned()));
        }
        let restore =
            |watch: &Watch| operations::restore(&self.folder, target, &revision, &options, watch);
        run(py, Control::new(progress, cancel), restore)?.to_python(py)
    }

    /// What a restore to a file or device would overwrite: what it is, what is on it, and how much of it differs.
    /// None when it would overwrite nothing.
    ///
    /// Changes nothing. The command shows this before it asks. Raises TargetError when `restore` would, even with
    /// `force`.
    ///
    /// `target`: the path of the file or device. `revision`: which one, as help(backy.Archive) says.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    #[pyo3(
        signature = (target, revision=One::latest(), *, progress=None, cancel=None),
        text_signature = "($self, target, revision='latest', *, progress=None, cancel=None)"
    )]
    fn look_at_target<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::target)] target: GivenPath,
        #[pyo3(from_py_with = named::revision)] revision: One,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let look = |watch: &Watch| {
            let archive = self.folder.open()?;
            let number = revision.resolve(&archive)?;
            archive.look_at_target(number, &target.0, watch)
        };
        run(py, Control::new(progress, cancel), look)?.to_python(py)
    }

    /// Verify stored data and repair what can be repaired.
    ///
    /// Reads every stored block once and compares it with its digest; checks files, headers and tables as well.
    /// Findings are in the report and recorded: status is critical until they are repaired. `check_only`: change and
    /// record nothing, without the lock. `budget`: stop reading after a time ("30m", "4h") or a share of the stored
    /// bytes ("10%"); blocks that were not verified for the longest time come first. A budget of time may also be a
    /// timedelta; a number alone could mean either, and is refused.
    ///
    /// `revisions`: which ones, as help(backy.Archive) says.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(
        signature = (revisions=Several::all(), *, check_only=false, budget=None, progress=None, cancel=None,
            wait=None),
        text_signature = "($self, revisions='all', *, check_only=False, budget=None, progress=None, \
            cancel=None, wait=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn scrub<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revisions)] revisions: Several,
        #[pyo3(from_py_with = named::check_only)] check_only: bool,
        #[pyo3(from_py_with = named::budget)] budget: Option<GivenBudget>,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (budget, wait) = (budget.map(|given| given.0), wait.unwrap_or_default());
        let request = ScrubRequest { revisions: revisions.0, check_only, budget };
        let scrub = |watch: &_| operations::scrub(&self.folder, &request, wait, watch);
        run(py, Control::new(progress, cancel), scrub)?.to_python(py)
    }

    /// Delete revisions that the schedule no longer keeps; only the plan with `dry_run`.
    ///
    /// `keep`: keep so many of the newest revisions, whatever the schedule says. `confirm`: first confirm all alarms
    /// and all damage that status reports; nothing expires while they are unconfirmed.
    ///
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(signature = (*, dry_run=false, keep=None, confirm=false, progress=None, cancel=None, wait=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn maintenance<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        #[pyo3(from_py_with = named::keep)] keep: Option<u32>,
        #[pyo3(from_py_with = named::confirm)] confirm: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = MaintenanceOptions { keep, confirm, ..MaintenanceOptions::default() };
        let request = MaintenanceRequest { options };
        let control = Control::new(progress, cancel);
        if dry_run {
            let plan = |watch: &_| operations::plan_maintenance(&self.folder, &request, watch);
            return run(py, control, plan)?.to_python(py);
        }
        let wait = wait.unwrap_or_default();
        run(py, control, |watch| operations::maintenance(&self.folder, &request, wait, watch))?
            .to_python(py)
    }

    /// Delete revisions by hand; only the plan with `dry_run`.
    ///
    /// Blocks that older revisions need are merged into those first. One revision has to stay. `force`: also pinned
    /// ones.
    ///
    /// `revisions`: which ones, as help(backy.Archive) says.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(signature = (revisions, *, dry_run=false, force=false, progress=None, cancel=None, wait=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn rm<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revisions)] revisions: Several,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        #[pyo3(from_py_with = named::force)] force: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let control = Control::new(progress, cancel);
        let request = RemovalRequest { revisions: revisions.0, force };
        if dry_run {
            let plan = |_: &Watch| request.plan(&self.folder.open()?);
            return run(py, control, plan)?.to_python(py);
        }
        let wait = wait.unwrap_or_default();
        run(py, control, |watch| operations::remove(&self.folder, &request, wait, watch))?
            .to_python(py)
    }

    /// Add and remove tags of a revision; returns all that it has then, sorted.
    ///
    /// An added tag is pinned: it does not expire, and maintenance keeps the revision until the tag is removed.
    ///
    /// `revision`: which one, as help(backy.Archive) says. `add`, `remove`: iterables of tags. `cancel`: a
    /// CancelToken that stops it. `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(
        signature = (revision, add=Tags::default(), remove=Tags::default(), *, cancel=None, wait=None),
        text_signature = "($self, revision, add=(), remove=(), *, cancel=None, wait=None)"
    )]
    fn tag<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revision)] revision: One,
        #[pyo3(from_py_with = named::add)] add: Tags,
        #[pyo3(from_py_with = named::remove)] remove: Tags,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wait = wait.unwrap_or_default();
        let revision = revision.spec().clone();
        let request = TagRequest { revision, add: add.0, remove: remove.0 };
        let tag = |watch: &_| operations::tag(&self.folder, &request, wait, watch);
        run(py, Control::new(None, cancel), tag)?.to_python(py)
    }

    /// Test a restore of a revision, one at random unless you name it. Recorded, so that status shows it.
    ///
    /// Reads the whole revision and verifies every block. With a `command`, a sequence of words, it also restores the
    /// revision to a temporary read-only file in the folder `dir` and runs the command on it: "{}" in its words
    /// stands for the path of the file, or the path becomes the last word. `command` may also be a callable: it is
    /// called with the path, and the drill passes if it returns None or something true. The file is deleted in any
    /// case. After `timeout` ("90s", "30m", "4h", or "none"; without it what backy.toml says, or a day) the command
    /// is ended, with all that it has started; what it has started is also ended when it ends by itself. There is no
    /// time limit for a callable.
    /// `timeout` may also be a number of seconds, or a timedelta.
    ///
    /// `revision`: which one, as help(backy.Archive) says; without it one at random.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(
        signature = (revision=None, *, command=None, dir=None, timeout=None, progress=None, cancel=None, wait=None),
        text_signature = "($self, revision=None, *, command=None, dir=None, timeout=None, progress=None, \
            cancel=None, wait=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn drill<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revision)] revision: Option<One>,
        command: Option<Bound<'py, PyAny>>,
        #[pyo3(from_py_with = named::dir)] dir: Option<GivenPath>,
        #[pyo3(from_py_with = named::timeout)] timeout: Option<Limit>,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (limit, wait) = (timeout.map(|given| given.0), wait.unwrap_or_default());
        let dir = dir.map(|given| given.0);
        let control = Control::new(progress, cancel);
        let conditions = drill::Conditions { limit, wait, control };
        drill::drill(py, &self.folder, revision, command, dir, conditions)?.to_python(py)
    }

    /// Write a revision as one compressed qcow2 file that needs no other. `path` must not exist yet.
    ///
    /// `level`: how hard to compress, from 1 (fast) to 19 (small); without it that of backy.toml.
    /// `revision`: which one, as help(backy.Archive) says.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    #[pyo3(
        signature = (path, revision=One::latest(), *, level=None, progress=None, cancel=None),
        text_signature = "($self, path, revision='latest', *, level=None, progress=None, cancel=None)"
    )]
    fn export<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::path)] path: GivenPath,
        #[pyo3(from_py_with = named::revision)] revision: One,
        #[pyo3(from_py_with = named::level)] level: Option<i32>,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(level) = level.filter(|level| !(1..=19).contains(level)) {
            return Err(wrong(format!("level: found {level}, expected 1 to 19")));
        }
        let options = ExportOptions { level, threads: None };
        let export =
            |watch: &_| operations::export(&self.folder, &path.0, &revision, &options, watch);
        run(py, Control::new(progress, cancel), export)?.to_python(py)
    }

    /// Open a revision as a file: read, readinto, seek, and the rest of io.RawIOBase.
    ///
    /// Every byte is checked against its digest before it is returned; one that is not right raises
    /// ArchiveDamagedError. Several threads may read from it. `buffered`: an io.BufferedReader over that, for many
    /// small reads.
    ///
    /// `revision`: which one, as help(backy.Archive) says.
    #[pyo3(
        signature = (revision=One::latest(), *, buffered=false),
        text_signature = "($self, revision='latest', *, buffered=False)"
    )]
    fn open<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::revision)] revision: One,
        #[pyo3(from_py_with = named::buffered)] buffered: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let which = |archive: &backy_lib::Archive| revision.resolve(archive);
        let reader = Reader::open(py, &self.folder, &self.cache, which)?;
        let module = py.import("backy.io")?;
        let file = module.getattr("RevisionFile")?.call1((reader, &self.folder.path))?;
        if buffered { module.getattr("_buffered")?.call1((file,)) } else { Ok(file) }
    }

    /// Show every revision as a file in the folder `mountpoint`, until it is unmounted.
    ///
    /// For a `with` block, which gives the Path of the mountpoint and unmounts at its end. There is a raw image for
    /// each revision, named by its UUID, with UUID.partitions besides it; latest, by-number, by-date and by-tag lead
    /// to them. Threads of this process serve it. `writable`: let programs write to the files; temporary files in the
    /// folder `dir` take what they write, and are deleted. `gid`: let the members of this group, a name or a number,
    /// read it as well.
    /// `allow_other`: let other users in, of whom only root may read. `cache`: how many bytes of what was read to
    /// keep in memory.
    #[pyo3(signature = (mountpoint, *, writable=false, dir=None, gid=None, allow_other=false, cache=67108864))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn mount(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = named::mountpoint)] mountpoint: GivenPath,
        #[pyo3(from_py_with = named::writable)] writable: bool,
        #[pyo3(from_py_with = named::dir)] dir: Option<GivenPath>,
        #[pyo3(from_py_with = named::gid)] gid: Option<Group>,
        #[pyo3(from_py_with = named::allow_other)] allow_other: bool,
        #[pyo3(from_py_with = named::cache)] cache: u64,
    ) -> PyResult<Mount> {
        let (mountpoint, dir) = (mountpoint.0, dir.map(|given| given.0));
        let arguments = MountArguments { mountpoint, writable, dir, gid, allow_other, cache };
        Mount::new(py, &self.folder, arguments)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let same = |other: &Bound<'_, Self>| other.get().folder == self.folder;
        other.cast::<Self>().is_ok_and(same)
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.folder.path.hash(&mut hasher);
        hasher.finish()
    }

    /// For pickles. Does not read the archive: whoever unpickles it may be a process that cannot report an error then.
    #[staticmethod]
    fn _at(path: PathBuf, trust: bool) -> PyResult<Self> {
        Self::at(&path, trust)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let path = self.folder.path.as_os_str();
        reduced("archive", py, (path, self.folder.trust == Trust::Given))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let path = self.folder.path.as_os_str().into_pyobject(py)?;
        Ok(format!("backy.Archive({})", path.repr()?))
    }
}

fn absolute(folder: &Path) -> PyResult<PathBuf> {
    std::path::absolute(folder).map_err(Error::io(folder, "find the folder")).map_err(exception)
}

/// A folder to create. A shell would have expanded what begins with `~`; here it would be a folder of that name.
fn new_folder<'a>(name: &str, GivenPath(path): &'a GivenPath) -> PyResult<&'a Path> {
    match path.starts_with("~") {
        true => Err(wrong(format!("{name}: the '~' is not expanded; use Path.expanduser()"))),
        false => Ok(path),
    }
}

fn known_block_size(bytes: u64) -> PyResult<BlockSize> {
    let message =
        || format!("block_size: found {bytes}, expected a power of two from 4096 to 2097152");
    BlockSize::new(bytes).ok_or_else(|| wrong(message()))
}
