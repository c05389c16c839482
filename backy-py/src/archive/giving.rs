//! The methods of `backy.Archive` that write a revision somewhere else.

use backy_lib::RestoreOptions;
use backy_lib::export::{ExportOptions, RbdDiffOptions};
use pyo3::prelude::*;

use super::{Archive, absolute, new_folder};
use crate::cancel::Callback;
use crate::cancel::Cancel;
use crate::cancel::Control;
use crate::drill;
use crate::error::wrong;
use crate::named;
use crate::named::GivenPath;
use crate::operations;
use crate::specification::Limit;
use crate::specification::One;
use crate::specification::Wait;
use crate::stream::Target;
use crate::watch::Watch;
use crate::watch::run;

#[pymethods]
impl Archive {
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
            let id = revision.resolve(&archive)?;
            archive.look_at_target(id, &target.0, watch)
        };
        run(py, Control::new(progress, cancel), look)?.to_python(py)
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

    /// Write a revision in the format "rbd diff v1": `rbd import-diff` makes a snapshot of it, named by its UUID.
    ///
    /// `since`: the revision that the image in Ceph has already, as such a snapshot; then there is only what differs
    /// from it. Without it there is all data, for an empty image. The format has no checksum: compare what arrives
    /// with the `sha256` of the report. A path must not exist yet. After an error, what was written to a file object
    /// is not complete, and no reader takes it for complete.
    ///
    /// `target`: a path, or a binary file object. `revision`: which one, as help(backy.Archive) says.
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    #[pyo3(
        signature = (target, revision=One::latest(), *, since=None, progress=None, cancel=None),
        text_signature = "($self, target, revision='latest', *, since=None, progress=None, cancel=None)"
    )]
    fn export_rbd_diff<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::target)] target: Target,
        #[pyo3(from_py_with = named::revision)] revision: One,
        #[pyo3(from_py_with = named::since)] since: Option<One>,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let export = |watch: &Watch| {
            let archive = self.folder.open()?;
            let id = revision.resolve(&archive)?;
            let since = since.as_ref().map(|since| since.resolve(&archive)).transpose()?;
            let options = RbdDiffOptions { since, threads: None };
            operations::export_rbd_diff(&archive, target, id, &options, watch)
        };
        run(py, Control::new(progress, cancel), export)?.to_python(py)
    }
}
