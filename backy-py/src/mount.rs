//! `backy.Mount`.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backy_lib::mount::{MountOptions, Mounted, group_number, mount};
use backy_lib::progress::{Event, Observer};
use backy_lib::{Error, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

use crate::error::{exception, wrong};
use crate::logging::{Line, log};
use crate::named;
use crate::operations::Folder;

/// How long somebody who uses the mount at its end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);

/// A group, as Python gives it.
pub(crate) enum Group {
    Number(u32),
    Name(String),
}

impl<'py> FromPyObject<'_, 'py> for Group {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(name) = object.cast::<PyString>() {
            return Ok(Group::Name(name.to_cow()?.into_owned()));
        }
        if object.is_instance_of::<PyInt>() && !object.is_instance_of::<PyBool>() {
            return object.extract().map(Group::Number);
        }
        let found = object.get_type().name()?;
        let message = format!("found {found}, expected the number or the name of a group");
        Err(PyTypeError::new_err(message))
    }
}

impl Group {
    fn number(self) -> PyResult<u32> {
        match self {
            Group::Number(number) => group_number(&number.to_string()),
            Group::Name(name) => group_number(&name),
        }
        .map_err(wrong)
    }
}

pub(crate) struct MountArguments {
    pub(crate) mountpoint: PathBuf,
    pub(crate) writable: bool,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) gid: Option<Group>,
    pub(crate) allow_other: bool,
    pub(crate) cache: u64,
}

/// An archive that is mounted: what Archive.mount() gives, for a `with` block.
///
/// When nothing refers to it any more it is taken from its place.
#[pyclass(module = "backy", frozen)]
pub(crate) struct Mount {
    path: PathBuf,
    /// `None` once it is unmounted. Only locked without the interpreter, which the holder may need.
    mounted: Mutex<Option<Mounted>>,
}

impl Mount {
    pub(crate) fn new(py: Python<'_>, folder: &Folder, given: MountArguments) -> PyResult<Self> {
        let writable = match (given.writable, given.dir) {
            (true, Some(dir)) => Some(dir),
            (true, None) => Some(py.import("tempfile")?.call_method0("gettempdir")?.extract()?),
            (false, None) => None,
            (false, Some(_)) => {
                return Err(wrong("dir is for what is written; give writable=True".to_owned()));
            }
        };
        let options = MountOptions {
            allow_other: given.allow_other,
            gid: given.gid.map(Group::number).transpose()?,
            writable,
            cache_bytes: given.cache,
            ..MountOptions::default()
        };
        let path = given.mountpoint;
        let mounted = py.detach(|| {
            let path = std::path::absolute(&path).map_err(Error::io(&path, "find the folder"))?;
            let archive = folder.open()?;
            let mounted = mount(&archive, &path, &options, Arc::new(Log::start()?))?;
            Ok((path, mounted))
        });
        let (path, mounted) = mounted.map_err(exception)?;
        Ok(Mount { path, mounted: Mutex::new(Some(mounted)) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Mounted>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it away, and waits until its threads have ended.
    fn take_away(&self) -> Result<()> {
        let mut mounted = self.lock();
        if let Some(mounted) = &*mounted {
            mounted.unmount()?;
        }
        mounted.take().map_or(Ok(()), Mounted::join)
    }
}

#[pymethods]
impl Mount {
    /// The folder where it is mounted.
    #[getter]
    fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still in its place: not after unmount(), nor after `umount`.
    #[getter]
    fn is_mounted(&self, py: Python<'_>) -> bool {
        py.detach(|| self.lock().as_ref().is_some_and(Mounted::is_mounted))
    }

    /// Take it away; nothing happens when that has been done.
    ///
    /// Raises MountError when it is still in use after some seconds; then it stays. `lazy`: take it from its place at once;
    /// whoever uses it goes on until closing what is open, as long as this process lives.
    #[pyo3(signature = (*, lazy=false))]
    fn unmount(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = named::lazy)] lazy: bool,
    ) -> PyResult<()> {
        if lazy {
            let detached = || self.lock().as_ref().map_or(Ok(()), Mounted::detach);
            return py.detach(detached).map_err(exception);
        }
        let began = Instant::now();
        loop {
            match py.detach(|| self.take_away()) {
                Err(Error::Mount { .. }) if began.elapsed() < PATIENCE => {}
                done => return done.map_err(exception),
            }
            py.check_signals()?;
            py.detach(|| std::thread::sleep(TICK));
        }
    }

    /// The folder where it is mounted.
    fn __enter__(&self) -> &Path {
        &self.path
    }

    /// Unmounts.
    #[pyo3(signature = (*_exception))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _exception: &Bound<'_, pyo3::types::PyTuple>,
    ) -> PyResult<()> {
        self.unmount(py, false)
    }

    fn __reduce__(&self) -> PyResult<()> {
        let message = "a backy.Mount cannot be pickled or copied: it is a mount of this process";
        Err(PyTypeError::new_err(message))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let path = self.path.as_os_str().into_pyobject(py)?;
        Ok(format!("<backy.Mount {}>", path.repr()?))
    }
}

/// Takes what is found wrong to Python's log, by a thread of its own: those that serve the mount must never wait for the
/// interpreter, since whoever holds that may be waiting for them.
struct Log {
    lines: Sender<Line>,
}

impl Log {
    fn start() -> Result<Self> {
        let (sender, receiver) = channel();
        let write = move || {
            for line in receiver {
                // Nobody could be told that the log does not work, or that the interpreter has gone.
                let _ = Python::try_attach(|py| log(py, [line]));
            }
        };
        let thread = std::thread::Builder::new().name("backy log".to_owned()).spawn(write);
        thread.map_err(Error::io("backy", "start a thread"))?;
        Ok(Log { lines: sender })
    }
}

impl Observer for Log {
    fn event(&self, event: &Event) {
        if let Event::Finding(text) | Event::Note(text) = event {
            let _ = self.lines.send(Line::Warning(text.clone()));
        }
    }
}
