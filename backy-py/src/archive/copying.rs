//! The methods of `backy.Archive` for copies.

use backy_lib::origin::Address;
use backy_lib::push::PushRequest;
use pyo3::prelude::*;

use super::{Archive, new_folder};
use crate::cancel::{Callback, Cancel, Control};
use crate::named::{self, GivenAddress, GivenPath, Ssh};
use crate::operations::{self, Folder};
use crate::pull::{Pull, ssh_options};
use crate::specification::{Rate, Several, Wait};
use crate::watch::{Watch, run};

#[pymethods]
impl Archive {
    /// Pull revisions of another archive into this one, its copy; only the plan with `dry_run`.
    ///
    /// Takes over, oldest first, the revisions of the origin that are newer than the newest one here, with their names,
    /// times and tags. Reads only blocks that differ, and stores a revision only if its digest is that of the origin.
    /// This archive keeps and expires revisions by its own schedule. The origin is neither locked nor changed.
    ///
    /// The report names what is missing; its is_complete is False then. A block that the origin has lost raises
    /// nothing: the revision is stored, and nobody can read the block here either. After an error or a stop, the
    /// revisions that were pulled stay, and the next pull continues. To create a copy use backy.pull().
    ///
    /// Raises SourceError when the origin cannot be reached, has other content under the same name or sends what it did
    /// not offer, SpecificationError when its blocks have another size, NoSuchRevisionError when it lacks a revision
    /// that `revisions` names, ArchiveNotFoundError when there is no archive.
    ///
    /// `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH"; without it, the `url` in [origin] of
    /// backy.toml. `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer
    /// than those here and that the schedule here keeps.
    /// `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
    /// words; nobody is asked for a password. `limit_rate`: read at most so many bytes of the origin a second, such as
    /// 1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk.
    /// `progress` is called with a Progress while it lasts, for one revision after the other. `cancel`: a CancelToken
    /// that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(signature = (origin=None, *, revisions=None, ssh=None, limit_rate=None, check_space=true, dry_run=false,
        progress=None, cancel=None, wait=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn pull<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::origin)] origin: Option<GivenAddress>,
        #[pyo3(from_py_with = named::revisions)] revisions: Option<Several>,
        #[pyo3(from_py_with = named::ssh)] ssh: Option<Ssh>,
        #[pyo3(from_py_with = named::limit_rate)] limit_rate: Option<Rate>,
        #[pyo3(from_py_with = named::check_space)] check_space: bool,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let control = Control::new(progress, cancel);
        let pull = Pull { origin, revisions, ssh, limit_rate, check_space, dry_run, wait, control };
        // A folder that was deleted since is an error, and no reason for a new copy.
        pull.run_in(py, &self.folder, |folder: &Folder| folder.open().map(drop))
    }

    /// Push revisions of this archive to its copy, which is created if there is none; only the plan with `dry_run`.
    ///
    /// The copy pulls them, as Archive.pull() there would: see there. For hosts that the copy cannot reach. Can only
    /// add revisions. Returns the PullReport of the copy, or its PullPlan.
    ///
    /// Raises SourceError when the other machine cannot be reached, refuses, or reports an error.
    ///
    /// `to`: where the copy is: a path, or "ssh://[USER@]HOST[:PORT]/PATH". `revisions`: which ones, as
    /// help(backy.Archive) says; without it, all that are newer than those of the copy and that its schedule keeps.
    /// `ssh`: the program that connects to another machine, and its arguments, such as "ssh -i KEY" or a sequence of
    /// words; nobody is asked for a password. `limit_rate`: send at most so many bytes a second, such as 1048576 or
    /// "100M".
    /// `progress` is called with a Progress while a copy on this machine pulls. `cancel`: a CancelToken that stops it.
    /// `wait`: how long to wait for the lock of a copy on this machine: seconds, a timedelta or text such as "10m".
    #[pyo3(signature = (to, *, revisions=None, ssh=None, limit_rate=None, dry_run=false, progress=None, cancel=None,
        wait=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn push<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::to)] to: GivenAddress,
        #[pyo3(from_py_with = named::revisions)] revisions: Option<Several>,
        #[pyo3(from_py_with = named::ssh)] ssh: Option<Ssh>,
        #[pyo3(from_py_with = named::limit_rate)] limit_rate: Option<Rate>,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Folder { path: folder, trust } = self.folder.clone();
        let (to, wait) = (new_copy(to)?, wait.unwrap_or_default());
        let (revisions, limit_rate) = (revisions.map(|it| it.0), limit_rate.map(|it| it.0));
        let request = |watch: &Watch| {
            let ssh = ssh_options(ssh, watch);
            PushRequest { folder, to, ssh, trust, revisions, limit_rate }
        };
        let control = Control::new(progress, cancel);
        if dry_run {
            let plan = |watch: &Watch| request(watch).plan(&operations::caller(wait, watch));
            return run(py, control, plan)?.to_python(py);
        }
        let push = |watch: &Watch| request(watch).run(&operations::caller(wait, watch));
        run(py, control, push)?.to_python(py)
    }
}

/// Where to create a copy.
fn new_copy(GivenAddress(to): GivenAddress) -> PyResult<Address> {
    if let Some(folder) = to.folder() {
        new_folder("to", &GivenPath(folder.to_owned()))?;
    }
    Ok(to)
}
