//! `backy.Archive`: signatures and docstrings. `operations` has the code of the methods.

mod changing;
mod copying;
mod giving;

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backy_lib::import::ImportRequest;
use backy_lib::init::InitRequest;
use backy_lib::{BlockSize, Error, Result, SystemClock, Trust};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;

use crate::cancel::{Callback, Cancel, Control};
use crate::ending::Call;
use crate::error::{exception, wrong};
use crate::mount::{Group, Mount, MountArguments};
use crate::named::{self, GivenPath, Paths};
use crate::operations::{self, Folder};
use crate::read::reduced;
use crate::reader::{Caches, Reader};
use crate::report::ToPython;
use crate::seen::see;
use crate::specification::{One, Several, Wait};
use crate::watch::run;

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
        let folder = Folder { path: absolute(folder)?, trust: trust_of(trust) };
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
    /// `origin` is another archive that the new one is to be a copy of, in place of a source: an absolute path, or
    /// ssh://HOST/PATH.
    /// `include`: files with settings for several archives, which its backy.toml includes. `block_size` is the unit of
    /// comparison and storage in bytes, a power of two from 4096 to 2097152.
    ///
    /// A source that does not exist yet, or that holds an image in another format, is accepted with a UserWarning.
    ///
    /// Raises ArchiveExistsError when there is an archive already, SourceError when the source cannot be read or is
    /// inside the archive, ConfigError when a file cannot be included.
    ///
    /// `path`: the folder. `trust`: also when others than the caller and root can change it.
    #[staticmethod]
    #[pyo3(
        signature = (path, source=None, *, origin=None, include=Paths::default(), block_size=65536, trust=false),
        text_signature = "(path, source=None, *, origin=None, include=(), block_size=65536, trust=False)"
    )]
    fn init(
        py: Python<'_>,
        #[pyo3(from_py_with = named::path)] path: GivenPath,
        #[pyo3(from_py_with = named::source)] source: Option<GivenPath>,
        #[pyo3(from_py_with = named::origin)] origin: Option<String>,
        #[pyo3(from_py_with = named::include)] include: Paths,
        #[pyo3(from_py_with = named::block_size)] block_size: u64,
        #[pyo3(from_py_with = named::trust)] trust: bool,
    ) -> PyResult<Self> {
        let archive = Self::at(new_folder("path", &path)?, trust)?;
        let block_size = known_block_size(block_size)?;
        let Folder { path: folder, trust } = archive.folder.clone();
        let source = source.map(|given| given.0);
        let request = InitRequest { folder, source, origin, include: include.0, block_size, trust };
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
        self.read(py, |archive| Ok(archive.config()?.source.map(|source| source.written())))
    }

    /// The revisions, newest first.
    ///
    /// Each access reads the archive, so that it shows a backup made meanwhile.
    #[getter]
    fn revisions<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let all = |archive: &backy_lib::Archive| {
            Ok(archive.revisions().iter().map(|revision| revision.uuid).collect())
        };
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
            let id = revision.resolve(archive)?;
            archive.find(id)
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
            let shown = revisions.resolve(archive)?;
            backy_lib::status::status(archive, &shown, &SystemClock)
        };
        self.read(py, status)?.to_python(py)
    }

    /// The settings that apply, and the file and line that each comes from: backy.toml with the files that it includes.
    ///
    /// Problems with the settings are in its errors.
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, backy_lib::settings::config)?.to_python(py)
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

pub(crate) fn trust_of(trust: bool) -> Trust {
    if trust { Trust::Given } else { Trust::Checked }
}

pub(crate) fn absolute(folder: &Path) -> PyResult<PathBuf> {
    std::path::absolute(folder).map_err(Error::io(folder, "find the folder")).map_err(exception)
}

/// A folder to create. A shell would have expanded what begins with `~`; here it would be a folder of that name.
pub(crate) fn new_folder<'a>(name: &str, GivenPath(path): &'a GivenPath) -> PyResult<&'a Path> {
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
