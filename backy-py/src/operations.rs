//! The code of the methods of `backy.Archive`, with the engine's types, including the requests that the command
//! makes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use backy_lib::backup::{BackupRequest, BackupSource};
use backy_lib::export::{
    ExportOptions, RbdDiffOptions, RbdDiffReport, rbd_diff, rbd_diff_to_stream,
};
use backy_lib::import::ImportRequest;
use backy_lib::maintenance::{MaintenanceRequest, RemovalRequest};
use backy_lib::monitoring::write_textfile;
use backy_lib::progress::{Event, Observer};
use backy_lib::pull::PullRequest;
use backy_lib::scrub::ScrubRequest;
use backy_lib::tag::TagRequest;
use backy_lib::{
    Archive, ArchiveWriter, BackupOptions, BackupPlan, BackupReport, Caller, Error, ExportReport,
    ImportReport, MaintenancePlan, MaintenanceReport, PullReport, RebuildReport, RestoreOptions,
    RestoreReport, Result, RevisionId, ScrubReport, SystemClock, Tag, Trust,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::named::GivenPath;
use crate::source::{PythonSource, READ};
use crate::specification::{One, Wait};
use crate::stream::{Stream, Target};
use crate::watch::Watch;

/// The caller of a request that changes an archive.
pub(crate) fn caller<'a>(wait: Wait, observer: &'a dyn Observer) -> Caller<'a> {
    Caller { program: Some("Python"), wait: wait.0, clock: &SystemClock, observer }
}

/// The folder of an archive, and whether it is acted on when others can change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) trust: Trust,
}

impl Folder {
    /// The archive in it.
    pub(crate) fn open(&self) -> Result<Archive> {
        Archive::open_with(&self.path, self.trust)
    }
}

/// Does what changes the archive in a folder; then, however it ended, the file for node_exporter is written anew.
pub(crate) fn changing<T>(
    folder: &Folder,
    watch: &Watch,
    change: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let done = change();
    let warning = match write_textfile(&folder.path, folder.trust, &SystemClock) {
        Ok(written) => written.warning(),
        Err(error) => Some(error.to_string()),
    };
    if let Some(warning) = warning {
        watch.event(&Event::Finding(warning));
    }
    done
}

/// Where what is backed up comes from.
pub(crate) enum From {
    /// The config.
    Config,
    /// A file or device.
    Path(PathBuf),
    /// An object.
    Object(Py<PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for From {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(From::Config);
        }
        match object.hasattr(READ)? {
            true => Ok(From::Object(object.to_owned().unbind())),
            false => match object.extract::<GivenPath>() {
                Ok(GivenPath(path)) => Ok(From::Path(path)),
                Err(error) if !error.is_instance_of::<PyTypeError>(object.py()) => Err(error),
                Err(_) => Err(PyTypeError::new_err(format!(
                    "found {}, expected a path, or an object with size and {READ}()",
                    object.get_type().name()?
                ))),
            },
        }
    }
}

impl From {
    /// The source for the engine, which opens an object under the lock.
    fn source(self, watch: &Watch) -> BackupSource<'_> {
        match self {
            From::Config => BackupSource::Config,
            From::Path(path) => BackupSource::Path(path),
            From::Object(object) => BackupSource::Other(Box::new(move |archive: &Archive| {
                PythonSource::open(object, watch, archive.revisions().first())
            })),
        }
    }
}

pub(crate) fn plan_backup(
    folder: &Folder,
    source: From,
    options: BackupOptions,
    watch: &Watch,
) -> Result<BackupPlan> {
    let request = BackupRequest { source: source.source(watch), options, meeting: None };
    request.plan(&folder.open()?, &caller(Wait::default(), watch))
}

pub(crate) fn backup(
    folder: &Folder,
    source: From,
    options: BackupOptions,
    wait: Wait,
    watch: &Watch,
) -> Result<Option<BackupReport>> {
    let request = BackupRequest { source: source.source(watch), options, meeting: None };
    let guard = || {
        watch.attach(guard).ok_or(Error::Interrupted)?.map_err(|error| Error::Hook {
            hook: "before",
            message: format!("was not run: {error}"),
        })
    };
    changing(folder, watch, || {
        Ok(request.run(&folder.open()?, guard, &caller(wait, watch))?.report())
    })
}

