//! What the methods of `backy.Archive` do, with the engine's types: the same steps as the command's, in the same order.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use backy_lib::export::ExportOptions;
use backy_lib::import::prepare;
use backy_lib::monitoring::write_textfile;
use backy_lib::progress::{Event, Observer};
use backy_lib::select::{check_tagged, check_unpinned, names, numbers};
use backy_lib::source::{DeviceSource, Source};
use backy_lib::storage::holder_note;
use backy_lib::{
    Archive, ArchiveWriter, BackupOptions, BackupPlan, BackupReport, BlockSize, Clock, Config,
    Error, ErrorKind, ExportReport, ImportReport, MaintenanceOptions, MaintenancePlan,
    MaintenanceReport, RebuildReport, RestoreOptions, RestoreReport, Result, ScrubOptions,
    ScrubReport, SystemClock, Tag, Trust,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::named::GivenPath;
use crate::source::{PythonSource, READ};
use crate::specification::{One, Several, Tags, Wait, no_such};
use crate::stream::{Stream, Target};
use crate::watch::Watch;

/// What whoever finds the archive locked by this process is told.
pub(crate) fn holder(operation: &str) -> String {
    holder_note(&format!("'{operation}' of Python"), SystemClock.now())
}

pub(crate) fn writer(
    archive: Archive,
    operation: &str,
    wait: Wait,
    observer: &dyn Observer,
) -> Result<ArchiveWriter> {
    ArchiveWriter::open_within(archive, &holder(operation), wait.0, observer)
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

/// Whether the source, if one is given, is there.
pub(crate) fn init(folder: &Folder, source: Option<&Path>, block_size: BlockSize) -> Result<bool> {
    let absolute = |path| std::path::absolute(path).map_err(Error::io(path, "find the folder of"));
    let source = source.map(absolute).transpose()?;
    // Its mistakes are better told now than at night.
    let found = source.as_deref().map(DeviceSource::open_if_there).transpose()?;
    Archive::init_with(&folder.path, source.as_deref(), block_size, folder.trust)?;
    Ok(!matches!(found, Some(None)))
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
    fn device(&self, archive: &Archive) -> Result<Option<DeviceSource>> {
        match self {
            From::Config => archive.open_source().map(Some),
            From::Path(path) => archive.open_device(path).map(Some),
            From::Object(_) => Ok(None),
        }
    }

    /// What the hooks are told is backed up.
    fn path(&self, config: &Config) -> Option<PathBuf> {
        match self {
            From::Config => config.source.clone(),
            From::Path(path) => Some(path.clone()),
            From::Object(_) => None,
        }
    }

    fn open<'w>(self, archive: &Archive, watch: &'w Watch) -> Result<Box<dyn Source + 'w>> {
        Ok(match self {
            From::Config => Box::new(archive.open_source()?),
            From::Path(path) => Box::new(archive.open_device(&path)?),
            From::Object(object) => {
                let mut source = PythonSource::open(object, watch)?;
                source.ask_changed(archive.revisions().first())?;
                Box::new(source)
            }
        })
    }
}

pub(crate) fn plan_backup(
    folder: &Folder,
    source: &From,
    options: &BackupOptions,
) -> Result<BackupPlan> {
    let archive = folder.open()?;
    let mut plan = archive.plan_backup(options, &SystemClock)?;
    if plan.due {
        let source = match (source, archive.trusted()) {
            // What others may have written into the config is not opened.
            (From::Config, Err(error)) if error.kind() == ErrorKind::Untrusted => None,
            (From::Config, trusted) => open_for_estimate(&trusted?, source)?,
            _ => open_for_estimate(&archive, source)?,
        };
        let source = source.as_ref().map(|source| source as &dyn Source);
        plan.room = Some(archive.estimate_backup(source, options)?);
    }
    Ok(plan)
}

