//! The methods of `backy.Archive` that change it.

use backy_lib::BackupOptions;
use backy_lib::MaintenanceOptions;
use backy_lib::SpaceCheck;
use backy_lib::maintenance::MaintenanceRequest;
use backy_lib::maintenance::RemovalRequest;
use backy_lib::scrub::ScrubRequest;
use backy_lib::tag::TagRequest;
use pyo3::prelude::*;

use super::Archive;
use crate::cancel::Callback;
use crate::cancel::Cancel;
use crate::cancel::Control;
use crate::named;
use crate::operations;
use crate::operations::From;
use crate::specification::GivenBudget;
use crate::specification::One;
use crate::specification::Rate;
use crate::specification::Several;
use crate::specification::Tags;
use crate::specification::Wait;
use crate::watch::Watch;
use crate::watch::run;

#[pymethods]
impl Archive {
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
    /// `read_all`: read all of the source, whatever it reports about changes.
    ///
    /// The hooks of backy.toml run around the reading of any source; HookError when one of them fails.
    ///
    /// `source`: the configured one unless given: a path, or an object that gives bytes. Such an object has `size`,
    /// in bytes, and `readinto_at(offset, buffer)`, which writes to the buffer and returns how many bytes it has
    /// written: 0 only at the end. Several threads call it. An exception of the object stops the backup, leaves the
    /// archive as it was, and is raised unchanged.
    ///
    /// If the object has `holes()`, that is called once, and returns pairs of offset and length that are zero, or None
    /// if it does not know. If it has `changed_extents(since)`, that is called once, with the newest Revision or None,
    /// and returns pairs of offset and length in which something may have changed since that one was made; or None if
    /// it does not know. Holes count as zero whether or not they have changed according to that.
    ///
    /// If the object has `mark(revision)`, it keeps marks: that is called with the UUID of the revision before anything
    /// is read, and returns a text that identifies the mark, or None if it cannot make one. From then on the object is
    /// read as it was at the mark. Only then `holes` and `changed_extents` are called, the latter only if the newest
    /// revision has a mark and `identity()`, if there is one, returns the same text as then. `settle(keep)` is called
    /// at the end, however that is, with the UUID of the revision whose mark is still needed, or None: all other marks
    /// of this archive can go. doc/sources.md says when everything is read, and what is compared in any case.
    ///
    /// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(
        signature = (*, source=From::Config, force=false, tags=Tags::default(), progress=None, cancel=None,
            limit_rate=None, check_space=true, dry_run=false, as_=Tags::default(), wait=None, read_all=false),
        text_signature = "($self, *, source=None, force=False, tags=(), progress=None, cancel=None, \
            limit_rate=None, check_space=True, dry_run=False, as_=(), wait=None, read_all=False)"
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
        #[pyo3(from_py_with = named::read_all)] read_all: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (tags, scheduled) = (tags.0, as_.0);
        let (limit_rate, wait) = (limit_rate.map(|rate| rate.0), wait.unwrap_or_default());
        let space = if check_space { SpaceCheck::Require } else { SpaceCheck::Explain };
        let options = BackupOptions {
            force,
            tags,
            scheduled,
            limit_rate,
            space,
            read_all,
            ..BackupOptions::default()
        };
        let control = Control::new(progress, cancel);
        if dry_run {
            let plan = |watch: &_| operations::plan_backup(&self.folder, source, options, watch);
            return run(py, control, plan)?.to_python(py);
        }
        let backup = |watch: &_| operations::backup(&self.folder, source, options, wait, watch);
        run(py, control, backup)?.to_python(py)
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
}