/// What is started to guard the hooks, or the command of a drill.
pub(crate) fn guard(py: Python<'_>) -> PyResult<Vec<OsString>> {
    Ok(backy_cli::guard_words(&itself(py)?))
}

/// What starts the command once more; empty in a program that only has Python in it.
pub(crate) fn itself(py: Python<'_>) -> PyResult<Vec<OsString>> {
    py.import("backy._again")?.call_method0("words")?.extract()
}

pub(crate) fn scrub(
    folder: &Folder,
    request: &ScrubRequest,
    wait: Wait,
    watch: &Watch,
) -> Result<ScrubReport> {
    let archive = folder.open()?;
    let scrub = || request.run(&archive, &caller(wait, watch));
    if request.check_only { scrub() } else { changing(folder, watch, scrub) }
}

pub(crate) fn restore(
    folder: &Folder,
    target: Target,
    revision: &One,
    options: &RestoreOptions,
    watch: &Watch,
) -> Result<RestoreReport> {
    let archive = folder.open()?;
    let id = revision.resolve(&archive)?;
    match target {
        Target::Path(path) => archive.restore(id, &path, options, &SystemClock, watch),
        Target::File(file) => {
            let mut stream = Stream::new(file, watch);
            archive.restore_to_stream(id, &mut stream, options, watch)
        }
    }
}

pub(crate) fn rebuild(
    folder: &Folder,
    force: bool,
    wait: Wait,
    watch: &Watch,
) -> Result<RebuildReport> {
    let holder = caller(wait, watch).holder("scrub --rebuild");
    changing(folder, watch, || {
        ArchiveWriter::rebuild_within(&folder.path, folder.trust, &holder, force, wait.0, watch)
    })
}

pub(crate) fn plan_maintenance(
    folder: &Folder,
    request: &MaintenanceRequest,
    watch: &Watch,
) -> Result<MaintenancePlan> {
    request.plan(&folder.open()?, &caller(Wait::default(), watch))
}

pub(crate) fn maintenance(
    folder: &Folder,
    request: &MaintenanceRequest,
    wait: Wait,
    watch: &Watch,
) -> Result<MaintenanceReport> {
    let archive = folder.open()?;
    changing(folder, watch, || request.run(&archive, &caller(wait, watch)))
}

pub(crate) fn remove(
    folder: &Folder,
    request: &RemovalRequest,
    wait: Wait,
    watch: &Watch,
) -> Result<MaintenanceReport> {
    let archive = folder.open()?;
    changing(folder, watch, || request.run(&archive, &caller(wait, watch)))
}

/// All tags that the revision has then.
pub(crate) fn tag(
    folder: &Folder,
    request: &TagRequest,
    wait: Wait,
    watch: &Watch,
) -> Result<Vec<Tag>> {
    let archive = folder.open()?;
    let tag = || request.run(&archive, &caller(wait, watch));
    let changes = !request.add.is_empty() || !request.remove.is_empty();
    let revision = if changes { changing(folder, watch, tag) } else { tag() }?;
    Ok(revision.tags.into_iter().collect())
}

pub(crate) fn export(
    folder: &Folder,
    path: &Path,
    revision: &One,
    options: &ExportOptions,
    watch: &Watch,
) -> Result<ExportReport> {
    let archive = folder.open()?;
    let id = revision.resolve(&archive)?;
    backy_lib::export::export(&archive, id, path, options, watch)
}

pub(crate) fn export_rbd_diff(
    archive: &Archive,
    target: Target,
    id: RevisionId,
    options: &RbdDiffOptions,
    watch: &Watch,
) -> Result<RbdDiffReport> {
    match target {
        Target::Path(path) => rbd_diff(archive, id, &path, options, watch),
        Target::File(file) => {
            rbd_diff_to_stream(archive, id, &mut Stream::new(file, watch), options, watch)
        }
    }
}

pub(crate) fn import(
    folder: &Folder,
    request: &ImportRequest,
    wait: Wait,
    watch: &Watch,
) -> Result<ImportReport> {
    changing(folder, watch, || request.run(&caller(wait, watch)))
}

pub(crate) fn pull(
    folder: &Folder,
    request: &PullRequest,
    wait: Wait,
    watch: &Watch,
) -> Result<PullReport> {
    changing(folder, watch, || request.run(&caller(wait, watch)))
}