/// The source, as far as it is there now: what only a hook makes is not.
fn open_for_estimate(archive: &Archive, source: &From) -> Result<Option<DeviceSource>> {
    let has_before = archive.config()?.hooks.before.is_some();
    match source.device(archive) {
        Err(_) if has_before => Ok(None),
        opened => opened,
    }
}

pub(crate) fn backup(
    folder: &Folder,
    source: From,
    options: &BackupOptions,
    wait: Wait,
    watch: &Watch,
) -> Result<Option<BackupReport>> {
    changing(folder, watch, || make_backup(folder, source, options, wait, watch))
}

fn make_backup(
    folder: &Folder,
    source: From,
    options: &BackupOptions,
    wait: Wait,
    watch: &Watch,
) -> Result<Option<BackupReport>> {
    let archive = folder.open()?.trusted()?;
    if !archive.plan_backup(options, &SystemClock)?.due {
        archive.note_asked(&holder("backup"), &SystemClock);
        return Ok(None);
    }
    if archive.config()?.hooks.before.is_none() {
        // Before the lock: a source that cannot be read changes nothing at all.
        source.device(&archive).inspect_err(|error| {
            archive.record_failure("backup", &holder("backup"), error, &SystemClock);
        })?;
    }
    let guard = watch.attach(guard).ok_or(Error::Interrupted)?.map_err(|error| Error::Hook {
        hook: "before",
        message: format!("was not run: {error}"),
    })?;
    // What is due is made by another backup that is at work; whoever wants one now wants one of his own.
    let writer = match options.is_wanted_now() {
        true => Some(writer(archive, "backup", wait, watch)?),
        false => ArchiveWriter::open_for_due_backup(archive, &holder("backup"), wait.0, watch)?,
    };
    let Some(mut writer) = writer else { return Ok(None) };
    let mut hooks = writer.hooks(|config| source.path(config), guard)?;
    let open = |archive: &Archive| source.open(archive, watch);
    writer.backup_from(open, &mut hooks, options, &SystemClock, watch)
}

/// What is started to guard the hooks, or the command of a drill.
pub(crate) fn guard(py: Python<'_>) -> PyResult<Vec<OsString>> {
    let itself: Vec<OsString> = py.import("backy._again")?.call_method0("words")?.extract()?;
    Ok(backy_cli::guard_words(&itself))
}

pub(crate) fn scrub(
    folder: &Folder,
    revisions: &Several,
    mut options: ScrubOptions,
    wait: Wait,
    watch: &Watch,
) -> Result<ScrubReport> {
    let archive = folder.open()?;
    let archive = if options.check_only { archive } else { archive.trusted()? };
    let chosen = revisions.resolve(&archive)?;
    let is_all = revisions.is_all();
    if options.check_only {
        options.revisions = (!is_all).then_some(chosen);
        return archive.check(&options, &SystemClock, watch);
    }
    let names = names(archive.revisions(), &chosen);
    changing(folder, watch, || {
        let mut writer = writer(archive, "scrub", wait, watch)?;
        if !is_all {
            options.revisions = Some(numbers(writer.archive().revisions(), &names)?);
        }
        writer.scrub(&options, &SystemClock, watch)
    })
}

pub(crate) fn restore(
    folder: &Folder,
    target: Target,
    revision: &One,
    options: &RestoreOptions,
    watch: &Watch,
) -> Result<RestoreReport> {
    let archive = folder.open()?;
    let number = revision.resolve(&archive)?;
    match target {
        Target::Path(path) => archive.restore(number, &path, options, &SystemClock, watch),
        Target::File(file) => {
            let mut stream = Stream::new(file, watch);
            archive.restore_to_stream(number, &mut stream, options, watch)
        }
    }
}

pub(crate) fn rebuild(
    folder: &Folder,
    force: bool,
    wait: Wait,
    watch: &Watch,
) -> Result<RebuildReport> {
    let holder = holder("scrub --rebuild");
    changing(folder, watch, || {
        ArchiveWriter::rebuild_within(&folder.path, folder.trust, &holder, force, wait.0, watch)
    })
}

