//! `backy.pull`, and what it has in common with the method of an archive that exists.

use std::sync::Arc;

use backy_lib::origin::SshOptions;
use backy_lib::pull::{PullOptions, PullRequest};
use backy_lib::{Result, SpaceCheck};
use pyo3::prelude::*;

use crate::archive::{absolute, new_folder, trust_of};
use crate::cancel::{Callback, Cancel, Control};
use crate::named::{self, GivenAddress, GivenPath, Ssh};
use crate::operations::{self, Folder};
use crate::specification::{Rate, Several, Wait};
use crate::watch::{Watch, run};

/// How to pull.
pub(crate) struct Pull {
    /// `None` for the one in the config of the copy.
    pub(crate) origin: Option<GivenAddress>,
    pub(crate) revisions: Option<Several>,
    pub(crate) ssh: Option<Ssh>,
    pub(crate) limit_rate: Option<Rate>,
    pub(crate) check_space: bool,
    pub(crate) dry_run: bool,
    pub(crate) wait: Option<Wait>,
    pub(crate) control: Control,
}

impl Pull {
    /// Pulls into a folder, or plans that. `check` looks at the folder before.
    pub(crate) fn run_in<'py>(
        self,
        py: Python<'py>,
        folder: &Folder,
        check: impl FnOnce(&Folder) -> Result<()> + Send,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = PullOptions {
            revisions: self.revisions.map(|given| given.0),
            limit_rate: self.limit_rate.map(|given| given.0),
            space: if self.check_space { SpaceCheck::Require } else { SpaceCheck::Explain },
            ..PullOptions::default()
        };
        let (origin, ssh, wait) = (self.origin, self.ssh, self.wait.unwrap_or_default());
        let Folder { path, trust } = folder.clone();
        let request = |watch: &Watch| {
            check(folder)?;
            let ssh = ssh_options(ssh, watch);
            match origin {
                Some(GivenAddress(origin)) => {
                    Ok(PullRequest { origin, ssh, folder: path, remember: true, trust, options })
                }
                None => PullRequest::configured(path, trust, ssh, options),
            }
        };
        if self.dry_run {
            let plan = |watch: &Watch| request(watch)?.plan(&operations::caller(wait, watch));
            return run(py, self.control, plan)?.to_python(py);
        }
        let pull = |watch: &Watch| operations::pull(folder, &request(watch)?, wait, watch);
        run(py, self.control, pull)?.to_python(py)
    }
}

/// How to reach another machine. Nobody is there to answer a question; what ssh prints goes to the log.
pub(crate) fn ssh_options(given: Option<Ssh>, watch: &Watch) -> SshOptions {
    SshOptions {
        program: given.map(|Ssh(words)| words),
        name: concat!("backy ", env!("CARGO_PKG_VERSION"), " of Python").to_owned(),
        lines: Some(Arc::new(watch.noting())),
        ..SshOptions::default()
    }
}

/// Pull revisions of another archive into the copy at `path`, which is created if there is none. Returns a PullReport;
/// with `dry_run` the PullPlan.
///
/// For a copy that exists it is the same as Archive.pull(); help(backy.Archive.pull) has more. A new copy gets the
/// block size of the origin, and the standard schedule in its backy.toml.
///
/// `path`: the folder of the copy. `origin`: the other archive: a path, or "ssh://[USER@]HOST[:PORT]/PATH".
/// `revisions`: which ones of the origin, as help(backy.Archive) says; without it, all that are newer than those of
/// the copy and that its schedule keeps. `ssh`: the program that connects to another machine, and its arguments, such
/// as "ssh -i KEY" or a sequence of words. `limit_rate`: read at most so many bytes of the origin a second, such as
/// 1048576 or "100M". `check_space=False`: start even if a revision is not expected to fit on the disk. `trust`: also
/// when others than the caller and root can change the folder.
/// `progress` is called with a Progress while it lasts. `cancel`: a CancelToken that stops it.
/// `wait`: how long to wait for the lock: seconds, a timedelta or text such as "10m".
#[pyfunction]
#[pyo3(signature = (path, origin, *, revisions=None, ssh=None, limit_rate=None, check_space=true, dry_run=false,
    trust=false, progress=None, cancel=None, wait=None))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments")]
pub(crate) fn pull<'py>(
    py: Python<'py>,
    #[pyo3(from_py_with = named::path)] path: GivenPath,
    #[pyo3(from_py_with = named::origin)] origin: GivenAddress,
    #[pyo3(from_py_with = named::revisions)] revisions: Option<Several>,
    #[pyo3(from_py_with = named::ssh)] ssh: Option<Ssh>,
    #[pyo3(from_py_with = named::limit_rate)] limit_rate: Option<Rate>,
    #[pyo3(from_py_with = named::check_space)] check_space: bool,
    #[pyo3(from_py_with = named::dry_run)] dry_run: bool,
    #[pyo3(from_py_with = named::trust)] trust: bool,
    progress: Option<Callback>,
    cancel: Option<Cancel>,
    #[pyo3(from_py_with = named::wait)] wait: Option<Wait>,
) -> PyResult<Bound<'py, PyAny>> {
    let folder = Folder { path: absolute(new_folder("path", &path)?)?, trust: trust_of(trust) };
    let control = Control::new(progress, cancel);
    let origin = Some(origin);
    let pull = Pull { origin, revisions, ssh, limit_rate, check_space, dry_run, wait, control };
    pull.run_in(py, &folder, |_| Ok(()))
}
