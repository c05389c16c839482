//! The methods of `backy.Archive` for copies.

use pyo3::prelude::*;

use super::Archive;
use crate::cancel::{Callback, Cancel, Control};
use crate::named::{self, Address};
use crate::operations::Folder;
use crate::pull::Pull;
use crate::specification::{Rate, Several, Wait};

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
    /// Raises SourceError when the origin has other content under the same name or sends what it did not offer,
    /// SpecificationError when its blocks have another size, NoSuchRevisionError when it lacks a revision that
    /// `revisions` names, ArchiveNotFoundError when there is no archive.
    ///
    /// `origin`: the other archive: a path. `revisions`: which ones of the origin, as help(backy.Archive) says; without
    /// it, all that are newer than those here and that the schedule here keeps. `limit_rate`: read at most so many
    /// bytes of the origin a second, such as 1048576 or "100M". `check_space=False`: start even if a revision is not
    /// expected to fit on the disk.
    /// `progress` is called with a Progress while it lasts, for one revision after the other. `cancel`: a CancelToken
    /// that stops it.
    /// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
    #[pyo3(signature = (origin, *, revisions=None, limit_rate=None, check_space=true, dry_run=false, progress=None,
        cancel=None, wait=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn pull<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = named::origin)] origin: Address,
        #[pyo3(from_py_with = named::revisions)] revisions: Option<Several>,
        #[pyo3(from_py_with = named::limit_rate)] limit_rate: Option<Rate>,
        #[pyo3(from_py_with = named::check_space)] check_space: bool,
        #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
        progress: Option<Callback>,
        cancel: Option<Cancel>,
        #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let control = Control::new(progress, cancel);
        let pull = Pull { origin, revisions, limit_rate, check_space, dry_run, wait, control };
        // A folder that was deleted since is an error, and no reason for a new copy.
        pull.run_in(py, &self.folder, |folder: &Folder| folder.open().map(drop))
    }
}