pub(crate) fn plan_maintenance(
    folder: &Folder,
    options: &MaintenanceOptions,
) -> Result<MaintenancePlan> {
    folder.open()?.plan_maintenance_at(options, &SystemClock)
}

pub(crate) fn maintenance(
    folder: &Folder,
    options: &MaintenanceOptions,
    wait: Wait,
    watch: &Watch,
) -> Result<MaintenanceReport> {
    let archive = folder.open()?.trusted()?;
    // Before the lock: a config that cannot be read changes nothing at all.
    archive.plan_maintenance_at(options, &SystemClock)?;
    changing(folder, watch, || {
        writer(archive, "maintenance", wait, watch)?.maintain(options, &SystemClock, watch)
    })
}

pub(crate) fn plan_removal(
    archive: &Archive,
    revisions: &Several,
    force: bool,
) -> Result<(Vec<usize>, MaintenancePlan)> {
    let chosen = revisions.resolve(archive)?;
    let plan = archive.plan_removal(&chosen)?;
    if !force {
        check_unpinned(archive.revisions(), &chosen)?;
    }
    Ok((chosen, plan))
}

pub(crate) fn remove(
    folder: &Folder,
    revisions: &Several,
    force: bool,
    wait: Wait,
    watch: &Watch,
) -> Result<MaintenanceReport> {
    let archive = folder.open()?.trusted()?;
    let (chosen, _) = plan_removal(&archive, revisions, force)?;
    let names = names(archive.revisions(), &chosen);
    changing(folder, watch, || {
        let mut writer = writer(archive, "rm", wait, watch)?;
        let chosen = numbers(writer.archive().revisions(), &names)?;
        if !force {
            check_unpinned(writer.archive().revisions(), &chosen)?;
        }
        writer.remove(&chosen, &SystemClock, watch)
    })
}

/// All tags that the revision has then.
pub(crate) fn tag(
    folder: &Folder,
    revision: &One,
    (add, remove): (&Tags, &Tags),
    wait: Wait,
    watch: &Watch,
) -> Result<Vec<Tag>> {
    let archive = folder.open()?;
    let number = revision.resolve(&archive)?;
    if let Some(tag) = add.0.intersection(&remove.0).next() {
        let message = format!("'{tag}' is both to be added and to be removed");
        return Err(Error::Specification { message });
    }
    check_tagged(archive.revisions(), number, &remove.0)?;
    if add.0.is_empty() && remove.0.is_empty() {
        let revision = archive.revisions().get(number).ok_or_else(no_such(number))?;
        return Ok(revision.tags.iter().cloned().collect());
    }
    let archive = archive.trusted()?;
    let names = names(archive.revisions(), &[number]);
    changing(folder, watch, || {
        let mut writer = writer(archive, "tag", wait, watch)?;
        let mut tags = Vec::new();
        for number in numbers(writer.archive().revisions(), &names)? {
            check_tagged(writer.archive().revisions(), number, &remove.0)?;
            let all = writer.tag(number, &add.0, &remove.0, &SystemClock, watch)?;
            tags = all.into_iter().collect();
        }
        Ok(tags)
    })
}

pub(crate) fn export(
    folder: &Folder,
    path: &Path,
    revision: &One,
    options: &ExportOptions,
    watch: &Watch,
) -> Result<ExportReport> {
    let archive = folder.open()?;
    let number = revision.resolve(&archive)?;
    backy_lib::export::export(&archive, number, path, options, watch)
}

pub(crate) fn import(
    old: &Path,
    folder: &Folder,
    block_size: Option<BlockSize>,
    wait: Wait,
    watch: &Watch,
) -> Result<ImportReport> {
    let archive = prepare(old, &folder.path, block_size, folder.trust)?;
    changing(folder, watch, || {
        writer(archive, "import", wait, watch)?.import(old, None, &SystemClock, watch)
    })
}
